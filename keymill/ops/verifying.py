"""
What a comparison derives: KIDs and fingerprints without wrapping, and when two key records are the same.

A key record is compared by its bytes where it has the usual shape; what is rarer is decoded.
"""

from collections.abc import Mapping
from typing import Any, Final

from keymill.core.provisioning import GivenKey, Keys, Needed, name_key_record
from keymill.core.view import identity_of
from keymill.snapshot import peek
from schemas.codec import HEADER_SIZE, decode, encode
from schemas.events import AssetEvent
from schemas.records import AssetRecord, KeyRecord
from streams.decide import Decider

_EPOCH_AT: Final = HEADER_SIZE
_UNWRAPPED: Final = 0
"""The epoch of a key record that was made to be compared: no KEK has it."""


class Verifier(Decider):
    """Decides as the processors do; derived key records have no keys in them, and which KEK wraps does not count."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._known: dict[tuple[str, int], Keys] = {}

    def _keys(self, event: AssetEvent, root_version: int) -> Keys:
        at = event.organization, root_version
        keys = self._known.get(at)
        if keys is None:
            keys = self._known[at] = super()._keys(event, root_version)
        return keys

    def _made(self, asset: AssetRecord, need: Needed, keys: Keys, given: Mapping[bytes, GivenKey]) -> bytes:
        if given:
            return super()._made(asset, need, keys, given)
        return encode(name_key_record(asset, need, keys))


def same_keys(held: bytes, expected: bytes) -> bool:
    """
    Whether two key records are of the same keys; the wrapping does not count.

    Raises:
        InvalidRecord: *held* cannot be read.
    """
    if held == expected:
        return True
    if (found := peek.key_identity(held)) is not None:
        unwrapped = expected[_EPOCH_AT] == _UNWRAPPED
        if found == (expected[_EPOCH_AT + 1 :] if unwrapped else peek.key_identity(expected)):
            return True
    return identity_of(decode(held, KeyRecord)) == identity_of(decode(expected, KeyRecord))
