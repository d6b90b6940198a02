"""
What requests to the owner of a partition call for: key records wrapped again, or published again because they are gone.

No I/O of its own: what is held comes from a `Lookup`, events that a repair names from the run's `Decided`, keys from a
`Keyring`. Nothing here can change a key: what contradicts the view is refused as a whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from keymill.core.rewrapping import rewrap
from keymill.core.view import Fate, KidOwner, identity_of, judge_asset_record, judge_key_record
from keymill.errors import Conflict, Corrupt, InvalidRecord, Reject
from keymill.kms.keyring import Keyring
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.operations import OwnerRequest, RequestKind
from schemas.records import AssetRecord, DeadLetter, KeyRecord
from streams import decide
from streams.claims import Claimed
from streams.owner import Due
from streams.raw import check_key, dead_letter, request_id_of, value_in_place
from streams.runs import RawRecord, Run


class Lookup(decide.Lookup, Protocol):
    """What the view holds; all that this worker wrote to the partition is in it."""

    def key_records(self, organization: str, asset: str) -> Mapping[bytes, KeyRecord]:
        """Every key record of an asset by record key."""
        ...

    def owners(self, organization: str, kids: Iterable[bytes]) -> Mapping[bytes, KidOwner]:
        """Who each KID of an organization belongs to, as far as it is known."""
        ...


class Decided:
    """What a run of requests calls for. `events` are those that its repairs name, by offset."""

    def __init__(self, events: Mapping[int, RawRecord]) -> None:
        self.events = events
        self.assets: dict[bytes, AssetRecord] = {}
        self.key_records: dict[bytes, KeyRecord] = {}
        self.request_ids: dict[bytes, str] = {}
        self.dead_letters: list[DeadLetter] = []

    def batches(self) -> Iterator[list[Due[AssetRecord]]]:
        """One batch: every asset record stands behind the keys that it names."""
        keys = [Due[AssetRecord](key, encode(each), self.request_ids[key]) for key, each in self.key_records.items()]
        assets = [Due(key, encode(each), self.request_ids[key], each) for key, each in self.assets.items()]
        if batch := keys + assets:
            yield batch


class _Afresh:
    """
    A `decide.Lookup` that knows of no asset and no key, so that everything is made again and can be compared.

    Who has which KID is a fact of the log, which no repair makes again.
    """

    def __init__(self, known: Claimed) -> None:
        self.claim = known.claim
        self.owner = known.owner

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """None: the fold begins with the first event."""
        return None

    def has(self, record_key: bytes) -> bool:
        """False."""
        return False


class Decider:
    """
    Decides run by run.

    Args:
        assets: what decides asset events; a repair lets it fold the events from nothing.
        partitions, generation: of the topic of requests.
        asset_generation: of the asset topic, which repairs name.
    """

    def __init__(
        self, keyring: Keyring, assets: decide.Decider, *, partitions: int, generation: int, asset_generation: int
    ) -> None:
        self._keyring = keyring
        self._assets = assets
        self._partitions = partitions
        self._generation = generation
        self._asset_generation = asset_generation

    def wanted(self, run: Run) -> list[int]:
        """The offsets of the asset topic that the run's repairs name, ascending."""
        found: set[int] = set()
        for record in run.records:
            try:
                request = self._request_of(record)
                found.update(self._offsets(request) if request.kind is RequestKind.REPAIR else ())
            except Reject:
                continue  # it becomes a dead letter when its turn comes
        return sorted(found)

    def begin(self, _run: Run) -> Decided:
        """An empty decision of a run that names no event."""
        return Decided({})

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Decide one request. Raises only what is not the request's fault."""
        request: OwnerRequest | None = None
        try:
            request = self._request_of(record)
            match request.kind:
                case RequestKind.REWRAP:
                    self._rewrap(request, record, decided, lookup)
                case RequestKind.REPAIR:
                    self._repair(request, record, decided, lookup)
        except Reject as error:
            decided.dead_letters.append(dead_letter(record, error, request, self._generation))

    def _request_of(self, record: RawRecord) -> OwnerRequest:
        request = decode(value_in_place(record, self._partitions), OwnerRequest)
        check_key(record, asset_key(request.organization, request.asset))
        return request

    def _rewrap(self, request: OwnerRequest, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        organization, epoch = request.organization, request.kek_epoch
        if epoch is None:
            raise InvalidRecord("a request to wrap again names the KEK epoch", field="kek_epoch")
        current = self._keyring.current_epoch(organization)
        if epoch > current:
            message = f"KEK epoch {epoch} of {organization} does not wrap yet, {current} does: activate it first"
            raise Conflict(message, field="kek_epoch", code="kek_epoch_not_active")
        kek, k_fp = self._keyring.kek(organization, epoch), self._keyring.k_fp(organization)
        closed: list[str] = []
        for key, held in lookup.key_records(organization, request.asset).items():
            newest = decided.key_records.get(key, held)
            if newest.kek_epoch >= epoch:
                continue
            under = self._keyring.kek(organization, newest.kek_epoch)
            try:
                again = rewrap(newest, held_under=under, kek=kek, kek_epoch=epoch, k_fp=k_fp)
            except Corrupt as error:
                closed.append(str(error))
                continue
            decided.key_records[key] = again
            decided.request_ids[key] = _id_of(request, record)
        if closed:
            raise Conflict("; ".join(closed), field="asset", code="key_record_does_not_open")

    def _offsets(self, request: OwnerRequest) -> Sequence[int]:
        offsets = request.offsets
        if not offsets or list(offsets) != sorted(set(offsets)) or offsets[0] < 0:
            raise InvalidRecord("a repair names the offsets of the asset's events, ascending", field="offsets")
        if request.generation != self._asset_generation:
            message = f"the offsets are of generation {request.generation}, the topic has {self._asset_generation}"
            raise Conflict(message, field="generation", code="wrong_generation")
        return offsets

    def _repair(self, request: OwnerRequest, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        key = asset_key(request.organization, request.asset)
        held = decided.assets.get(key) or lookup.asset(request.organization, request.asset)
        made = self._fold(self._events(request, decided, key), held, key, lookup)
        present = {**lookup.key_records(request.organization, request.asset), **decided.key_records}
        missing: dict[bytes, KeyRecord] = {}
        for name, value in made.key_records.items():
            new = decode(value, KeyRecord)
            if _is_missing(new, present.get(name), lookup):
                missing[name] = new
        verdict = judge_asset_record(made.assets[key], held)
        if verdict.fate is Fate.QUARANTINED:
            raise _contradicted(f"asset {request.organization}/{request.asset}: {verdict.reason}")
        decided.key_records |= missing
        if verdict.fate is Fate.APPLIED:
            decided.assets[key] = made.assets[key]
        decided.request_ids |= dict.fromkeys((*missing, key), _id_of(request, record))

    def _events(self, request: OwnerRequest, decided: Decided, key: bytes) -> list[RawRecord]:
        offsets = self._offsets(request)
        found = [decided.events[offset] for offset in offsets if offset in decided.events]
        if len(found) != len(offsets):
            lacking = next(offset for offset in offsets if offset not in decided.events)
            message = f"there is no event at offset {lacking} of this partition of the asset topic"
            raise InvalidRecord(message, field="offsets", code="event_missing")
        for event in found:
            if event.key != key:
                message = f"the event at offset {event.offset} is of another asset"
                raise InvalidRecord(message, field="offsets", code="event_of_another_asset")
        return found

    def _fold(
        self, events: Sequence[RawRecord], held: AssetRecord | None, key: bytes, lookup: Lookup
    ) -> decide.Decided:
        """Fold from nothing. Where that leads beyond the held record it must have passed it, or an event is lacking."""
        made, met, afresh = self._assets.begin(_run_of(events)), held is None, _Afresh(lookup)
        for event in events:
            self._assets.record(event, made, afresh)
            if made.dead_letters:
                raise _contradicted(f"the event at offset {event.offset} is refused: {made.dead_letters[0].message}")
            if made.claims:
                raise _contradicted(f"the claims of the event at offset {event.offset} are not on their topic")
            met = met or made.assets[key] == held
        if held is not None and not met and made.assets[key].applied > held.applied:
            raise _contradicted(f"{key.decode()}: the asset record that is held is no fold of the events named")
        return made


def _is_missing(new: KeyRecord, held: KeyRecord | None, lookup: Lookup) -> bool:
    """Whether a key record is to be published; under another KEK epoch it is the one that is held."""
    if held is not None and identity_of(held) == identity_of(new):
        return False
    owners = lookup.owners(new.organization, [track.kid for track in new.tracks])
    verdict = judge_key_record(new, held, owners)
    if verdict.fate is Fate.QUARANTINED:
        kids = ", ".join(track.kid.hex() for track in new.tracks)
        raise _contradicted(f"key record of {new.organization}/{new.asset}, KIDs {kids}: {verdict.reason}")
    return verdict.fate is Fate.APPLIED


def _contradicted(message: str) -> Conflict:
    return Conflict(f"{message}; nothing was written, ask `keymill audit`", code="repair_contradicted")


def _id_of(request: OwnerRequest, record: RawRecord) -> str:
    return request_id_of(record) or request.request_id


def _run_of(events: Sequence[RawRecord]) -> Run:
    first, last = events[0], events[-1]
    return Run(
        topic=first.topic, partition=first.partition, generation=0, epoch=0,
        start=first.offset, end=last.offset + 1, records=events, size=0,
    )  # fmt: skip
