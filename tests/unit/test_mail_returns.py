"""Return addresses: one for each delivery, not to be guessed, and no longer than mail allows."""

from __future__ import annotations

import pytest

from bridges.mail.returns import Returned, ReturnPaths
from tests.parts.mail import a_group
from trust.records import DeliveryId

PATHS = ReturnPaths(b"a key")
ADDRESS = PATHS.address(a_group(), DeliveryId(42), "ABCD2345")


def test_a_return_address_names_list_and_delivery_and_is_read_back_in_any_case() -> None:
    found = PATHS.read(ADDRESS.upper())

    assert ADDRESS.startswith("tld-ops-bounce+42-")
    assert ADDRESS.endswith("@lists.test")
    assert ADDRESS == ADDRESS.lower()
    assert found is not None
    assert ("tld-ops@lists.test", 42) == (found.group_address, found.delivery)
    assert PATHS.is_genuine(found, "ABCD2345")


def test_another_key_another_post_or_another_delivery_gives_another_address() -> None:
    found = PATHS.read(ADDRESS)

    assert found is not None
    assert not ReturnPaths(b"another key").is_genuine(found, "ABCD2345")
    assert not PATHS.is_genuine(found, "ABCD2346")
    assert not PATHS.is_genuine(Returned(found.group_address, DeliveryId(43), found.mac), "ABCD2345")


def test_the_longest_local_part_is_minded() -> None:
    fits, too_long = a_group(address="x" * 37 + "@lists.test"), a_group(address="x" * 38 + "@lists.test")

    assert 64 == PATHS.address(fits, DeliveryId(42), "ABCD2345").index("@")
    assert too_long.address == PATHS.address(too_long, DeliveryId(42), "ABCD2345")


@pytest.mark.parametrize(
    "address",
    [
        "tld-ops@lists.test",
        "tld-ops+x@lists.test",
        "tld-ops-bounce@lists.test",
        ADDRESS.replace("+42", "+042"),
        ADDRESS.replace("+42", "+0"),
        ADDRESS.replace("+42", "+4٢"),
        ADDRESS.replace("+42", "+" + "1" * 19),
        ADDRESS.replace("@", "a@"),
        ADDRESS.replace("@", "1@"),
        ADDRESS + "\n",
        ADDRESS + "@other.test",
        "-bounce+42-" + "a" * 16 + "@lists.test",
        "a" * 100_000 + "-bounce+",
    ],
)
def test_what_is_not_of_the_form_is_no_return_address(address: str) -> None:
    assert PATHS.read(address) is None


def test_the_mac_is_in_no_repr() -> None:
    found = PATHS.read(ADDRESS)

    assert found is not None
    assert found.mac not in repr(found)
