"""One call of GnuPG: its limits hold, its secrets stay off the command line, and it never outlives who asked for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bridges.openpgp.home import check_version
from bridges.openpgp.process import Limits, Runner, full
from trust.errors import SafeUnavailable
from trust.records import Fingerprint

SECRET = "correct horse battery staple"


def program(folder: Path, *lines: str) -> str:
    """A stand-in for GnuPG, to do what the real one can't be made to do at will."""
    path = folder / "gpg"
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="ascii")
    path.chmod(0o700)
    return str(path)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def written(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


async def appears(path: Path) -> str:
    for _ in range(500):
        if (text := written(path)).endswith("\n"):
            return text.strip()
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path.name} did not appear")


async def test_a_call_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    runner = Runner(Limits(seconds=0.3), program(tmp_path, f"echo $$ > {tmp_path}/pid", "exec sleep 60"))
    with pytest.raises(SafeUnavailable):
        await runner.run(tmp_path, ())
    assert not lives(int((tmp_path / "pid").read_text(encoding="ascii")))


async def test_ending_the_task_ends_the_process(tmp_path: Path) -> None:
    runner = Runner(Limits(), program(tmp_path, f"echo $$ > {tmp_path}/pid", "exec sleep 60"))
    task = asyncio.create_task(runner.run(tmp_path, ()))
    pid = int(await appears(tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(pid)


@pytest.mark.parametrize("stream", ["1", "$(echo $* | sed 's/.*--status-fd //; s/ .*//')"])
async def test_a_flood_of_output_or_status_ends_the_process_and_keeps_nothing(tmp_path: Path, stream: str) -> None:
    lines = (f"exec yes 0123456789 > /dev/fd/{stream}",)
    outcome = await Runner(Limits(plaintext_bytes=10_000, seconds=20), program(tmp_path, *lines)).run(tmp_path, ())
    assert (True, b"", b"") == (outcome.overflow, outcome.output, outcome.status)


async def test_a_flood_of_messages_on_standard_error_does_not_stop_a_call(tmp_path: Path) -> None:
    lines = ("head -c 3000000 /dev/zero >&2", "echo done")
    outcome = await Runner(Limits(), program(tmp_path, *lines)).run(tmp_path, ())
    assert (0, b"done\n") == (outcome.returncode, outcome.output)


async def test_a_process_that_does_not_read_its_input_is_no_obstacle(tmp_path: Path) -> None:
    outcome = await Runner(Limits(), program(tmp_path, "exit 3")).run(tmp_path, (), data=bytes(5_000_000))
    assert 3 == outcome.returncode


async def test_a_process_that_dies_by_a_signal_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SafeUnavailable):
        await Runner(Limits(), program(tmp_path, "kill -9 $$")).run(tmp_path, ())


async def test_a_program_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SafeUnavailable):
        await Runner(Limits(), str(tmp_path / "none")).run(tmp_path, ())


async def test_the_passphrase_and_our_environment_are_not_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECIR_SECRET_KEY", SECRET)
    lines = (f"tr '\\0' ' ' < /proc/$$/cmdline > {tmp_path}/seen", f"env >> {tmp_path}/seen", "exit 0")
    await Runner(Limits(), program(tmp_path, *lines)).run(tmp_path, ("--decrypt",), passphrase=SECRET)
    seen = (tmp_path / "seen").read_text(encoding="ascii")
    assert ("--decrypt" in seen, SECRET in seen) == (True, False)


async def test_the_passphrase_comes_by_a_pipe_of_its_own(tmp_path: Path) -> None:
    lines = ("exec cat /dev/fd/$(echo $* | sed 's/.*--passphrase-fd //; s/ .*//')",)
    outcome = await Runner(Limits(), program(tmp_path, *lines)).run(tmp_path, (), data=b"other", passphrase=SECRET)
    assert SECRET.encode() + b"\n" == outcome.output


async def test_memory_is_capped_and_no_core_is_dumped(tmp_path: Path) -> None:
    outcome = await Runner(
        Limits(memory_bytes=200 * 1024 * 1024), program(tmp_path, "cat", "ulimit -v", "ulimit -c")
    ).run(tmp_path, ())
    assert [b"0", b"204800"] == sorted(line.split()[-1] for line in outcome.output.splitlines())


async def test_no_more_processes_run_than_there_are_slots(tmp_path: Path) -> None:
    lines = (f"mkdir {tmp_path}/lock || exit 9", "sleep 0.05", f"rmdir {tmp_path}/lock")
    runner = Runner(Limits(processes=1), program(tmp_path, *lines))
    outcomes = await asyncio.gather(*(runner.run(tmp_path, ()) for _ in range(5)))
    assert [0] * 5 == [outcome.returncode for outcome in outcomes]


async def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    runner = Runner(Limits(seconds=0.2), program(tmp_path, 'case "$*" in *sleep*) exec sleep 9;; esac'))
    await runner.run(tmp_path, (), passphrase=SECRET)
    await asyncio.sleep(0.05)
    before = len(os.listdir("/proc/self/fd"))
    for arguments in ((), ("sleep",), ()):
        try:
            await runner.run(tmp_path, arguments, passphrase=SECRET)
        except SafeUnavailable:
            continue
    await asyncio.sleep(0.05)
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "text", ["", "A" * 39, "A" * 41, "a" * 40, "--output=/tmp/x", "anna@example.test", "A" * 40 + "!", "A" * 40 + "\n"]
)
def test_only_a_full_fingerprint_becomes_an_argument(text: str) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        full(Fingerprint(text))


@pytest.mark.parametrize("banner", [b"", b"gpg (GnuPG) 2.2.7\n", b"gpg (GnuPG) 1.4.23\n", b"GnuPG 2.2.40\n"])
def test_a_gnupg_older_than_2_2_8_or_unknown_is_a_fault(banner: bytes) -> None:
    with pytest.raises(SafeUnavailable):
        check_version(banner)


def test_later_versions_of_gnupg_pass() -> None:
    banners = (b"gpg (GnuPG) 2.2.8\n", b"gpg (GnuPG) 2.2.40\n", b"gpg (GnuPG/MacGPG2) 2.4.0\nlibgcrypt 1.10\n")
    assert ["2.2.8", "2.2.40", "2.4.0"] == [check_version(banner) for banner in banners]
