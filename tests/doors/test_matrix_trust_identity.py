"""The bot's own cross-signing identity on a real homeserver. The chain is checked here by independent code."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridges.matrix import crosssigning
from bridges.matrix.secretstorage import write_recovery_key
from bridges.matrix.session import Session
from tests.parts.matrix_bot import Bot
from tests.parts.matrix_person import HandIdentity, replace_identity
from tests.parts.synapse import CLIENT_API, Account, Synapse
from trust.errors import IdentityElsewhere, IdentityMissing, RecoveryKeyWrong


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    bot = await Bot.arrive(synapse, tmp_path / "bot")
    yield bot
    await bot.close()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _check(value: dict[str, Any], user: str, public: str) -> None:
    """Raises InvalidSignature or KeyError if ``value`` is not signed by ``public`` in the name of ``user``."""
    body = {name: item for name, item in value.items() if name not in ("signatures", "unsigned")}
    data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signature = _decode(value["signatures"][user][f"ed25519:{public}"])
    Ed25519PublicKey.from_public_bytes(_decode(public)).verify(signature, data)


def _chain_by_hand(server: Synapse, reader: Account, bot: Session) -> str:
    """Ask as somebody else for the bot's keys and check device <- self-signing <- master. The master's public key."""
    user, token = bot.user_id, server.log_in(reader).access_token
    answer = server.call("POST", f"{CLIENT_API}/keys/query", {"device_keys": {user: []}}, token=token)
    (master,) = answer["master_keys"][user]["keys"].values()
    (self_signing,) = answer["self_signing_keys"][user]["keys"].values()
    device = answer["device_keys"][user][bot.device_id]
    _check(answer["self_signing_keys"][user], user, master)
    _check(device, user, self_signing)
    ours = bot.olm.account.identity_keys
    expected = {f"ed25519:{bot.device_id}": ours["ed25519"], f"curve25519:{bot.device_id}": ours["curve25519"]}
    assert expected == device["keys"]
    return str(master)


async def test_the_chain_holds_before_and_after_a_restart_and_on_a_new_device(bot: Bot, synapse: Synapse) -> None:
    reader = synapse.new_account("reader")
    await crosssigning.create(bot.session, bot.database, bot.account.password)
    master = _chain_by_hand(synapse, reader, bot.session)

    await bot.restart()
    await crosssigning.ensure(bot.session, bot.database)
    assert master == _chain_by_hand(synapse, reader, bot.session)

    first_device = bot.session.device_id
    await bot.session.close()
    bot.session = await Session.log_in(bot.settings, bot.database, bot.account.password)
    await bot.session.publish_keys()
    with pytest.raises(KeyError):  # not signed yet
        _chain_by_hand(synapse, reader, bot.session)
    await crosssigning.ensure(bot.session, bot.database)
    assert first_device != bot.session.device_id
    assert master == _chain_by_hand(synapse, reader, bot.session)


async def test_a_second_creation_keeps_the_identity_and_replaces_the_recovery_key(
    bot: Bot, synapse: Synapse, tmp_path: Path
) -> None:
    reader = synapse.new_account("reader")
    first = await crosssigning.create(bot.session, bot.database, bot.account.password)
    master = _chain_by_hand(synapse, reader, bot.session)
    second = await crosssigning.create(bot.session, bot.database, bot.account.password)
    assert master == _chain_by_hand(synapse, reader, bot.session)
    assert first != second

    other = await Bot.arrive(synapse, tmp_path / "other", account=bot.account)
    with pytest.raises(RecoveryKeyWrong):
        await crosssigning.restore(other.session, other.database, first)
    await crosssigning.restore(other.session, other.database, second)
    await other.close()


async def test_without_its_seeds_the_identity_is_not_replaced_and_the_recovery_key_brings_it_back(
    bot: Bot, synapse: Synapse, tmp_path: Path
) -> None:
    recovery_key = await crosssigning.create(bot.session, bot.database, bot.account.password)
    reader = synapse.new_account("reader")
    master = _chain_by_hand(synapse, reader, bot.session)

    moved = await Bot.arrive(synapse, tmp_path / "moved", account=bot.account)
    with pytest.raises(IdentityElsewhere):
        await crosssigning.ensure(moved.session, moved.database)
    with pytest.raises(IdentityElsewhere):
        await crosssigning.create(moved.session, moved.database, bot.account.password)
    await crosssigning.restore(moved.session, moved.database, recovery_key)
    assert master == _chain_by_hand(synapse, reader, moved.session)
    await moved.restart()
    await crosssigning.ensure(moved.session, moved.database)
    await moved.close()


async def test_a_wrong_recovery_key_changes_nothing(bot: Bot, synapse: Synapse, tmp_path: Path) -> None:
    await crosssigning.create(bot.session, bot.database, bot.account.password)
    moved = await Bot.arrive(synapse, tmp_path / "moved", account=bot.account)
    stranger = await Bot.arrive(synapse, tmp_path / "stranger")
    foreign = await crosssigning.create(stranger.session, stranger.database, stranger.account.password)
    for wrong in (foreign, "EsTx", foreign[:-1] + ("a" if foreign[-1] != "a" else "b")):
        with pytest.raises(RecoveryKeyWrong):
            await crosssigning.restore(moved.session, moved.database, wrong)
    with pytest.raises(IdentityElsewhere):
        await crosssigning.ensure(moved.session, moved.database)
    await moved.close()
    await stranger.close()


async def test_an_account_without_an_identity_says_so(bot: Bot) -> None:
    with pytest.raises(IdentityMissing):
        await crosssigning.ensure(bot.session, bot.database)
    with pytest.raises(IdentityMissing):
        await crosssigning.restore(bot.session, bot.database, write_recovery_key(bytes(32)))


async def test_an_identity_that_somebody_replaced_on_the_server_is_not_taken_for_ours(
    bot: Bot, synapse: Synapse
) -> None:
    await crosssigning.create(bot.session, bot.database, bot.account.password)
    replace_identity(synapse, bot.account, HandIdentity(bot.account.user_id))
    with pytest.raises(IdentityElsewhere):
        await crosssigning.ensure(bot.session, bot.database)
    with pytest.raises(IdentityElsewhere):
        await crosssigning.create(bot.session, bot.database, bot.account.password)


async def test_the_seeds_are_sealed_at_rest_and_the_recovery_key_is_kept_nowhere(bot: Bot, tmp_path: Path) -> None:
    recovery_key = await crosssigning.create(bot.session, bot.database, bot.account.password)
    async with bot.database.transaction() as tx:
        packed = await tx.secrets.get(crosssigning.SECRET)
    assert packed is not None
    seeds = crosssigning.Seeds.unpack(packed)
    kept = _all_files(tmp_path)
    assert b"matrix/cross-signing" in kept
    for role in crosssigning.ROLES:
        assert seeds.of(role) not in kept
        assert base64.b64encode(seeds.of(role)).rstrip(b"=") not in kept
    assert recovery_key.encode() not in kept
    assert recovery_key.replace(" ", "").encode() not in kept


def _all_files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
