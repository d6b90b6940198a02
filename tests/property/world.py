"""One partition of the product in memory: the core between two logs, as the processor and the views use it."""

from dataclasses import dataclass, field

from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.core.view import Fate, KidOwner, Verdict, identity_of, judge_asset_record, judge_key_record, misplaced
from keymill.errors import Reject
from keymill.kms.keyring import Keyring
from schemas.codec import decode, encode
from schemas.events import AssetEvent
from schemas.ids import asset_key, is_key_set
from schemas.records import AssetRecord, KeyRecord
from schemas.values import LogPosition
from tests.fakes import LogRecord, MemoryLog

Write = tuple[bytes, bytes]


@dataclass
class View:
    """A reader of the key topic: the guard over dictionaries, as `keymill.snapshot` does it over LMDB."""

    log: MemoryLog
    position: int = 0
    assets: dict[bytes, AssetRecord] = field(default_factory=dict)
    keys: dict[bytes, KeyRecord] = field(default_factory=dict)
    owners: dict[bytes, KidOwner] = field(default_factory=dict)
    quarantined: list[Verdict] = field(default_factory=list)

    def catch_up(self, most: int | None = None) -> list[bytes]:
        """Apply the next records (all, or *most*); return the record keys whose records were stale."""
        regressed = []
        for record in list(self.log.read(self.position))[:most]:
            verdict = self.apply(record)
            self.position = record.offset + 1
            if verdict.fate is Fate.STALE:
                regressed.append(record.key)
            elif verdict.fate is Fate.QUARANTINED:
                self.quarantined.append(verdict)
        return regressed

    def apply(self, record: LogRecord) -> Verdict:
        """Judge one record and keep it if it is applied."""
        if is_key_set(record.key):
            return self._apply_keys(record.key, decode(record.value, KeyRecord))
        asset = decode(record.value, AssetRecord)
        verdict = misplaced(record.key, asset) or judge_asset_record(asset, self.assets.get(record.key))
        if verdict.fate is Fate.APPLIED:
            self.assets[record.key] = asset
        return verdict

    def _apply_keys(self, record_key: bytes, record: KeyRecord) -> Verdict:
        verdict = misplaced(record_key, record) or judge_key_record(record, self.keys.get(record_key), self.owners)
        if verdict.fate is Fate.APPLIED:
            self.keys[record_key] = record
            for track in record.tracks:
                self.owners.setdefault(track.kid, KidOwner(asset=record.asset, fp=track.fp))
        return verdict

    def state(self) -> tuple[object, ...]:
        """What a reader would serve: everything but wrapping."""
        return self.assets, {key: (identity_of(record), record.kek_epoch) for key, record in self.keys.items()}


@dataclass
class Owner:
    """The owner of the partition. A crash is a new `Owner` over the same logs and the same commit."""

    events: MemoryLog
    keys: MemoryLog
    keyring: Keyring
    epoch: int
    position: int = 0
    view: View = field(init=False)
    dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.view = View(self.keys)
        self.repair()

    def repair(self) -> None:
        """Read back; where somebody's late write regressed a record, write the right one again."""
        while regressed := self.view.catch_up():
            for key in dict.fromkeys(regressed):
                right = self.view.keys[key] if is_key_set(key) else self.view.assets[key]
                self.keys.append(key, encode(right))

    def decide(self, most: int) -> tuple[set[int], list[Write], int]:
        """The dead letters, the writes in their order, and the position after the next *most* events."""
        assets: dict[bytes, AssetRecord] = {}
        made: dict[bytes, bytes] = {}
        dead, end = set(), self.position
        for record in list(self.events.read(self.position))[:most]:
            event, end = decode(record.value, AssetEvent), record.offset + 1
            held = assets.get(record.key) or self.view.assets.get(record.key)
            try:
                folded = fold(event, at=place(record), held=held, root_version=self.root_version(record))
            except Reject:
                dead.add(record.offset)
                continue
            for need in needed(folded.asset, event):
                if need.record_key not in made and need.record_key not in self.view.keys:
                    keys = self.keys_for(event.organization, need.root_version)
                    made[need.record_key] = encode(make_key_record(folded.asset, need, keys))
            if folded.changed:
                assets[record.key] = folded.asset
        return dead, [*made.items(), *((key, encode(asset)) for key, asset in assets.items())], end

    def root_version(self, record: LogRecord) -> int:
        """The schedule's, by the record's timestamp."""
        return self.keyring.root_version_at("demo", record.timestamp)

    def keys_for(self, organization: str, root_version: int) -> Keys:
        """Under the epoch that this owner knows."""
        return Keys(
            prk=self.keyring.prk(organization, root_version),
            k_fp=self.keyring.k_fp(organization),
            kek=self.keyring.kek(organization, self.epoch),
            kek_epoch=self.epoch,
        )

    def rewrap(self) -> None:
        """Write every key record of a lower epoch again."""
        for asset in list(self.view.assets.values()):
            for need in needed(asset, None):
                held = self.view.keys.get(need.record_key)
                if held is not None and held.kek_epoch < self.epoch:
                    keys = self.keys_for(asset.organization, need.root_version)
                    self.keys.append(need.record_key, encode(make_key_record(asset, need, keys)))


def place(record: LogRecord) -> Coordinates:
    """Where an event stands."""
    return Coordinates(
        partition=0, position=LogPosition(generation=0, offset=record.offset), timestamp=record.timestamp
    )


def replayed(events: MemoryLog, owner: Owner) -> tuple[dict[bytes, AssetRecord], set[int], set[bytes]]:
    """What the log says, by the pure fold alone: asset records, refused offsets, record keys that were called for."""
    assets: dict[bytes, AssetRecord] = {}
    dead, called = set(), set()
    for record in events.read():
        event = decode(record.value, AssetEvent)
        key = asset_key(event.organization, event.asset)
        try:
            folded = fold(event, at=place(record), held=assets.get(key), root_version=owner.root_version(record))
        except Reject:
            dead.add(record.offset)
            continue
        assets[key] = folded.asset
        called |= {need.record_key for need in needed(folded.asset, event)}
    return assets, dead, called
