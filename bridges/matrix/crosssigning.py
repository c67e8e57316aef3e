"""The bot's own cross-signing identity: made once, kept sealed, found again after a restart and on a new device.

Owns the three seeds and what is done with them; knows nothing of other users' identities (``devices``).
Sources: Matrix Client-Server API, module "End-to-end encryption", sections "Cross-signing" and "Uploading keys";
for the copy on the server, module "Secrets".

The order of the steps is what makes it safe to be interrupted: the seeds are committed before anything is
uploaded, and every step may be done again with the same seeds. A second set of keys is never uploaded, because
whoever verified the bot would be cut off.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridges.matrix.api import Api, InteractiveAuthNeeded
from bridges.matrix.canonical import KEY_BYTES, decode_base64, encode_base64, is_signed, public_part, sign
from bridges.matrix.chain import entry, only_key
from bridges.matrix.secretstorage import (
    StorageKey,
    decrypt,
    encrypt,
    opens,
    read_recovery_key,
    write_recovery_key,
)
from bridges.matrix.session import Session
from storage.database import Database
from trust.errors import (
    DeviceKeysDiffer,
    HomeserverRefused,
    IdentityElsewhere,
    IdentityMissing,
    RecoveryKeyWrong,
    SecretUnreadable,
)

log = structlog.get_logger()

SECRET: Final = "matrix/cross-signing"  # noqa: S105 - the name of a secret, not one
ROLES: Final = ("master", "self_signing", "user_signing")
PASSWORD_STAGE: Final = "m.login.password"  # noqa: S105 - the name of a protocol step


@dataclass(frozen=True, slots=True)
class Seeds:
    """The three private keys, each an Ed25519 seed of 32 bytes."""

    master: bytes = field(repr=False)
    self_signing: bytes = field(repr=False)
    user_signing: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Seeds:
        return cls(*(secrets.token_bytes(KEY_BYTES) for _ in ROLES))

    @classmethod
    def unpack(cls, packed: bytes) -> Seeds:
        """The seeds as ``pack`` wrote them. Raises SecretUnreadable."""
        try:
            written = json.loads(packed)
            return cls(**{role: _seed(written[role]) for role in ROLES})
        except (ValueError, KeyError, TypeError) as error:
            raise SecretUnreadable(name=SECRET) from error

    def pack(self) -> bytes:
        return json.dumps({role: encode_base64(self.of(role)) for role in ROLES}).encode()

    def of(self, role: str) -> bytes:
        return {"master": self.master, "self_signing": self.self_signing, "user_signing": self.user_signing}[role]

    def key(self, role: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.of(role))

    def public(self, role: str) -> str:
        return public_part(self.key(role))


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """What the homeserver shows of our own account."""

    public: Mapping[str, str]
    """Role to public key: "" if what is shown is malformed; a role the server has no key for is absent."""
    self_signing: Mapping[str, Any]
    device: Mapping[str, Any]
    """The object of our own device; empty if there is none."""


async def create(session: Session, database: Database, password: str) -> str:
    """Make the identity, sign our device, fill secret storage. Returns a new recovery key, to be shown once.

    May be called again after an interruption, and to replace a lost recovery key: the identity stays the same, the
    older recovery key opens nothing any more. Raises IdentityElsewhere if the account has an identity of which we hold
    no seeds (next step: ``restore``), DeviceKeysDiffer, HomeserverRefused (a wrong password), HomeserverFault.
    """
    seeds = await _stored(database)
    shown = await _own_keys(session)
    if shown.public and (seeds is None or shown.public.get("master") != seeds.public("master")):
        raise IdentityElsewhere
    _require_our_device(session, shown)
    if seeds is None:
        seeds = Seeds.new()
        await _keep(database, seeds)
    if not shown.public:
        await _upload(session, seeds, password)
    await ensure(session, database)
    recovery_key = await _store_on_server(session.api, seeds)
    log.info("identity.created", user=session.user_id)
    return recovery_key


async def restore(session: Session, database: Database, recovery_key: str) -> None:
    """Fetch the seeds from secret storage, keep them, and sign our device.

    Raises IdentityMissing if the account has no identity, RecoveryKeyWrong if the key does not open the storage or what
    it opens is not the identity that the server shows, DeviceKeysDiffer, HomeserverFault.
    """
    key = read_recovery_key(recovery_key)
    shown = await _own_keys(session)
    if not shown.public:
        raise IdentityMissing
    key_id = await _described_key(session.api, key)
    seeds = Seeds(**{role: await _fetch_seed(session.api, key, key_id, role) for role in ROLES})
    if any(shown.public.get(role) != seeds.public(role) for role in ROLES):
        raise RecoveryKeyWrong
    await _keep(database, seeds)
    await ensure(session, database)
    log.info("identity.restored", user=session.user_id)


async def ensure(session: Session, database: Database) -> None:
    """To be called at every start, once the device's keys are published: our device is signed by our identity.

    A device that is not signed yet (a new one of the same account) gets signed. Raises IdentityMissing if there is no
    identity to speak of, IdentityElsewhere if the server shows another one than ours, DeviceKeysDiffer,
    HomeserverFault.
    """
    seeds = await _stored(database)
    shown = await _own_keys(session)
    if seeds is None:
        raise IdentityElsewhere if shown.public else IdentityMissing
    if not shown.public:
        raise IdentityMissing
    if any(shown.public.get(role) != seeds.public(role) for role in ROLES):
        raise IdentityElsewhere
    master = seeds.public("master")
    if not is_signed(shown.self_signing, user=session.user_id, key_id=master, public_key=master):
        raise IdentityElsewhere
    _require_our_device(session, shown)
    self_signing = seeds.public("self_signing")
    if not is_signed(shown.device, user=session.user_id, key_id=self_signing, public_key=self_signing):
        await _sign_device(session, seeds, shown.device)


# --- the seeds at home -----------------------------------------------------------------------------------------------


async def _stored(database: Database) -> Seeds | None:
    async with database.transaction() as tx:
        packed = await tx.secrets.get(SECRET)
    return None if packed is None else Seeds.unpack(packed)


async def _keep(database: Database, seeds: Seeds) -> None:
    async with database.transaction() as tx:
        await tx.secrets.put(SECRET, seeds.pack())


def _seed(text: object) -> bytes:
    seed = decode_base64(text)
    if len(seed) != KEY_BYTES:
        raise ValueError("not a seed")
    return seed


# --- the keys on the server ------------------------------------------------------------------------------------------


async def _own_keys(session: Session) -> OwnKeys:
    user = session.user_id
    answer = await session.api.request("POST", "keys", "query", body={"device_keys": {user: []}})
    found = {role: entry(answer, f"{role}_keys", user) for role in ROLES}
    return OwnKeys(
        public={role: only_key(shown, user, role) or "" for role, shown in found.items() if shown},
        self_signing=found["self_signing"],
        device=entry(answer, "device_keys", user, session.device_id),
    )


def _device_object(session: Session) -> dict[str, Any]:
    """Our device as WE know it: never sign what the server says about us."""
    ours = session.olm.account.identity_keys
    device = session.device_id
    return {
        "user_id": session.user_id,
        "device_id": device,
        "keys": {f"ed25519:{device}": ours["ed25519"], f"curve25519:{device}": ours["curve25519"]},
    }


def _require_our_device(session: Session, shown: OwnKeys) -> None:
    if any(shown.device.get(name) != value for name, value in _device_object(session).items()):
        raise DeviceKeysDiffer


def _signed_keys(session: Session, seeds: Seeds) -> dict[str, Any]:
    user, master = session.user_id, seeds.public("master")
    body: dict[str, Any] = {}
    for role in ROLES:
        public = seeds.public(role)
        key: dict[str, Any] = {"user_id": user, "usage": [role], "keys": {f"ed25519:{public}": public}}
        if role == "master":
            # Signed by the device as well, as the specification allows: readers of before cross-signing see the link.
            key["signatures"] = {user: {f"ed25519:{session.device_id}": session.olm.sign_json(dict(key))}}
        else:
            key["signatures"] = {user: {f"ed25519:{master}": sign(key, seeds.key("master"))}}
        body[f"{role}_key"] = key
    return body


async def _upload(session: Session, seeds: Seeds, password: str) -> None:
    """The first upload needs no password since Matrix 1.11 (MSC3967); servers before that, and some policies, ask."""
    body = _signed_keys(session, seeds)
    try:
        await session.api.request("POST", "keys", "device_signing", "upload", body=body)
    except InteractiveAuthNeeded as asked:
        if not any(flow.get("stages") == [PASSWORD_STAGE] for flow in asked.flows):
            raise
        auth = {
            "type": PASSWORD_STAGE,
            "session": asked.session,
            "identifier": {"type": "m.id.user", "user": session.user_id},
            "password": password,
        }
        await session.api.request("POST", "keys", "device_signing", "upload", body={**body, "auth": auth})


async def _sign_device(session: Session, seeds: Seeds, shown: Mapping[str, Any]) -> None:
    # What is signed is our own knowledge plus the algorithms, which name no key.
    device = _device_object(session) | {"algorithms": shown.get("algorithms", [])}
    signature = sign(device, seeds.key("self_signing"))
    device["signatures"] = {session.user_id: {f"ed25519:{seeds.public('self_signing')}": signature}}
    body = {session.user_id: {session.device_id: device}}
    answer = await session.api.request("POST", "keys", "signatures", "upload", body=body)
    if entry(answer, "failures"):
        raise HomeserverRefused(errcode="M_INVALID_SIGNATURE", status=200)
    log.info("device.signed", user=session.user_id, device=session.device_id)


# --- the copy in secret storage --------------------------------------------------------------------------------------


async def _store_on_server(api: Api, seeds: Seeds) -> str:
    """The default key is named last: until then an older one, if any, stays in force."""
    storage = StorageKey.new()
    await _put_data(api, f"m.secret_storage.key.{storage.id}", storage.description())
    for role in ROLES:
        name = f"m.cross_signing.{role}"
        sealed = encrypt(storage.key, name, encode_base64(seeds.of(role)).encode())
        await _put_data(api, name, {"encrypted": {storage.id: sealed}})
    await _put_data(api, "m.secret_storage.default_key", {"key": storage.id})
    return write_recovery_key(storage.key)


async def _described_key(api: Api, key: bytes) -> str:
    """The id under which ``key`` is described, of those our master key is sealed to. Raises RecoveryKeyWrong."""
    sealed = await _get_data(api, "m.cross_signing.master")
    for key_id in entry(sealed, "encrypted"):
        if opens(key, await _get_data(api, f"m.secret_storage.key.{key_id}")):
            return key_id
    raise RecoveryKeyWrong


async def _fetch_seed(api: Api, key: bytes, key_id: str, role: str) -> bytes:
    name = f"m.cross_signing.{role}"
    sealed = entry(await _get_data(api, name), "encrypted", key_id)
    try:
        return _seed(decrypt(key, name, sealed).decode("ascii"))
    except ValueError as error:
        raise RecoveryKeyWrong from error


async def _put_data(api: Api, name: str, content: Mapping[str, Any]) -> None:
    await api.request("PUT", "user", api.user_id, "account_data", name, body=content)


async def _get_data(api: Api, name: str) -> Mapping[str, Any]:
    """An entry of the account data; empty if there is none."""
    try:
        content = await api.request("GET", "user", api.user_id, "account_data", name)
    except HomeserverRefused as error:
        if error.params.get("errcode") == "M_NOT_FOUND":
            return {}
        raise
    return content if isinstance(content, Mapping) else {}
