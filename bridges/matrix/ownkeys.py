"""The keys of our own device on nio's Olm machine, and how memory and disk are held together.

Owns the one-time and fallback keys: when the server needs more, that their private halves are on disk before their
public ones leave, and that no name is used twice. Knows nothing of HTTP nor of what strangers send.

Where memory and disk could come apart, disk wins: what belongs together is one transaction of nio's store, and if that
fails the machine is loaded anew.
Source: Matrix Client-Server API, module "End-to-end encryption", "One-time and fallback keys".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
from nio.crypto import Olm
from nio.store import MatrixStore
from peewee import PeeweeException  # type: ignore[import-untyped]

from trust.errors import StoreAway

log = structlog.get_logger()

ONE_TIME_KEY: Final = "signed_curve25519"


class OwnKeys(Olm):  # type: ignore[misc] # nio has no types
    """See the module; ``HardenedOlm`` is what is used."""

    def __init__(self, user_id: str, device_id: str, store: MatrixStore) -> None:
        super().__init__(user_id, device_id, store)
        self._fallback_wanted = False

    def close(self) -> None:
        """Close the files."""
        self.store.database.close()

    def observe(self, one_time_keys: object, unused_fallback_keys: object) -> None:
        """What a sync says the server has left of our keys. Anything but an object or a list: it does not say."""
        if isinstance(one_time_keys, Mapping):
            # An algorithm that is not listed has none left.
            count = one_time_keys.get(ONE_TIME_KEY, 0)
            self.uploaded_key_count = count if isinstance(count, int) else 0
        if isinstance(unused_fallback_keys, list):
            self._fallback_wanted = ONE_TIME_KEY not in unused_fallback_keys

    def keys_to_upload(self) -> dict[str, Any] | None:
        """The body of ``/keys/upload``, or None if the server lacks nothing. Raises StoreAway.

        The private halves are on disk before this returns. What was to be uploaded when we crashed is uploaded again,
        the very same keys: the server may have them.
        """
        first = not self.account.shared
        content: dict[str, Any] = {"device_keys": self._device_keys()} if first else {}
        with self._stored():
            self._make_keys(first=first)
            self.save_account()
        if one_time := self.account.one_time_keys["curve25519"]:
            content["one_time_keys"] = {
                f"{ONE_TIME_KEY}:{key_id}": self._signed({"key": key}) for key_id, key in one_time.items()
            }
        if fallback := self.account._account.fallback_key:
            content["fallback_keys"] = {
                f"{ONE_TIME_KEY}:{key_id}": self._signed({"key": key.to_base64(), "fallback": True})
                for key_id, key in fallback.items()
            }
        return content or None

    def uploaded(self, answer: Mapping[str, Any]) -> None:
        """The server took what ``keys_to_upload`` gave; ``answer`` is its answer. Raises StoreAway."""
        self.account.shared = True
        self._fallback_wanted = False
        self.observe(answer.get("one_time_key_counts"), None)
        self.skip_unpublished()

    def skip_unpublished(self) -> None:
        """Take the keys made so far for published, so that new ones are made. Raises StoreAway."""
        self.account.mark_keys_as_published()
        with self._stored():
            self.save_account()

    def publish_again(self) -> None:
        """The server has lost our device keys: upload them once more, with a new fallback key."""
        self.account.shared = False

    def _make_keys(self, *, first: bool) -> None:
        wanted = self.account.max_one_time_keys
        left = 0 if first else self.uploaded_key_count
        if left is not None and left <= wanted // 2 and not self.account.one_time_keys["curve25519"]:
            self.account.generate_one_time_keys(wanted - max(left, 0))
        if (first or self._fallback_wanted) and not self.account._account.fallback_key:
            self.account._account.generate_fallback_key()

    def _device_keys(self) -> dict[str, Any]:
        ours = self.account.identity_keys
        return self._signed(
            {
                "algorithms": list(self._algorithms),
                "device_id": self.device_id,
                "user_id": self.user_id,
                "keys": {f"{kind}:{self.device_id}": ours[kind] for kind in ("curve25519", "ed25519")},
            }
        )

    def _signed(self, value: dict[str, Any]) -> dict[str, Any]:
        signature = self.sign_json(value)
        return {**value, "signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    # --- memory and disk ---------------------------------------------------------------------------------------------

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """One transaction of nio's store. Raises StoreAway, and then memory is again what is on disk."""
        try:
            with self.store.database.atomic():
                yield
        except PeeweeException as error:
            log.exception("olm-store.away", device=self.device_id)
            self._load_anew()
            raise StoreAway from error

    def _load_anew(self) -> None:
        try:
            self.account = self.store.load_account()
            self.load()
        except PeeweeException as error:
            raise StoreAway from error
