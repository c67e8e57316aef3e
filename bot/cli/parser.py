"""Every command, its options and what is said about them, in one tree. docs/commands.md is made from here.

The functions are named, not imported: each command loads only the libraries it needs, and --help none.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bot.cli.command import CONFIG_VARIABLE, Layout, Parser, Subparsers, command, topic
from trust.records import Door, Role

DESCRIPTION: Final = "SECIR joins an encrypted Matrix room and an OpenPGP mailing list: one conversation, two doors."
EPILOG: Final = """\
To begin:  secir init,  secir identity create,  secir group create,  secir check,  secir run
Each command has --help of its own.
"""
SETTINGS: Final = {
    "--homeserver": ("URL", "address of the homeserver's client API"),
    "--user": ("ID", "the bot's own account, such as @secir:example.org"),
    "--domain": ("DOMAIN", "domain of the list addresses, such as lists.example.org"),
    "--data-dir": ("DIR", "folder for all that the bridge keeps (default: data)"),
    "--database": ("URL", "a PostgreSQL database in place of SQLite"),
    "--relay-host": ("HOST", "the mail server that takes our mail (default: 127.0.0.1)"),
    "--relay-port": ("PORT", "its port (default: 25)"),
    "--relay-tls": ("HOW", "none, starttls or tls (default: none)"),
}
"""The options of ``secir init``."""
WHO: Final = "name, mail address or Matrix id of the person"


def build() -> Parser:
    parser = Parser(prog="secir", description=DESCRIPTION, epilog=EPILOG, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"secir {_version()}", help="show the version")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration; without it {CONFIG_VARIABLE}, ./secir.yaml or /etc/secir/secir.yaml",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for declare in (_setup, _run, _identity, _groups, _contacts, _members, _queue):
        declare(commands)
    return parser


def _version() -> str:
    try:
        return version("secir")
    except PackageNotFoundError:
        return "(not installed: run from its sources)"


def _setup(commands: Subparsers) -> None:
    parser = command(
        commands,
        "init",
        "setup.init",
        "Set up a new bridge: configuration, folders, secret key, database.",
        more="Asks for what no option gives. What is there already is kept, so it may be run again.",
    )
    for option, (kind, summary) in SETTINGS.items():
        parser.add_argument(option, metavar=kind, help=summary)
    command(
        commands,
        "check",
        "checking.check",
        "Look whether each part is reachable and rightly set up, and say what to mend.",
        more="Exit code 1 if anything is to be mended. It may be run while the bridge runs.",
    )
    database = topic(commands, "db", "The database.")
    command(
        database,
        "upgrade",
        "setup.upgrade",
        "Bring the database to this program's version.",
        more="Make a backup before.",
    )
    command(
        database,
        "restored",
        "setup.restored",
        "Make a backup that was put back safe to start: hold what waits in it, so that nothing is sent a second time.",
        more="Stop the bridge before. Nothing is lost: what was held is tried again with secir queue retry.",
    )


def _run(commands: Subparsers) -> None:
    command(
        commands,
        "run",
        "running.run",
        "Run the bridge until it is stopped.",
        more="SIGTERM or Ctrl-C stops it in order.",
    )
    command(
        commands,
        "health",
        "running.health",
        "Say whether the bridge on this machine lives.",
        more="Exit code 0 if it does, 1 if not: for supervisors.",
    )


def _identity(commands: Subparsers) -> None:
    identity = topic(commands, "identity", "The bot's own Matrix identity, which its members' clients check.")
    parser = command(
        identity,
        "create",
        "identity.create",
        "Log the bot in and make its identity; prints the recovery key, once.",
        more="It is done once for an account, when the bridge is set up.",
    )
    parser.add_argument(
        "--new-recovery-key",
        action="store_true",
        help="keep the identity and make a new recovery key; the old one opens nothing any more",
    )
    parser = command(
        identity,
        "restore",
        "identity.restore",
        "Bring the bot's identity here with its recovery key.",
        more="On a new machine, or after the bot's login was lost.",
    )
    parser.add_argument(
        "--recovery-key-file", metavar="FILE", required=True, type=Path, help="file that holds the recovery key"
    )
    command(
        identity, "show", "identity.show", "Show the bot's account, device and identity, and whether it is sound."
    ).with_json()
    parser = command(
        identity,
        "accept",
        "identity.accept",
        "Accept a member's new Matrix identity in the place of the one that was known.",
        more="Ask the person by telephone first: whoever took over the account has a new identity, too.",
    )
    parser.add_argument("user", metavar="ID", help="Matrix id of the member, such as @ada:example.org")


def _groups(commands: Subparsers) -> None:
    groups = topic(commands, "group", "Trust groups: one room and one list each.")
    parser = command(
        groups, "create", "groups.create", "Open a trust group: its list key now, its room when the bridge runs."
    )
    parser.add_argument("name", metavar="NAME", help="one word, such as tld-ops")
    parser.add_argument("--address", required=True, metavar="ADDRESS", help="address of its list, in mail.domain")
    parser.add_argument("--description", default="", metavar="TEXT", help="what the group is for")
    parser.add_argument(
        "--no-federation",
        action="store_true",
        help="only accounts of the bot's own homeserver may join the room; can't be changed later",
    )
    command(groups, "list", "groups.list_all", "List the trust groups.").with_json()
    parser = command(groups, "show", "groups.show", "Show a group: its room, its list key, its members, its traffic.")
    parser.add_argument("name", metavar="NAME", help="name of the group")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    either.add_argument("--key", action="store_true", help="print only the list's public key, for the members")


def _contacts(commands: Subparsers) -> None:
    contacts = topic(commands, "contact", "People: how they are reached, and which keys are theirs.")
    parser = command(
        contacts,
        "add",
        "contacts.add",
        "Add a person.",
        more="Check the key's fingerprint with the person by telephone: it decides who is believed to have written.",
    )
    parser.add_argument("name", metavar="NAME", help='as readers shall see it, such as "Ada Janssen"')
    parser.add_argument("--organisation", metavar="IDENT", help="where the person works: a ccTLD such as nl")
    parser.add_argument("--organisation-name", metavar="NAME", help="the organisation's full name, if it is new")
    _with_ways(parser)
    parser = command(
        contacts,
        "set",
        "contacts.change",
        "Add a mail address or a Matrix id to a person, or pin another key for an address.",
        more="Mail that was held for want of a key goes out once the new key is there.",
    )
    parser.add_argument("contact", metavar="CONTACT", help=WHO)
    _with_ways(parser)
    command(contacts, "list", "contacts.list_all", "List all people.").with_json()
    parser = command(contacts, "show", "contacts.show", "Show a person: addresses, keys, groups.")
    parser.add_argument("contact", metavar="CONTACT", help=WHO)
    parser.with_json()

    parser = command(
        contacts,
        "resume",
        "contacts.resume",
        "Send to a mail address again that was paused because mail came back.",
        more="Ask the person first whether it works again.",
    )
    parser.add_argument("address", metavar="ADDRESS", help="the paused mail address")


def _with_ways(parser: argparse.ArgumentParser) -> None:
    """The options that say how a person is reached."""
    parser.add_argument("--mail", metavar="ADDRESS", help="a mail address of the person")
    parser.add_argument(
        "--key", metavar="FILE", type=Path, help="OpenPGP public key for that address (- reads it here)"
    )
    parser.add_argument("--matrix", metavar="ID", help="a Matrix id of the person, such as @ada:example.nl")


def _members(commands: Subparsers) -> None:
    members = topic(commands, "member", "Who takes part in which group, by the room or by mail.")
    parser = command(
        members,
        "add",
        "members.add",
        "Make a person a member of a group.",
        more="Add the person first: secir contact add. A member by mail gets nothing until there is a valid key.",
    )
    parser.add_argument("group", metavar="GROUP", help="name of the group")
    parser.add_argument("contact", metavar="CONTACT", help=WHO)
    parser.add_argument("--by", required=True, choices=[door.value for door in Door], help="how the person takes part")
    parser.add_argument(
        "--role",
        choices=[role.value for role in Role],
        default=Role.MEMBER.value,
        help="admins are told of what needs a hand (default: member)",
    )
    _with_ways(parser)
    parser = command(members, "list", "members.list_all", "List the members of a group.")
    parser.add_argument("group", metavar="GROUP", help="name of the group")
    parser.with_json()
    parser = command(
        members,
        "remove",
        "members.remove",
        "Take a person out of a group.",
        more="Mail that waits for the member is dropped; the bridge removes the member from the room.",
    )
    parser.add_argument("group", metavar="GROUP", help="name of the group")
    parser.add_argument("contact", metavar="CONTACT", help=WHO)


def _queue(commands: Subparsers) -> None:
    queue = topic(commands, "queue", "What is on its way, and what stands still.")
    parser = command(
        queue,
        "list",
        "queue.list_all",
        "List what is not delivered, oldest first: mails (m12), events of rooms (e7) and deliveries (d31).",
        more="Without --all or --json the first 50. What was refused is listed while its content is kept.",
    )
    parser.add_argument("group", metavar="GROUP", nargs="?", help="only of this group")
    parser.add_argument("--all", action="store_true", help="list all, however many")
    parser.add_argument("--refused", action="store_true", help="also what was refused and whose content is gone")
    parser.with_json()
    parser = command(
        queue,
        "show",
        "queue.show",
        "Show one item; or for a post, by its reference of eight letters, each recipient and where it stands.",
    )
    parser.add_argument("name", metavar="NAME", help="name of an item, such as d31, or reference of a post")
    parser.with_json()
    parser = command(
        queue,
        "retry",
        "queue.retry",
        "Try items again now.",
        more="What has not the key of its reader any more is sealed anew first. One wrong name, and nothing is done.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="names of items, such as d31")
    parser.add_argument("--all", action="store_true", help="all that was given up, refused, came back, or was restored")
    parser.add_argument("--group", metavar="GROUP", help="with --all: only of this group")
    parser = command(
        queue,
        "drop",
        "queue.drop",
        "Take items out of the queue, for good.",
        more="Their content is deleted, and nobody is told.",
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="names of items, such as d31")
