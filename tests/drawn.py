"""Asset events of every kind, valid and not, in an order that a seed decides, and which of them must be refused."""

import hashlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import Final

from schemas.codec import encode
from schemas.events import (
    AssetEvent,
    AssetIngested,
    AssetRestored,
    AssetRevoked,
    KeysRotated,
    PolicyAssigned,
    TrackWish,
)
from schemas.ids import asset_key
from schemas.partition import partition_for

ORGANIZATION: Final = "demo"
DAY_MS: Final = 86_400_000
LABELS: Final = ("SD", "HD", "UHD1", "AUDIO")
CHOSEN_LABEL: Final = "HD2"
VALID: Final = {"ingest": 50, "rotate": 14, "policy": 9, "revoke": 4, "restore": 4, "duplicate": 9, "tracks": 4,
         "chosen": 6}  # fmt: skip
BROKEN: Final = (
    "garbage",
    "wrong_partition",
    "null_key",
    "null_value",
    "key_mismatch",
    "future",
    "conflict",
    "gap",
    "taken",
)


@dataclass
class Title:
    """What is known of an asset."""

    versions: int = 0
    chosen: bool = False
    sent: list[bytes] = field(default_factory=list)


@dataclass
class Drawn:
    """A record of the asset topic."""

    asset: str
    key: bytes | None
    value: bytes | None
    partition: int
    refuse: bool
    """Whether it must end in the dead letters."""
    headers: list[tuple[str, str | bytes | None]]


class Draw:
    """
    Draws asset events, one after the other; versions are counted as the processors must count them.

    Args:
        prefix: of its assets' names, so that several share a topic.
        broken: the share of events that must end in the dead letters.
    """

    def __init__(self, partitions: int, seed: int, prefix: str, *, titles: int = 200, broken: float = 0.04) -> None:
        self._random = random.Random(f"{seed}/{prefix}")
        self._names = [f"{prefix}-{number}" for number in range(titles)]
        self._titles: dict[str, Title] = {}
        self._partitions, self._broken, self._count = partitions, broken, 0
        self._prefix = prefix

    def put(self, drawn: Drawn) -> None:
        """Take the next record."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Assets that were ingested."""
        return list(self._titles)

    def next(self) -> None:
        """Draw one event."""
        if self._random.random() < self._broken:
            self._send_broken(self._random.choice(BROKEN))
        else:
            self._send_valid()

    def ingest(self, asset: str) -> None:
        """A new asset, or a repeat of an old one."""
        self._titles.setdefault(asset, Title(versions=1))
        self._send(asset, AssetIngested())

    def rotate(self, asset: str) -> None:
        """The next key version."""
        title = self._titles[asset]
        title.versions += 1
        self._send(asset, KeysRotated(to_version=title.versions))

    def _send_valid(self) -> None:
        draw = self._random
        kind = draw.choices(list(VALID), list(VALID.values()))[0]
        if kind == "ingest" or not self._titles:
            self._ingest_some(draw.choice(self._names))
            return
        asset = draw.choice(list(self._titles))
        match kind:
            case "rotate":
                self.rotate(asset)
            case "policy":
                self._send(asset, PolicyAssigned(policy_id=draw.randrange(5)))
            case "revoke":
                self._send(asset, AssetRevoked())
            case "restore":
                self._send(asset, AssetRestored())
            case "duplicate":
                self._put(asset, draw.choice(self._titles[asset].sent))
            case "chosen":
                self._titles[asset].chosen = True
                self._send(asset, self._chosen(asset))
            case "tracks":
                wishes = tuple(TrackWish(label=label) for label in draw.sample(LABELS, 2))
                self._send(asset, AssetIngested(tracks=wishes))

    def _ingest_some(self, asset: str) -> None:
        draw = self._random
        if asset in self._titles:
            self._send(asset, AssetIngested(product_id=f"product-{draw.randrange(9)}"))
            return
        self._titles[asset] = Title(versions=1)
        tracks = tuple(TrackWish(label=label) for label in draw.sample(LABELS, draw.randint(1, 3)))
        self._send(asset, AssetIngested(tracks=draw.choice((None, tracks)), single_key=False))

    def _send(self, asset: str, body: object, **more: object) -> None:
        value = self._event(asset, body, **more)
        if asset in self._titles and len(self._titles[asset].sent) < 8:
            self._titles[asset].sent.append(value)
        self._put(asset, value)

    def _event(self, asset: str, body: object, **more: object) -> bytes:
        self._count += 1
        event_id = more.pop("event_id", f"{self._prefix}-{self._count}")
        event_time = more.pop("event_time", time.time_ns() // 1_000_000)
        event = AssetEvent(organization=ORGANIZATION, asset=asset, event_id=event_id, event_time=event_time, body=body)  # type: ignore[arg-type]
        return encode(event)

    def _send_broken(self, kind: str) -> None:
        asset = self._random.choice(list(self._titles) or self._names)
        known = self._titles.get(asset)
        right = self.partition_of(asset)
        other = (right + 1) % self._partitions
        match kind:
            case "garbage":
                self._put(asset, self._random.randbytes(40), refuse=True)
            case "wrong_partition":
                self._put(asset, self._event(asset, AssetIngested()), partition=other, refuse=True)
            case "null_key":
                self._put(asset, self._event(asset, AssetIngested()), key=None, refuse=True)
            case "null_value":
                self._put(asset, None, refuse=True)
            case "key_mismatch":
                self._put(asset, self._event(f"{asset}-else", AssetIngested()), refuse=True)
            case "future":
                late = time.time_ns() // 1_000_000 + 2 * DAY_MS
                self._put(asset, self._event(asset, AssetIngested(), event_time=late), refuse=True)
            case "conflict" if known:
                self._put(asset, self._event(asset, AssetIngested(single_key=True)), refuse=True)
            case "taken" if known and (other := self._chosen_beside(asset)):
                self._put(asset, self._event(asset, self._chosen(other)), refuse=True)
            case "gap" if known:
                self._put(asset, self._event(asset, KeysRotated(to_version=known.versions + 2)), refuse=True)
            case _:
                body = json.dumps({"organization": ORGANIZATION, "asset": asset, "nonsense": 1}).encode()
                self._put(asset, body, refuse=True, json_type=True)

    def _chosen(self, asset: str) -> AssetIngested:
        """A track of version 1 with a KID of the driver's own: always the same one for an asset."""
        kid = hashlib.sha256(f"{self._prefix}/{asset}".encode()).digest()[:16]
        return AssetIngested(tracks=(TrackWish(label=CHOSEN_LABEL, kid=kid),), key_version=1)

    def _chosen_beside(self, asset: str) -> str | None:
        """Another asset of the same partition that has its KID: there the order of the events is the driver's."""
        beside = (name for name, title in self._titles.items() if title.chosen and name != asset)
        return next((name for name in beside if self.partition_of(name) == self.partition_of(asset)), None)

    def partition_of(self, asset: str) -> int:
        """Where an asset's events belong."""
        return partition_for(asset_key(ORGANIZATION, asset), self._partitions)

    def _put(
        self, asset: str, value: bytes | None, *, partition: int | None = None, refuse: bool = False,
        json_type: bool = False, **given: bytes | None,
    ) -> None:  # fmt: skip
        key = given.get("key", asset_key(ORGANIZATION, asset))
        headers: list[tuple[str, str | bytes | None]] = [("content-type", b"application/json")] if json_type else []
        place = self.partition_of(asset) if partition is None else partition
        self.put(Drawn(asset=asset, key=key, value=value, partition=place, refuse=refuse, headers=headers))
