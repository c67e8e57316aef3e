"""What a group's room must be like: how it is made, and what in its state counts as drift. Pure.

Source: MATRIX.md, "What a bridge should do"; Matrix Client-Server API, module "Room events"; for room version 12,
where the creator stands above all power levels and may not be listed among them, "Room Version 12".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridges.matrix.chain import entry
from trust.records import Group

CREATE: Final = "m.room.create"
MEMBER: Final = "m.room.member"
POWER_LEVELS: Final = "m.room.power_levels"
MARK: Final = "org.secir.room"
"""In the create event: the group's room token, so that a room made just before a crash is found again."""

PINNED: Final[Mapping[str, str]] = {
    CREATE: "which room this is, who made it, whether other servers may take part",
    "m.room.encryption": "without it, members' programs send clear text; with other settings, keys live longer",
    "m.room.join_rules": "who may come in without the bot's invitation",
    "m.room.history_visibility": "whether somebody who joins later reads, and gets the keys of, what was before",
    "m.room.guest_access": "whether nameless accounts may come in",
    POWER_LEVELS: "who may change all of this, invite, or remove the bot",
    "m.room.name": "tells members which group they write to: another group's name misleads them",
}
"""Event types whose content is agreed when the room is made; and why. The topic and the avatar decide nothing."""

FORBIDDEN: Final[Mapping[str, str]] = {
    "m.room.tombstone": "leads members to another room",
    "m.room.third_party_invite": "an invitation that whoever holds its token takes up",
    "m.room.canonical_alias": "a public name, which a room by invitation does not need",
    "m.room.server_acl": "cuts members' servers off",
}
"""Event types that must not be there at all; and why."""

INITIAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "m.room.encryption": {
        "algorithm": "m.megolm.v1.aes-sha2",
        "rotation_period_ms": 7 * 24 * 3600 * 1000,
        "rotation_period_msgs": 100,
    },
    "m.room.history_visibility": {"history_visibility": "joined"},
    "m.room.join_rules": {"join_rule": "invite"},
    "m.room.guest_access": {"guest_access": "forbidden"},
}
CREATOR_ABOVE_ALL: Final = 12
FALLBACK_VERSION: Final = "11"


@dataclass(frozen=True, slots=True)
class Membership:
    """``by``: who made it so; equal to the user for one who joined, left or declined."""

    state: str
    by: str


@dataclass(frozen=True, slots=True)
class RoomState:
    """The state of a room as the server has it now."""

    contents: Mapping[str, Mapping[str, Any]]
    """Event type to content, for the state key ""."""
    types: frozenset[str]
    """The types present with any content, under any state key."""
    creator: str
    members: Mapping[str, Membership]

    @classmethod
    def read(cls, events: object) -> RoomState:
        """From the answer of ``GET /rooms/{id}/state``; what is malformed in it is left out."""
        contents: dict[str, Mapping[str, Any]] = {}
        types, members, creator = set(), {}, ""
        for event in events if isinstance(events, list) else []:
            kind, key, content, sender = _parts(event)
            if content:
                types.add(kind)
            if kind == MEMBER:
                members[key] = Membership(str(content.get("membership", "")), sender)
            elif key == "":
                contents[kind] = content
                creator = sender if kind == CREATE else creator
        return cls(contents, frozenset(types), creator, members)

    def joined(self) -> frozenset[str]:
        return frozenset(user for user, membership in self.members.items() if membership.state == "join")

    def pin(self) -> dict[str, Mapping[str, Any]]:
        """What is remembered as agreed."""
        return {kind: self.contents.get(kind, {}) for kind in PINNED}


def _parts(event: object) -> tuple[str, str, Mapping[str, Any], str]:
    known = event if isinstance(event, Mapping) else {}
    content = known.get("content")
    kind, key, sender = (str(known.get(name, "")) for name in ("type", "state_key", "sender"))
    return kind, key, content if isinstance(content, Mapping) else {}, sender


def room_version(capabilities: Mapping[str, Any]) -> str:
    """The room version to ask for: the server's default, if it is a plain number (Matrix's own versions are)."""
    offered = entry(capabilities, "capabilities", "m.room_versions")
    default = str(offered.get("default", ""))
    if default.isdecimal():
        return default
    stable = [v for v, kind in entry(offered, "available").items() if kind == "stable" and v.isdecimal()]
    return max(stable, key=int, default=FALLBACK_VERSION)


def creation(group: Group, user: str, version: str) -> dict[str, Any]:
    """The body of ``POST /createRoom``: encrypted from the first event, by invitation only, the bot alone in power."""
    return {
        "preset": "private_chat",
        "visibility": "private",
        "room_version": version,
        "name": group.name,
        "creation_content": {"m.federate": group.federate, MARK: group.room_token},
        "initial_state": [{"type": kind, "state_key": "", "content": INITIAL[kind]} for kind in INITIAL],
        "power_level_content_override": power_levels(user, version),
    }


def power_levels(user: str, version: str) -> dict[str, Any]:
    """The bot alone changes the room; members write. ``redact`` does not touch one's own messages."""
    levels: dict[str, Any] = {
        "ban": 100,
        "events": {},
        "events_default": 0,
        "invite": 100,
        "kick": 100,
        "notifications": {"room": 100},
        "redact": 100,
        "state_default": 100,
        "users": {},
        "users_default": 0,
    }
    if not _creator_above_all(version):
        levels["users"] = {user: 100}
        levels["events"] = {"m.room.tombstone": 150}  # above everybody: the room can't be moved, by the bot either
    return levels


def _creator_above_all(version: str) -> bool:
    return version.isdecimal() and int(version) >= CREATOR_ABOVE_ALL


def unmet(group: Group, user: str, state: RoomState) -> tuple[str, ...]:
    """The event types in which a room that was just made (or found) is not what was asked for."""
    create = state.contents.get(CREATE, {})
    version = str(create.get("room_version", "1"))
    asked = creation(group, user, version)
    wrong = {kind for kind in INITIAL if state.contents.get(kind) != INITIAL[kind]}
    if not is_ours(group, user, state) or create.get("m.federate", True) is not group.federate:
        wrong.add(CREATE)
    levels = state.contents.get(POWER_LEVELS, {})
    if any(levels.get(name) != value for name, value in asked["power_level_content_override"].items()):
        wrong.add(POWER_LEVELS)
    if state.contents.get("m.room.name") != {"name": group.name}:
        wrong.add("m.room.name")
    return tuple(sorted(wrong | (state.types & FORBIDDEN.keys())))


def is_ours(group: Group, user: str, state: RoomState) -> bool:
    """Whether we made this room for ``group``. The mark alone proves nothing: whoever was in the room knows it."""
    return state.creator == user and state.contents.get(CREATE, {}).get(MARK) == group.room_token


def drift(pin: Mapping[str, object], user: str, state: RoomState) -> tuple[str, ...]:
    """The event types in which the room is not as agreed, sorted; empty if all is well."""
    wrong = {kind for kind in PINNED if state.contents.get(kind, {}) != pin.get(kind, {})}
    if state.creator != user:
        wrong.add(CREATE)
    if user not in state.joined():
        wrong.add(MEMBER)
    return tuple(sorted(wrong | (state.types & FORBIDDEN.keys())))


def outsiders(state: RoomState, readers: Iterable[str], user: str) -> frozenset[str]:
    """Those in the room, or on their way into it, who may not read there."""
    present = {who for who, membership in state.members.items() if membership.state in {"join", "invite", "knock"}}
    return frozenset(present.difference(readers, [user]))
