"""
From a run of raw records to what must be published: decode, fold, derive, wrap, encode.

No I/O of its own: what is held comes from a `Lookup`, keys from a `Keyring`. Each record ends in `Decided`:
key records, then the asset record as it stands after the run, or a dead letter.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

from keymill.core import claims
from keymill.core.folding import fold
from keymill.core.provisioning import NONE_GIVEN, GivenKey, Keys, Needed, make_key_record, needed
from keymill.errors import InvalidRecord, LostKeys, Reject, UnknownKey
from keymill.kms.keyring import Keyring
from schemas.codec import encode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.records import AssetRecord, DeadLetter
from schemas.values import LogPosition
from streams.claims import Claimed, Claims
from streams.owner import Due
from streams.raw import check_key, coordinates_of, dead_letter, request_id_of, value_in_place
from streams.runs import RawRecord, Run

Decoder = Callable[[bytes, tuple[tuple[str, bytes | None], ...]], AssetEvent]


class Lookup(Claimed, Protocol):
    """What is already written, as far as this processor knows."""

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """The asset record, or None."""
        ...

    def has(self, record_key: bytes) -> bool:
        """Whether the key record exists."""
        ...


class Decided:
    """
    What a run calls for: values by record key, in the order in which they must be published.

    With any `claims` nothing else counts: they must be made and read back first, and the run decided afresh.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.claims = claims.Pending()
        self.assets: dict[bytes, AssetRecord] = {}
        self.key_records: dict[bytes, bytes] = {}
        self.dead_letters: list[DeadLetter] = []
        self.request_ids: dict[bytes, str] = {}

    def refuse(self, letter: DeadLetter, event: AssetEvent | None) -> None:
        """Refuse a record, with the event in it if there is one."""
        self.dead_letters.append(letter)
        if event is not None:
            self.claims.doubt(event)

    def ask(self, record_key: bytes, request_id: str) -> None:
        """Note who asked for the record last; "" for nobody who said so."""
        if request_id:
            self.request_ids[record_key] = request_id
        else:
            self.request_ids.pop(record_key, None)

    def batches(self) -> Iterator[list[Due[AssetRecord]]]:
        """What to publish, as one batch: every asset record stands behind the keys that it names."""
        keys = [Due(key, value, self.request_ids.get(key, "")) for key, value in self.key_records.items()]
        assets = [Due(key, encode(a), self.request_ids.get(key, ""), a) for key, a in self.assets.items()]
        if batch := keys + assets:
            yield batch


class Decider:
    """
    Decides run by run. A function of the run, of what *lookup* holds and of the KMS.

    Args:
        partitions: of the asset topic, for the check that an event stands where its key belongs.
        generation: of the asset topic, counted by `keymill topics adopt`.
        goes_on: where an organization's keys are lost its events are refused and the others decided; else it stops.
    """

    def __init__(
        self, keyring: Keyring, decoder: Decoder, *, partitions: int, generation: int, goes_on: bool = False
    ) -> None:
        self._goes_on = goes_on
        self._keyring = keyring
        self._decode = decoder
        self._partitions = partitions
        self._generation = generation
        self._claims = Claims(keyring, partitions)

    def begin(self, run: Run) -> Decided:
        """An empty decision for *run*; give it each record in order."""
        return Decided(run)

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Read and decide one record. Raises only what is not the record's fault."""
        self.decide(record, self.read(record), decided, lookup)

    def read(self, record: RawRecord) -> AssetEvent | Reject:
        """The event in a record, or why there is none."""
        try:
            event = self._decode(value_in_place(record, self._partitions), record.headers)
            check_key(record, asset_key(event.organization, event.asset))
            return event
        except Reject as error:
            return error

    def decide(self, record: RawRecord, event: AssetEvent | Reject, decided: Decided, lookup: Lookup) -> None:
        """Decide what was read from a record."""
        if isinstance(event, Reject):
            decided.refuse(dead_letter(record, event, None, self._generation), None)
            return
        try:
            self._event(event, record, decided, lookup)
        except Reject as error:
            decided.refuse(dead_letter(record, error, event, self._generation), event)
        except LostKeys as error:
            if not self._goes_on:
                raise
            if not self._is_applied(event, record, decided, lookup):  # then its keys are what an audit finds missing
                lost = UnknownKey(str(error), field="organization", code=LostKeys.code)
                decided.refuse(dead_letter(record, lost, event, self._generation), event)

    def _is_applied(self, event: AssetEvent, record: RawRecord, decided: Decided, lookup: Lookup) -> bool:
        key = asset_key(event.organization, event.asset)
        held = decided.assets.get(key) or lookup.asset(event.organization, event.asset)
        return held is not None and coordinates_of(record, self._generation).position <= held.applied

    def _event(self, event: AssetEvent, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        record_key = asset_key(event.organization, event.asset)
        held = decided.assets.get(record_key) or lookup.asset(event.organization, event.asset)
        at = coordinates_of(record, self._generation)
        root_version = self._root_version(event, record, held)
        names_kids = bool(claims.wishes_of(event))
        derived = self._claims.derived(event) if names_kids else None
        folded = fold(event, at=at, held=held, root_version=root_version, derived=derived)
        if names_kids and folded.changed:
            wanted = claims.claims_of(event, folded.asset, at.position)
            decided.claims.ask(event, self._claims.missing(event, wanted, lookup, decided.claims))
        if decided.claims and (folded.changed or not names_kids):
            decided.assets[record_key] = folded.asset  # for the events behind it; its keys are made in a later pass
            return
        request_id = request_id_of(record)
        for need in needed(folded.asset, event):
            if need.record_key in decided.key_records or lookup.has(need.record_key):
                continue
            keys = self._keys(event, need.root_version)
            chosen = [track.kid for track in need.tracks if track.kid is not None]
            given = self._given(need, event, at.position, folded.changed, decided, lookup) if chosen else NONE_GIVEN
            if given is not None:
                decided.key_records[need.record_key] = self._made(folded.asset, need, keys, given)
                decided.ask(need.record_key, request_id)
        if folded.changed:
            decided.assets[record_key] = folded.asset
            decided.ask(record_key, request_id)

    def _made(self, asset: AssetRecord, need: Needed, keys: Keys, given: Mapping[bytes, GivenKey]) -> bytes:
        return encode(make_key_record(asset, need, keys, given))

    def _given(
        self, need: Needed, event: AssetEvent, at: LogPosition, changed: bool, decided: Decided, lookup: Lookup
    ) -> Mapping[bytes, GivenKey] | None:
        try:
            return self._claims.given(need, event, at, lookup, partial(decided.claims.ask, event))
        except InvalidRecord as error:
            if changed:
                raise
            message = f"{error}; it did once: restore the newest backup of the keys"
            raise LostKeys(message) from None

    def _root_version(self, event: AssetEvent, record: RawRecord, held: AssetRecord | None) -> int:
        try:
            return self._keyring.root_version_at(event.organization, record.timestamp_ms)
        except UnknownKey as error:
            if held is not None:
                raise _lost(error, event) from None
            raise UnknownKey(str(error), field="organization", code="unknown_organization") from None

    def _keys(self, event: AssetEvent, root_version: int) -> Keys:
        try:
            return self._keyring.keys_for(event.organization, root_version)
        except UnknownKey as error:
            raise _lost(error, event) from None


def _lost(error: UnknownKey, event: AssetEvent) -> LostKeys:
    """The keys were here once: an old copy of them is no fault of the event."""
    return LostKeys(f"asset {event.organization}/{event.asset}: {error}; restore the newest backup of the keys")
