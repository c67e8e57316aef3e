# syntax=docker/dockerfile:1
# SECIR in a container: no root, nothing writable but /var/lib/secir and /tmp. See deploy/compose.yaml.

FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/secir
WORKDIR /src
# The locked packages first: they change less often than we do.
COPY requirements.lock ./
RUN /opt/secir/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
# The back end that builds the package comes by hash as well; it stays behind in this stage.
COPY requirements-dev.lock ./
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY bot bot
COPY bridges bridges
COPY storage storage
COPY trust trust
RUN /opt/build/bin/python -c 'from hatchling.build import build_wheel; build_wheel("/tmp")' \
    && /opt/secir/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index /tmp/secir-*.whl \
    && /opt/secir/bin/python -m compileall -q /opt/secir/lib

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 gpg gpg-agent ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/secir --shell /usr/sbin/nologin secir \
    && install -d -o secir -g secir -m 0700 /var/lib/secir \
    && install -d -o root -g secir -m 0750 /etc/secir
COPY --from=build /opt/secir /opt/secir
ENV PATH=/opt/secir/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SECIR_CONFIG=/etc/secir/secir.yaml
USER secir
WORKDIR /var/lib/secir
VOLUME /var/lib/secir
EXPOSE 10024
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 CMD ["secir", "health"]
ENTRYPOINT ["secir"]
CMD ["run"]
