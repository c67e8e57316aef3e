"""The configuration: complete, frozen, and all its mistakes told at once with their fix."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from bot import config, parts
from bot.config import Config
from bot.config_values import in_units, is_this_machine
from trust.errors import BadValue, ConfigurationWrong

SECRET = "0123456789abcdef" * 4
LEAST = """
matrix:
  homeserver: https://matrix.example.org
  user_id: "@secir:example.org"
mail:
  domain: lists.example.org
"""
ENVIRON = {"SECIR_SECRET_KEY": SECRET}

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a configuration of this text."""

    def load_text(text: str = LEAST, environ: Mapping[str, str] = ENVIRON) -> Config:
        path = tmp_path / "secir.yaml"
        path.write_text(text, "utf-8")
        return config.load(path, environ)

    return load_text


def mistakes(load: Load, text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(ConfigurationWrong) as raised:
        load(text, environ)
    return str(raised.value.params["mistakes"]).splitlines()


def with_line(section: str, line: str) -> str:
    """LEAST with one more line at the top of a section."""
    if section:
        return LEAST.replace(f"{section}:\n", f"{section}:\n  {line}\n")
    return f"{LEAST}{line}\n"


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# --- what is right ---------------------------------------------------------------------------------------------------


def test_three_keys_are_enough(load: Load) -> None:
    loaded = load()
    assert (loaded.mail.listeners[0].protocol, loaded.mail.listeners[0].port) == ("lmtp", 10024)
    assert timedelta(days=7) == loaded.limits.signature_max_age
    assert bytes.fromhex(SECRET) == loaded.credentials.secret_key


def test_paths_are_relative_to_the_folder_of_the_file(load: Load, tmp_path: Path) -> None:
    loaded = load(with_line("", "data_dir: state"))
    assert tmp_path / "state" == loaded.data_dir
    assert tmp_path / "secret.key" == loaded.secret_key_file
    assert tmp_path / "secir.yaml" == loaded.source


def test_an_absolute_path_stays_as_it_is(load: Load) -> None:
    assert Path("/var/lib/secir") == load(with_line("", "data_dir: /var/lib/secir")).data_dir


def test_a_section_without_values_is_as_good_as_left_out(load: Load) -> None:
    assert load(with_line("", "limits:\ndatabase:\n  # url: x")).limits.max_attachments == 10


def test_it_can_not_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError):
        load().mail.domain = "other.example"  # type: ignore[misc]


def test_loading_makes_nothing(load: Load, tmp_path: Path) -> None:
    load()
    assert os.listdir(tmp_path) == ["secir.yaml"]


def test_secrets_never_show(load: Load, tmp_path: Path) -> None:
    environ = {
        **ENVIRON,
        "SECIR_MATRIX_PASSWORD": "pw-matrix",
        "SECIR_SMTP_PASSWORD": "pw-smtp",
        "SECIR_DATABASE_PASSWORD": "pw-db",
    }
    loaded = load(LEAST + "database: {url: postgresql://secir@db.example/secir}\n", environ)
    shown = f"{loaded!r} {loaded} {loaded.credentials!r} {loaded.model_dump()} {parts.matrix_settings(loaded)!r}"
    assert not [word for word in ("pw-", SECRET, parts.matrix_settings(loaded).pickle_key) if word in shown]
    assert parts.database_url(loaded) == "postgresql://secir:pw-db@db.example/secir"


@pytest.mark.parametrize(
    ("text", "span"), [("60s", timedelta(minutes=1)), ("5m", timedelta(minutes=5)), ("36h", timedelta(hours=36))]
)
def test_spans_of_time_are_written_with_a_unit(load: Load, text: str, span: timedelta) -> None:
    assert span == load(with_line("", f"limits: {{give_up_after: {text}}}")).limits.give_up_after


@pytest.mark.parametrize("span", [timedelta(seconds=90), timedelta(minutes=5), timedelta(hours=36), timedelta(days=7)])
def test_a_span_is_written_in_the_largest_unit_that_fits(span: timedelta) -> None:
    assert {90: "90s", 300: "5m", 129600: "36h", 604800: "7d"}[int(span.total_seconds())] == in_units(span)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(load: Load) -> None:
    text = "data_dri: x\nmatrix:\n  homeserver: ftp://x\n  user_id: secir\nmail:\n  domain: No_Domain\nlimits: 5\n"
    assert [line.partition(": ")[0] for line in mistakes(load, text, {})] == [
        "secret_key_file",
        "line 1, data_dri",
        "line 3, matrix.homeserver",
        "line 4, matrix.user_id",
        "line 6, mail.domain",
        "line 7, limits",
    ]


@pytest.mark.parametrize(
    ("section", "line", "key", "what", "fix"),
    [
        ("matrix", "sync_timout: 5s", "sync_timout", "is not a key that is known here", "Did you mean sync_timeout?"),
        ("matrix", "sync_timeout: 30", "sync_timeout", "must be a number and a unit: s, m, h or d", "30s"),
        ("matrix", "sync_timeout: 10m", "sync_timeout", "must be at most 5 minutes", "30s"),
        ("mail", "max_message_mb: 500", "max_message_mb", "must be at most 100", "25"),
        ("mail", "max_message_mb: '25'", "max_message_mb", "must be a whole number", "25"),
        ("mail", "max_message_mb: true", "max_message_mb", "must be a whole number", "25"),
        ("mail", "relay: {tls: ssl}", "relay.tls", "must be none, starttls or tls", "none"),
        (
            "mail",
            "relay: 5",
            "relay",
            "must hold keys of its own, each on a line below it and further to the right",
            "",
        ),
        ("mail", "listeners: []", "listeners", "must have at least one entry", ""),
        ("mail", "listeners: 5", "listeners", "must be a list: each entry on a line of its own, beginning with -", ""),
        ("mail", "listeners: [{port: x}]", "listeners[1].port", "must be a whole number", "10024"),
        ("mail", "relay: {host: ''}", "relay.host", "must not be empty", "127.0.0.1"),
    ],
)
def test_a_mistake_names_its_line_its_key_and_the_fix(
    load: Load, section: str, line: str, key: str, what: str, fix: str
) -> None:
    if not fix:
        fix = f"See {section} in config.example.yaml."
    elif not fix.endswith("?"):
        fix = f"Write for example: {key.rpartition('.')[2]}: {fix}."
    number = 3 if section == "matrix" else 6
    assert [f"line {number}, {section}.{key}: {what}. {fix}"] == mistakes(load, with_line(section, line))


def test_a_missing_key_is_told_with_an_example_that_can_be_copied(load: Load) -> None:
    assert mistakes(load, "mail: {}\n") == [
        "matrix: is missing. See matrix in config.example.yaml.",
        "line 1, mail.domain: is missing. Write for example: domain: lists.example.org.",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\n", "line 2: this is not valid YAML. Look at the spaces, colons and quotes there."),
        ("mail: {}\nmail: {}\n", "line 2: the key mail is there twice. Keep one of them."),
        ("a: &x 1\nb: *x\n", "line 2: aliases (*name) are not read here. Write the value itself."),
        ("? [a, b]\n: 1\n", "line 1: a key must be one word. Look at the colons there."),
        ("- a\n", "must hold keys, each with a value. Start anew from config.example.yaml."),
        ("a: 1\n---\nb: 2\n", "line 2: this is not valid YAML. Look at the spaces, colons and quotes there."),
        ("!!python/object:a {}\n", "line 1: this is not valid YAML. Look at the spaces, colons and quotes there."),
        ("[" * 5000, "this is not valid YAML. Start anew from config.example.yaml."),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_by_its_line(load: Load, tmp_path: Path, text: str, told: str) -> None:
    assert [f"{tmp_path / 'secir.yaml'}: {told}"] == mistakes(load, text)


def test_a_file_that_is_not_there_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationWrong) as raised:
        config.load(tmp_path / "no.yaml", {})
    assert "secir init --config" in str(raised.value.params["mistakes"])


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secir.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationWrong) as raised:
        config.load(tmp_path / "secir.yaml", {})
    assert "UTF-8" in str(raised.value.params["mistakes"])


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_its_file(load: Load, tmp_path: Path) -> None:
    secret_file(tmp_path / "secret.key", SECRET + "\n")
    assert bytes.fromhex(SECRET) == load(LEAST, {}).credentials.secret_key


def test_the_environment_wins_over_the_file(load: Load, tmp_path: Path) -> None:
    secret_file(tmp_path / "secret.key", "f" * 64)
    assert bytes.fromhex(SECRET) == load().credentials.secret_key


def test_blanks_at_the_ends_of_a_password_are_kept(load: Load, tmp_path: Path) -> None:
    secret_file(tmp_path / "pw", " pass word \r\n")
    assert load(with_line("matrix", "password_file: pw")).credentials.matrix_password == " pass word "


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666])
def test_a_secret_file_that_others_may_read_is_refused_with_the_command_that_mends_it(
    load: Load, tmp_path: Path, mode: int
) -> None:
    path = secret_file(tmp_path / "secret.key", SECRET, mode)
    expected = f"secret_key_file: names the file {path}, which other users may read. Run: chmod 600 {path}."
    assert [expected] == mistakes(load, LEAST, {})


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_secret_file_for_the_owner_and_a_reading_group_is_taken(load: Load, tmp_path: Path, mode: int) -> None:
    secret_file(tmp_path / "secret.key", SECRET, mode)
    assert bytes.fromhex(SECRET) == load(LEAST, {}).credentials.secret_key


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n"])
def test_a_secret_file_must_hold_exactly_one_line(load: Load, tmp_path: Path, text: str) -> None:
    secret_file(tmp_path / "pw", text)
    [told] = mistakes(load, with_line("matrix", "password_file: pw"))
    assert "exactly one line" in told


@pytest.mark.parametrize("key", ["xyz", "ab" * 31, "ab" * 33])
def test_a_secret_key_of_another_form_is_refused_without_being_shown(load: Load, key: str) -> None:
    [told] = mistakes(load, LEAST, {"SECIR_SECRET_KEY": key})
    assert "64 hexadecimal digits" in told
    assert key not in told


def test_a_password_inside_the_database_url_is_refused_and_not_shown(load: Load) -> None:
    [told] = mistakes(load, LEAST + "database: {url: postgresql://secir:hunter2@db.example/secir}\n")
    assert "Move it to a file and name the file in password_file" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://a@b/c", "postgresql://", "postgresql://host", "host/db"])
def test_a_database_url_of_another_kind_is_refused(load: Load, url: str) -> None:
    assert len(mistakes(load, LEAST + f"database: {{url: '{url}'}}\n")) == 1


def test_a_relay_user_without_a_password_is_refused(load: Load) -> None:
    [told] = mistakes(load, with_line("mail", "relay: {username: secir}"))
    assert "SECIR_SMTP_PASSWORD" in told


def test_a_password_is_put_into_the_url_with_its_special_characters_escaped(load: Load) -> None:
    environ = {**ENVIRON, "SECIR_DATABASE_PASSWORD": "p@ss/w:rd ü"}
    loaded = load(LEAST + "database: {url: 'postgresql://secir@[::1]:5433/secir?ssl=require'}\n", environ)
    assert parts.database_url(loaded) == "postgresql://secir:p%40ss%2Fw%3Ard%20%C3%BC@[::1]:5433/secir?ssl=require"


# --- nothing crosses a network unprotected ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("mail", "relay: {host: smtp.example.org}", "mail.relay.allow_unencrypted"),
        ("mail", "listeners: [{host: 0.0.0.0}]", "mail.listeners[1].allow_unencrypted"),
        ("mail", "listeners: [{host: '::'}]", "mail.listeners[1].allow_unencrypted"),
    ],
)
def test_another_machine_needs_tls(load: Load, section: str, line: str, key: str) -> None:
    [told] = mistakes(load, with_line(section, line))
    assert f"line 6, {key}" == told.partition(": ")[0]
    assert "Set up TLS" in told
    load(with_line(section, line.replace("}", ", allow_unencrypted: true}", 1)))


def test_a_homeserver_on_another_machine_needs_https(load: Load) -> None:
    text = LEAST.replace("https://matrix.example.org", "http://matrix.example.org")
    [told] = mistakes(load, text)
    assert "matrix.allow_unencrypted" in told
    load(text.replace("user_id", "allow_unencrypted: true\n  user_id"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_needs_no_tls(load: Load, host: str) -> None:
    assert load(LEAST.replace("https://matrix.example.org", f"http://{host}:8008/")).matrix.homeserver.endswith("8008")


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.example.org", ""])
def test_only_loopback_is_this_machine(host: str) -> None:
    assert not is_this_machine(host)


def test_certificate_and_key_belong_together(load: Load, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_text("x")
    [told] = mistakes(load, with_line("mail", "listeners: [{tls_certificate_file: chain.pem}]"))
    assert told.startswith("line 6, mail.listeners[1].tls_key_file: belongs together with tls_certificate_file")


def test_a_certificate_file_that_is_not_there_is_told(load: Load) -> None:
    told = mistakes(load, with_line("mail", "listeners: [{tls_certificate_file: a.pem, tls_key_file: b.pem}]"))
    assert all("not there" in line for line in told)
    assert len(told) == 2


# --- the parts that are made of it -----------------------------------------------------------------------------------


def test_what_is_derived_from_the_secret_key_is_hkdf_as_the_store_does_it() -> None:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    for info in ("secir/store", "secir/matrix-pickle", "secir/list-key/tld-ops@lists.example.org"):
        expected = HKDF(algorithm=SHA256(), length=32, salt=None, info=info.encode()).derive(bytes.fromhex(SECRET))
        assert expected == parts.derive(bytes.fromhex(SECRET), info)


def test_only_one_bridge_holds_the_data(load: Load, tmp_path: Path) -> None:
    from trust.errors import AnotherInstance

    loaded = load()
    loaded.data_dir.mkdir()
    assert not parts.is_running(loaded)
    with parts.alone(loaded):
        assert parts.is_running(loaded)
        with pytest.raises(AnotherInstance), parts.alone(loaded):
            pass
    assert not parts.is_running(loaded)


def test_a_certificate_that_is_none_is_told(load: Load, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    loaded = load(with_line("mail", "listeners: [{tls_certificate_file: a.pem, tls_key_file: a.pem}]"))
    with pytest.raises(BadValue):
        parts.listener_settings(loaded)


def test_the_parts_get_what_the_file_says(load: Load) -> None:
    loaded = load(with_line("mail", "hostname: bridge.example.org") + "limits: {max_attachments: 3}\n")
    assert parts.letter_limits(loaded).attachments == 3
    assert parts.listener_settings(loaded)[0].hostname == "bridge.example.org"
    assert f"sqlite:///{loaded.data_dir.absolute()}/secir.db" == parts.database_url(loaded)
