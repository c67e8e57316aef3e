"""The configuration: one YAML file, read once, checked whole, frozen.

Owns every key, its default and what is said about it (``config.example.yaml``, ``secir init`` and
docs/settings.md are made from here), and pydantic. Secrets are never in the file: see ``bot.credentials``.
Loading looks at files and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bot import config_file, config_mistakes
from bot.config_file import KeyPath
from bot.config_values import DOMAIN, MATRIX_ID, duration, needs_protection
from bot.credentials import Credentials, read_credentials
from trust.errors import ConfigurationWrong


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """Paths in the file are relative to the folder of the file."""
    folder: Path = info.context["folder"] if info.context else Path.cwd()
    return folder / path


def _is_readable(path: Path) -> Path:
    if not os.access(path, os.R_OK):
        raise ValueError(f"names the file {path}, which is not there or can't be read")
    return path


Duration = Annotated[timedelta, BeforeValidator(duration)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Switch = Annotated[bool, Field(strict=True)]
FilePath = Annotated[Path, AfterValidator(_from_folder)]
PresentFile = Annotated[Path, AfterValidator(_from_folder), AfterValidator(_is_readable)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, values: object) -> object:
        """A key without a value, as a section whose keys are all comments, is as good as left out."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, Mapping) else values


class Database(Section):
    """Where the bridge remembers."""

    url: Text | None = Field(
        None,
        description="Leave out to use SQLite in a file below data_dir. For PostgreSQL: its URL, without the password.",
        examples=["postgresql://secir@localhost/secir"],
    )
    password_file: FilePath | None = Field(
        None,
        description="File with the password of the PostgreSQL user, or set SECIR_DATABASE_PASSWORD.",
        examples=["database.password"],
    )

    @field_validator("url")
    @classmethod
    def _postgresql_without_password(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme != "postgresql" or not parts.hostname or len(parts.path) < 2:
            raise ValueError("must begin with postgresql:// and name a host and a database")
        if parts.password is not None:
            raise ValueError("must not hold the password. Move it to a file and name the file in password_file")
        return url


class Matrix(Section):
    """The homeserver and the bot's account on it."""

    homeserver: Text = Field(
        description="Address of the homeserver's client API.", examples=["https://matrix.example.org"]
    )
    allow_unencrypted: Switch = Field(
        False, description="Allow http:// to a homeserver on another machine. Only behind a protected network."
    )
    user_id: Text = Field(description="The bot's own account. No person may use it.", examples=["@secir:example.org"])
    password_file: FilePath | None = Field(
        None,
        description=(
            "File with the password of the account, or set SECIR_MATRIX_PASSWORD. "
            "Only `secir identity` needs it; without both it asks for the password."
        ),
        examples=["matrix.password"],
    )
    device_name: Text = Field("SECIR bridge", description="Name of the bot's device, as others see it.")
    sync_timeout: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=5),
        description="How long the homeserver may hold a request for news.",
    )
    reconcile_every: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(seconds=1),
        le=timedelta(days=1),
        description="How often each room is compared with the list of its members.",
    )

    @field_validator("homeserver")
    @classmethod
    def _base_address(cls, homeserver: str) -> str:
        parts = urlsplit(homeserver)
        if (
            parts.scheme not in {"https", "http"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError("must begin with https:// and name a host")
        return homeserver.rstrip("/")

    @field_validator("allow_unencrypted")
    @classmethod
    def _protected(cls, allowed: bool, info: ValidationInfo) -> bool:
        parts = urlsplit(info.data.get("homeserver", "https://"))
        needs_protection(
            "the homeserver is on another machine and would be reached",
            parts.hostname or "",
            parts.scheme == "https",
            allowed,
        )
        return allowed

    @field_validator("user_id")
    @classmethod
    def _whole_id(cls, user_id: str) -> str:
        if not MATRIX_ID.fullmatch(user_id):
            raise ValueError("must be a whole Matrix id in small letters")
        return user_id


class Listener(Section):
    """A port on which mail for the lists is taken."""

    protocol: Literal["lmtp", "smtp"] = Field(
        "lmtp", description="lmtp behind Postfix on the same machine (recommended), or smtp."
    )
    host: Text = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(10024, description="Port to listen on.")
    tls_certificate_file: PresentFile | None = Field(
        None, description="Certificate chain (PEM), to offer STARTTLS.", examples=["tls/fullchain.pem"]
    )
    tls_key_file: PresentFile | None = Field(
        None, description="Secret key of that certificate (PEM).", examples=["tls/privkey.pem"]
    )
    allow_unencrypted: Switch = Field(
        False, description="Allow other machines to hand over mail without TLS. Only behind a protected network."
    )

    @field_validator("tls_key_file")
    @classmethod
    def _both_or_none(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_certificate_file") is None):
            raise ValueError("belongs together with tls_certificate_file. Give both of them or none")
        return key

    @field_validator("allow_unencrypted")
    @classmethod
    def _protected(cls, allowed: bool, info: ValidationInfo) -> bool:
        protected = info.data.get("tls_certificate_file") is not None
        needs_protection("other machines could hand over mail", info.data.get("host", "localhost"), protected, allowed)
        return allowed


class Relay(Section):
    """The mail server that takes our mail onward."""

    host: Text = Field("127.0.0.1", description="Host name of the server.")
    port: Port = Field(25, description="Usually 25 on the same machine, 587 with starttls, 465 with tls.")
    tls: Literal["none", "starttls", "tls"] = Field(
        "none", description="none (only on the same machine), starttls, or tls from the first byte."
    )
    allow_unencrypted: Switch = Field(
        False, description="Allow tls: none to another machine. Only behind a protected network."
    )
    username: Text | None = Field(None, description="User name, if the server wants a login.", examples=["secir"])
    password_file: FilePath | None = Field(
        None, description="File with the password, or set SECIR_SMTP_PASSWORD.", examples=["smtp.password"]
    )
    authorities_file: PresentFile | None = Field(
        None,
        description="Certificates (PEM) to trust in place of the system's, if the server has one of your own making.",
        examples=["tls/authority.pem"],
    )
    timeout: Duration = Field(
        timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="How long to wait for each answer of the server, up to the mail itself.",
    )
    connections: int = Field(
        8,
        strict=True,
        ge=2,
        le=50,
        description="How many mails are handed to the server at once, each on its connection.",
    )

    @field_validator("allow_unencrypted")
    @classmethod
    def _protected(cls, allowed: bool, info: ValidationInfo) -> bool:
        needs_protection(
            "the relay is on another machine and would be reached",
            info.data.get("host", "localhost"),
            info.data.get("tls") != "none",
            allowed,
        )
        return allowed


class Mail(Section):
    """Mail in and out."""

    domain: Text = Field(
        description="Domain of the list addresses. All of its mail must come to this bridge.",
        examples=["lists.example.org"],
    )
    hostname: Text | None = Field(
        None,
        description="What the bridge calls itself to other mail servers. Leave out to use the domain.",
        examples=["bridge.example.org"],
    )
    max_message_mb: int = Field(25, strict=True, ge=1, le=100, description="Largest mail that is taken, in megabytes.")
    listeners: tuple[Listener, ...] = Field(
        (Listener(),), min_length=1, max_length=10, description="The ports on which mail is taken."
    )
    relay: Relay = Field(default_factory=Relay, description="The mail server that takes our mail onward.")

    @field_validator("domain", "hostname")
    @classmethod
    def _domain(cls, domain: str | None) -> str | None:
        if domain is not None and not DOMAIN.fullmatch(domain):
            raise ValueError("must be a domain name in small letters (a name in other letters in its xn-- form)")
        return domain


class Limits(Section):
    """How much and how long."""

    max_attachment_mb: int = Field(10, strict=True, ge=1, le=100, description="Largest file of a post, in megabytes.")
    max_attachments: int = Field(10, strict=True, ge=0, le=100, description="How many files a post may have.")
    undecryptable_notice_after: Duration = Field(
        timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(days=1),
        description="When the room is told of a message that the bridge can't read. It goes on trying.",
    )
    signature_max_age: Duration = Field(
        timedelta(days=7),
        ge=timedelta(days=1),
        le=timedelta(days=90),
        description="Older signatures are refused, so that an old mail can't be sent again as new.",
    )
    give_up_after: Duration = Field(
        timedelta(days=5),
        ge=timedelta(minutes=1),
        le=timedelta(days=30),
        description="How long a post is tried again when its reader can't be reached. Then author and admins are told.",
    )
    max_bounces: int = Field(
        3,
        strict=True,
        ge=1,
        le=100,
        description="After so many mails that came back within 7 days, an address gets nothing until it is resumed.",
    )
    keep_delivered: Duration = Field(
        timedelta(days=1),
        ge=timedelta(0),
        le=timedelta(days=90),
        description="How long the sealed text of a post is kept after everybody has it. Ids stay, for threads.",
    )
    keep_undelivered: Duration = Field(
        timedelta(days=30),
        ge=timedelta(days=1),
        le=timedelta(days=365),
        description="How long what was held, refused or given up is kept for `secir queue retry`.",
    )
    min_free_mb: int = Field(
        100,
        strict=True,
        ge=0,
        description="With less free on the disk of data_dir (in megabytes) no mail is taken: its server keeps it.",
    )


class Log(Section):
    """What the bridge writes to standard error. Never contents, keys or addresses."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is told.")
    format: Literal["json", "console"] = Field("json", description="json for machines, console for people.")


class Config(Section):
    """Everything the bridge is told by its operator."""

    data_dir: FilePath = Field(
        Path("data"), description="Folder for all that the bridge keeps. Only its own user may read it."
    )
    secret_key_file: FilePath = Field(
        Path("secret.key"),
        description=(
            "File with the secret key (64 hexadecimal digits), or set SECIR_SECRET_KEY. "
            "It opens everything in data_dir: keep a copy in a safe place, apart from the backups."
        ),
    )
    database: Database = Field(default_factory=Database, description="Where the bridge remembers.")
    matrix: Matrix = Field(description="The homeserver and the bot's account on it.")
    mail: Mail = Field(description="Mail in and out.")
    limits: Limits = Field(default_factory=Limits, description="How much and how long.")
    log: Log = Field(
        default_factory=Log,
        description="What the bridge writes to standard error. Never contents, keys or addresses.",
    )

    _source: Path = PrivateAttr(default=Path("secir.yaml"))
    _credentials: Credentials = PrivateAttr(default_factory=Credentials)

    @property
    def source(self) -> Path:
        """The file that this was read from."""
        return self._source

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    def with_credentials(self, found: Credentials, source: Path) -> Self:
        self._credentials, self._source = found, source
        return self


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Raises ConfigurationWrong with all mistakes at once: each with its line, its key, what is wrong and the fix."""
    document = config_file.read(path)
    found, mistakes = read_credentials(lambda key: _given(document.values, key), path.parent, environ)
    try:
        config = Config.model_validate(document.values, context={"folder": path.parent})
    except ValidationError as error:
        mistakes = [*config_mistakes.explain(error.errors(), Config), *mistakes]
    if mistakes:
        raise ConfigurationWrong(mistakes=config_mistakes.listed(mistakes, document))
    return config.with_credentials(found, path)


def _given(values: Any, key: KeyPath) -> str | None:
    """The text that the file gives for a key, or its default; None if there is none or no text."""
    for word in key:
        values = values.get(word) if isinstance(values, Mapping) else None
    if values is None and len(key) == 1:
        return str(Config.model_fields[str(key[0])].default)
    return values if isinstance(values, str) else None
