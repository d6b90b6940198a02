"""Synthetic records and messages for tests of views: small, valid, and telling."""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import count

from keymill.kafka.positions import Checkpoint, Described, Incoming, Slot
from schemas import topics
from schemas.access import Credential, Entitlement, Service, TokenKey
from schemas.codec import encode
from schemas.ids import asset_key, key_set_key, scoped_key
from schemas.policy import Policy
from schemas.records import (
    AssetRecord,
    AssetState,
    KeyOrigin,
    KeyRecord,
    KeySet,
    KeyVersion,
    PolicyRecord,
    PolicyState,
    TrackIdentity,
    TrackKey,
)
from schemas.values import DrmSystem, LogPosition, Record, Scheme

PARTITIONS = 4
VIEW_TOPICS = (
    topics.KEYS.name,
    topics.POLICIES.name,
    topics.ENTITLEMENTS.name,
    topics.SERVICES.name,
    topics.CREDENTIALS.name,
)


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def at(offset: int, generation: int = 0) -> LogPosition:
    return LogPosition(generation=generation, offset=offset)


def key_record(
    asset: str,
    version: int = 1,
    *,
    organization: str = "demo",
    epoch: int = 1,
    labels: Iterable[str] = ("SD", "HD", "AUDIO"),
    seed: str = "",
    kid_of: str | None = None,
    event: int = 7,
) -> tuple[bytes, KeyRecord]:
    """A key record under its record key; *seed* changes the keys, *kid_of* borrows the KIDs of another asset."""
    tracks = tuple(
        TrackKey(
            kid=digest("kid", organization, kid_of or asset, version, label)[:16],
            fp=digest("fp", organization, kid_of or asset, version, label, seed)[:16],
            label=label,
            scheme=Scheme.CBCS,
            origin=KeyOrigin.DERIVED,
        )
        for label in labels
    )
    record = KeyRecord(
        kek_epoch=epoch,
        tracks=tracks,
        wrapped=(digest("wrapped", asset, version, epoch, seed) * 8)[: 16 + 32 * len(tracks)],
        organization=organization,
        asset=asset,
        key_version=version,
        root_version=1,
        event=at(event),
    )
    return key_set_key(organization, asset, set_digest(asset, version, tuple(labels))), record


def set_digest(asset: str, version: int, labels: tuple[str, ...] = ("SD", "HD", "AUDIO")) -> bytes:
    return digest("set", asset, version, labels)[:16]


def asset_record(
    asset: str, applied: int = 7, *, versions: int = 1, organization: str = "demo", product: str | None = None
) -> tuple[bytes, AssetRecord]:
    tracks = tuple(TrackIdentity(label=label, scheme=Scheme.CBCS, declared=True) for label in ("SD", "HD", "AUDIO"))
    record = AssetRecord(
        organization=organization,
        asset=asset,
        state=AssetState.ACTIVE,
        applied=at(applied),
        policy_id=0,
        product_id=product,
        versions=tuple(
            KeyVersion(
                key_version=number,
                root_version=1,
                single_key=False,
                schemes=(Scheme.CBCS,),
                created=at(number),
                key_sets=(KeySet(digest=set_digest(asset, number), at=at(number), tracks=tracks),),
            )
            for number in range(1, versions + 1)
        ),
    )
    return asset_key(organization, asset), record


def policy_record(
    policy_id: int, version: int = 1, *, applied: int = 3, organization: str = "demo"
) -> tuple[bytes, PolicyRecord]:
    record = PolicyRecord(
        organization=organization,
        policy_id=policy_id,
        version=version,
        state=PolicyState.READY,
        name=f"policy {policy_id}",
        policy=Policy(can_play=True),
        applied=at(applied),
        created=1,
        changed=version,
    )
    return scoped_key(organization, str(policy_id)), record


def entitlement(
    user: str, product: str, until: int | None = None, organization: str = "demo"
) -> tuple[bytes, Entitlement]:
    record = Entitlement(organization=organization, user=user, product=product, valid_until=until)
    return scoped_key(organization, user, product), record


def service(name: str, version: str = "1.0", organization: str = "demo") -> tuple[bytes, Service]:
    record = Service(organization=organization, service=name, version=version, drm_system=DrmSystem.CLEARKEY)
    return scoped_key(organization, name, version), record


def credential(name: str, organization: str = "demo", revoked: bool = False) -> tuple[bytes, Credential]:
    body = TokenKey(algorithm="EdDSA", public_pem="-----BEGIN PUBLIC KEY-----")
    record = Credential(organization=organization, credential=name, revoked=revoked, created=1, label="test", body=body)
    return scoped_key(organization, name), record


TOPIC_OF: Mapping[type[Record], topics.Topic] = {
    KeyRecord: topics.KEYS,
    AssetRecord: topics.KEYS,
    PolicyRecord: topics.POLICIES,
    Entitlement: topics.ENTITLEMENTS,
    Service: topics.SERVICES,
    Credential: topics.CREDENTIALS,
}


class Log:
    """Topics in memory: gives every message its partition and its next offset."""

    def __init__(self, partitions: int = PARTITIONS, followed: tuple[str, ...] = VIEW_TOPICS) -> None:
        self.partitions = partitions
        self.followed = followed
        self._next = {(name, p): count() for name in followed for p in range(partitions)}
        self.slots = {name: {p: Slot(0) for p in range(partitions)} for name in followed}

    def checkpoints(self) -> dict[str, Checkpoint]:
        return {
            name: Checkpoint(
                topic=Described(topic_id=f"id-{name}", partitions=self.partitions),
                slots={p: Slot(0) for p in range(self.partitions)},
            )
            for name in self.followed
        }

    def put(self, keyed: tuple[bytes, Record], *, partition: int | None = None) -> Incoming:
        key, record = keyed
        return self.put_raw(TOPIC_OF[type(record)], key, encode(record), partition=partition)

    def put_raw(
        self, topic: topics.Topic, key: bytes | None, value: bytes | None, *, partition: int | None = None
    ) -> Incoming:
        if partition is None:
            partition = topics.partition_of(topic, key or b"", self.partitions)
        offset = next(self._next[topic.name, partition])
        self.slots[topic.name][partition] = Slot(offset + 1)
        return Incoming(topic.name, partition, offset, key, value)
