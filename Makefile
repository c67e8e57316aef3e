# The commands of this project. `make` alone lists them.
#
# Everything lands below this folder: .venv (the product and its tools), .parts (Synapse, in an environment of its own
# because its packages are not ours). Stamp files make repeated runs quick.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
# Each worker starts its own Synapse and PostgreSQL; on two cores three are quickest, since most tests wait for servers.
WORKERS ?= 3
BIN := .venv/bin
TYPED := bot bridges storage trust demo tests/parts tests/crash tools
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header --annotation-style=line \
	--no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: help demo test crash check check-style check-types check-behaviour format docs parts lock clean

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: parts ## Show a conversation between an encrypted room and OpenPGP mail (KEEP=1 leaves it running)
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

test: parts ## Run every test, on real Synapse, GnuPG, SMTP, SQLite and PostgreSQL (ARGS="-k room" for some)
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not long" $(ARGS)

crash: parts ## Long outages and loads, then kill the bridge hundreds of times: what is lost? (KILLS=20 for fewer)
	@$(BIN)/python -m pytest -m long
	@$(BIN)/python -m tests.crash

check: .venv/.stamp ## Format, lint, types, import rules, unit and docs tests: under a minute
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target check-style check-types check-behaviour

check-style:
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo

check-types:
	@$(BIN)/mypy $(TYPED)

check-behaviour:
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/unit tests/docs

format: .venv/.stamp ## Lay out the code as `make check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: .venv/.stamp ## Write config.example.yaml, docs/settings.md and docs/commands.md anew from the code
	@$(BIN)/python -m tools.write_docs

parts: .parts/.system .venv/.stamp .parts/synapse/.stamp ## Install everything that demo and test need

lock: .venv/.stamp ## Choose the newest versions anew, and write the lock files
	@$(BIN)/pip install --quiet --disable-pip-version-check pip-tools
	@$(COMPILE) --upgrade --output-file requirements.lock pyproject.toml
	@$(COMPILE) --upgrade --output-file requirements-dev.lock --constraint requirements.lock pyproject.toml requirements-dev.in
	@$(COMPILE) --upgrade --output-file requirements-synapse.lock requirements-synapse.in

clean: ## Remove what these commands made
	@rm -rf .venv .parts .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.parts/.system: tools/install-parts
	@tools/install-parts
	@mkdir -p .parts && touch $@

.venv/.stamp: requirements-dev.lock pyproject.toml tools/make-environment
	@PYTHON="$(PYTHON)" tools/make-environment .venv requirements-dev.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.parts/synapse/.stamp: requirements-synapse.lock tools/make-environment | .parts/.system
	@PYTHON="$(PYTHON)" tools/make-environment .parts/synapse requirements-synapse.lock
	@touch $@
