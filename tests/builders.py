"""Events, records and keys for tests of the core: everything is given a default that a test may change."""

from keymill.core.envelope import ClearKey, wrap_imported
from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import Keys
from keymill.kms.keyring import Keyring
from keymill.secret import Secret
from schemas.events import (
    AssetEvent,
    AssetIngested,
    ImportedKey,
    KeysRotated,
    PeriodRange,
    PolicyAssigned,
    PolicyChange,
    PolicyCreated,
    PolicyDeleted,
    PolicyUpdated,
    TrackWish,
)
from schemas.policy import Policy
from schemas.records import AssetRecord
from schemas.values import LogPosition, Scheme
from tests.fakes import MemoryKms

NOW = 1_800_000_000_000
PLAYABLE = Policy(can_play=True)
KEYS = Keys(prk=Secret(b"p" * 32), k_fp=Secret(b"f" * 32), kek=Secret(bytes(range(64))), kek_epoch=1)

_KEYRING = Keyring(MemoryKms())
INTAKE_KEK, K_FP = _KEYRING.intake_kek(1), _KEYRING.k_fp("demo")
"""Those of `MemoryKms`."""


def at(offset: int, *, generation: int = 0, timestamp: int = NOW) -> Coordinates:
    """A place in the log."""
    return Coordinates(partition=0, position=LogPosition(generation=generation, offset=offset), timestamp=timestamp)


def event(body, *, asset="bbb", event_id=None, event_time=NOW, request_hash=None) -> AssetEvent:
    """An event of the organization demo."""
    return AssetEvent(
        organization="demo",
        asset=asset,
        event_id=event_id,
        request_hash=request_hash,
        event_time=event_time,
        body=body,
    )


def ingest(*labels, asset="bbb", event_id=None, periods=None, period_s=10, start=NOW, **body) -> AssetEvent:
    """An ingest event; labels SD, HD and AUDIO unless others, or none by `labels=None`, are named."""
    if "tracks" not in body:
        body["tracks"] = tuple(TrackWish(label=label) for label in labels or ("SD", "HD", "AUDIO"))
    if periods is not None:
        first, count = periods
        body["periods"] = PeriodRange(first_index=first, count=count, period_s=period_s, start=start)
    return event(AssetIngested(**body), asset=asset, event_id=event_id)


def imported(kid: bytes, cek: bytes, *, iv: bytes = b"i" * 16, kek: Secret = INTAKE_KEK) -> ImportedKey:
    """A key that existed before, as an event of demo carries it."""
    key = ClearKey(cek=Secret(cek), iv=Secret(iv))
    return wrap_imported(kek, K_FP, organization="demo", kid=kid, key=key, intake_epoch=1)


def rotate(to_version, *, event_id=None, salt=None) -> AssetEvent:
    """A rotation."""
    return event(KeysRotated(to_version=to_version, salt=salt), event_id=event_id)


def assign(policy_id, *, event_id=None) -> AssetEvent:
    """A policy assignment."""
    return event(PolicyAssigned(policy_id=policy_id), event_id=event_id)


def change(body, organization="demo", *, request_id=None, request_hash=None, event_time=NOW) -> PolicyChange:
    """A change of an organization's policies."""
    return PolicyChange(
        organization=organization,
        request_id=request_id,
        request_hash=request_hash,
        event_time=event_time,
        body=body,
    )


def create_policy(organization="demo", policy=PLAYABLE, *, name="new", **members) -> PolicyChange:
    """A create."""
    return change(PolicyCreated(name=name, policy=policy), organization, **members)


def update_policy(policy_id, organization="demo", policy=PLAYABLE, *, name="changed", **members) -> PolicyChange:
    """An update."""
    return change(PolicyUpdated(policy_id=policy_id, name=name, policy=policy), organization, **members)


def delete_policy(policy_id, organization="demo", **members) -> PolicyChange:
    """A deletion."""
    return change(PolicyDeleted(policy_id=policy_id), organization, **members)


def folded(*events: AssetEvent, held: AssetRecord | None = None, start: int = 0, root_version: int = 1) -> AssetRecord:
    """The asset record after *events* at consecutive offsets."""
    for offset, happened in enumerate(events, start):
        held = fold(happened, at=at(offset), held=held, root_version=root_version).asset
    assert held is not None
    return held


def tracks_of(asset: AssetRecord, key_version: int = 1) -> list[tuple[str, Scheme]]:
    """(label, scheme) of every static track of a version, in order."""
    version = asset.versions[key_version - 1]
    return [(track.label, track.scheme) for key_set in version.key_sets for track in key_set.tracks]
