"""
What requests to the owner of a partition call for: key records wrapped again, or published again because they are gone,
and dead letters that are gone.

No I/O of its own: what is held comes from a `Lookup`, events that a repair names from the run's `Decided`, keys from a
`Keyring`. Nothing here can change a key: what contradicts the view is refused as a whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from keymill.core.rewrapping import rewrap
from keymill.core.view import Fate, KidOwner, identity_of, judge_asset_record, judge_key_record
from keymill.errors import Conflict, Corrupt, InvalidRecord, Reject
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import RecordKeys
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.operations import OwnerRequest, RepairRequest, RequestKind
from schemas.records import AssetRecord, DeadLetter, KeyRecord
from streams import decide
from streams.claims import Claimed
from streams.owner import Due
from streams.raw import check_authentic, check_key, dead_letter, request_id_of, value_in_place
from streams.repairs import Named, contradicted, offsets_named, request_in_place, run_over
from streams.runs import RawRecord, Run

Request = OwnerRequest | RepairRequest


class Lookup(decide.Lookup, Protocol):
    """What the view holds; all that this worker wrote to the partition is in it."""

    def key_records(self, organization: str, asset: str) -> Mapping[bytes, KeyRecord]:
        """Every key record of an asset by record key."""
        ...

    def owners(self, organization: str, kids: Iterable[bytes]) -> Mapping[bytes, KidOwner]:
        """Who each KID of an organization belongs to, as far as it is known."""
        ...


class Decided:
    """
    What a run of requests calls for.

    `named` are the events that its repairs name, and `restored` dead letters of asset events, by offset; `dead_letters`
    are the requests' own.
    """

    def __init__(self) -> None:
        self.named: Mapping[int, RawRecord] = {}
        self.assets: dict[bytes, AssetRecord] = {}
        self.key_records: dict[bytes, KeyRecord] = {}
        self.request_ids: dict[bytes, str] = {}
        self.dead_letters: list[DeadLetter] = []
        self.restored: dict[int, DeadLetter] = {}

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
        self._keys = RecordKeys(lambda: keyring)
        self._assets = assets
        self._partitions = partitions
        self._generation = generation
        self._asset_generation = asset_generation

    def wanted(self, run: Run) -> list[int]:
        """The offsets of the asset topic that the run's repairs name, ascending."""
        return offsets_named(run, self._named_in)

    def begin(self, _run: Run) -> Decided:
        """An empty decision, which is given what the run's repairs name."""
        return Decided()

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Decide one request. Raises only what is not the request's fault."""
        request: Request | None = None
        try:
            request = self._request_of(record)
            if _is_repair(request):
                self._repair(request, record, decided, lookup)
            elif isinstance(request, OwnerRequest):
                self._rewrap(request, record, decided, lookup)
        except Reject as error:
            decided.dead_letters.append(dead_letter(record, error, request, self._generation))

    def _request_of(self, record: RawRecord) -> Request:
        if topics.source_named(record.key or b""):
            return request_in_place(record, self._keys)
        request = decode(value_in_place(record, self._partitions), OwnerRequest)
        check_key(record, asset_key(request.organization, request.asset))
        check_authentic(record, self._keys)
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

    def _named_in(self, record: RawRecord) -> Named | None:
        request = self._request_of(record)
        return self._named(request, record) if _is_repair(request) else None

    def _named(self, request: Request, record: RawRecord) -> Named:
        return Named.of(request, self._asset_generation, record.key if isinstance(request, OwnerRequest) else None)

    def _repair(self, request: Request, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        named = self._named(request, record)
        made, states = self._fold(named, decided, lookup)
        letters = {letter.offset: letter for letter in made.dead_letters}
        for key, (organization, asset) in _subjects(made).items():
            held = decided.assets.get(key) or lookup.asset(organization, asset)
            new = made.assets.get(key)
            if held is not None and held not in states and (letters or new is None or new.applied > held.applied):
                raise contradicted(f"{key.decode()}: the asset record that is held is no fold of the events named")
            if new is not None:
                self._give_back(new, made, held, _id_of(request, record), decided, lookup)
        decided.restored |= letters

    def _give_back(
        self, asset: AssetRecord, made: decide.Decided, held: AssetRecord | None, request_id: str,
        decided: Decided, lookup: Lookup,
    ) -> None:  # fmt: skip
        """Add what an asset lacks to *decided*."""
        present = {**lookup.key_records(asset.organization, asset.asset), **decided.key_records}
        missing: dict[bytes, KeyRecord] = {}
        for name, value in made.key_records.items():
            new = decode(value, KeyRecord)
            if _is_missing(new, present.get(name), lookup):
                missing[name] = new
        verdict = judge_asset_record(asset, held)
        if verdict.fate is Fate.QUARANTINED:
            raise contradicted(f"asset {asset.organization}/{asset.asset}: {verdict.reason}")
        decided.key_records |= missing
        key = asset_key(asset.organization, asset.asset)
        if verdict.fate is Fate.APPLIED:
            decided.assets[key] = asset
        decided.request_ids |= dict.fromkeys((*missing, key), request_id)

    def _fold(self, named: Named, decided: Decided, lookup: Lookup) -> tuple[decide.Decided, list[AssetRecord]]:
        """Fold from nothing; with every state of the asset on the way."""
        events = named.among(decided.named)
        made, afresh, states = self._assets.begin(run_over(events)), _Afresh(lookup), list[AssetRecord]()
        for event in events:
            letters = len(made.dead_letters)
            self._assets.record(event, made, afresh)
            named.check(event, made.dead_letters[letters:])
            if made.claims:
                raise contradicted(f"the claims of the event at offset {event.offset} are not on their topic")
            states += made.assets.values()
        return made, states


def _is_repair(request: Request) -> bool:
    return isinstance(request, RepairRequest) or request.kind is RequestKind.REPAIR


def _subjects(made: decide.Decided) -> dict[bytes, tuple[str, str]]:
    """The one asset that a fold is about, by record key; none where no event could be read."""
    found: list[AssetRecord | DeadLetter] = [*made.assets.values(), *made.dead_letters]
    return {
        asset_key(each.organization, each.asset): (each.organization, each.asset)
        for each in found
        if each.organization and each.asset
    }


def _is_missing(new: KeyRecord, held: KeyRecord | None, lookup: Lookup) -> bool:
    """Whether a key record is to be published; under another KEK epoch it is the one that is held."""
    if held is not None and identity_of(held) == identity_of(new):
        return False
    owners = lookup.owners(new.organization, [track.kid for track in new.tracks])
    verdict = judge_key_record(new, held, owners)
    if verdict.fate is Fate.QUARANTINED:
        kids = ", ".join(track.kid.hex() for track in new.tracks)
        raise contradicted(f"key record of {new.organization}/{new.asset}, KIDs {kids}: {verdict.reason}")
    return verdict.fate is Fate.APPLIED


def _id_of(request: Request, record: RawRecord) -> str:
    return request_id_of(record) or request.request_id
