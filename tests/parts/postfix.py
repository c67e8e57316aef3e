"""A Postfix of its own: takes mail by SMTP, hands the lists' over by LMTP, and relays all other mail to one port.

Everything lies below one directory. Postfix insists on being started by root and on its own user.
"""

from __future__ import annotations

import atexit
import json
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.parts.ports import LOOPBACK, free_port, is_listening
from tests.parts.processes import PartFailed, PartMissing

USER: Final = "postfix"
SERVICES: Final = """\
{address}:{port} inet n - n - - smtpd
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 300   1 qmgr
rewrite   unix  - - n -     - trivial-rewrite
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
lmtp      unix  - - n -     - lmtp
showq     unix  n - n -     - showq
error     unix  - - n -     - error
retry     unix  - - n -     - error
discard   unix  - - n -     - discard
anvil     unix  - - n -     1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""
"""master.cf: name, type, private, unprivileged, chroot, wake-up, processes, program."""


class Postfix:
    """One mail server below ``directory``.

    ``port`` takes mail; what is for ``list_domain`` goes by LMTP to ``lmtp_port``, the rest by SMTP to ``relay_port``:
    listen there. A target that is away is tried again each second. ``settings`` are put over main.cf, line by line.
    """

    def __init__(
        self, directory: Path, *, list_domain: str = "lists.test", settings: dict[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.list_domain = list_domain
        self.port, self.lmtp_port, self.relay_port = free_port(), free_port(), free_port()
        self.log_file = directory / "mail.log"
        self._settings = settings or {}
        self._prepare()

    @property
    def pid(self) -> int:
        """The master process. Raises FileNotFoundError when it does not run."""
        return int((self.directory / "queue/pid/master.pid").read_text())

    def start(self) -> float:
        """Start and wait until it takes mail; returns the seconds it took. Raises PartFailed."""
        began = time.monotonic()
        answer = self._run("postfix", "start")
        atexit.register(self.stop)
        if answer.returncode or not is_listening(self.port):
            self.stop()
            raise PartFailed(f"Postfix did not start:\n{answer.stdout}{answer.stderr}{self.log()[-2000:]}")
        return time.monotonic() - began

    def stop(self) -> None:
        """End it and all its children; by force after five seconds (``postfix-script`` sees to that)."""
        atexit.unregister(self.stop)
        self._run("postfix", "stop")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def queue(self) -> list[dict[str, Any]]:
        """The mails not yet handed over, as ``postqueue -j`` tells them."""
        answer = self._run("postqueue", "-j")
        answer.check_returncode()
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def wait_until_empty(self, timeout: float = 20.0) -> None:
        """Until every mail is handed over. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while waiting := self.queue():
            if time.monotonic() > end:
                raise TimeoutError(f"{len(waiting)} mails still wait in Postfix:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # --- making it ---------------------------------------------------------------------------------------------------

    @property
    def _etc(self) -> Path:
        return self.directory / "etc"

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [_program(program), "-c", str(self._etc), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    def _prepare(self) -> None:
        owner = _owner()
        for folder in ("etc", "queue", "data"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        os.chown(self.directory / "data", owner.pw_uid, owner.pw_gid)
        (self._etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in self._main().items()))
        (self._etc / "master.cf").write_text(SERVICES.format(address=LOOPBACK, port=self.port))

    def _main(self) -> dict[str, str]:
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.directory / "queue"),
            "data_directory": str(self.directory / "data"),
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": str(self.directory),
            "myhostname": f"mx.{self.list_domain}",
            "mydestination": "",
            "alias_maps": "",
            "alias_database": "",
            "inet_interfaces": LOOPBACK,
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "relay_domains": self.list_domain,
            "transport_maps": f"inline:{{{self.list_domain}=lmtp:inet:{LOOPBACK}:{self.lmtp_port}}}",
            "default_transport": f"smtp:[{LOOPBACK}]:{self.relay_port}",
            "smtp_tls_security_level": "none",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "lmtp_host_lookup": "native",
            "smtpd_forbid_bare_newline": "yes",
            "smtpd_forbid_unauth_pipelining": "yes",
            "message_size_limit": "52428800",
            "queue_run_delay": "1s",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            **self._settings,
        }


def _program(name: str) -> str:
    if os.geteuid() != 0:
        raise PartMissing("Postfix can only be started by root. Next: run this as root.")
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise PartMissing(f"There is no {name}. Next: apt-get install postfix")
    return path


def _owner() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER)
    except KeyError as error:
        raise PartMissing(f"There is no user {USER}. Next: apt-get install postfix") from error
