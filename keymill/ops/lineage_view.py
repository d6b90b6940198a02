"""The part of a lineage that the local view of a gateway or proxy holds; it needs no broker."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from keymill.core.folding import DEFAULT_POLICY
from keymill.errors import Misconfigured, UnknownKey
from keymill.ops.lineage import AssetLineage, KeyLineage, Place, PolicyTold
from keymill.ops.telling import event_told, keys_told, place_of, policy_told, positions_of, spelt
from keymill.snapshot.layout import Owner
from keymill.snapshot.reads import Reads
from schemas import topics
from schemas.ids import asset_key, scoped_key
from schemas.records import AssetRecord, KeyRecord
from schemas.values import KID_SIZE


def view_of(data: Path) -> Path:
    """The folder of the view to ask."""
    for name in ("gateway", "proxy"):
        if (data / "views" / name).is_dir():
            return data / "views" / name
    raise Misconfigured(f"{data} holds no view: give --data with the folder of a gateway or proxy")


def organizations_of(view: Reads) -> list[str]:
    """Every organization that the view knows."""
    return [credential.organization for credential in view.credentials_by_id("self")]


def kid_of(text: str) -> bytes | None:
    """The KID that *text* spells; None when it spells none."""
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        return None


def key_lineages(view: Reads, kid: bytes, organizations: Sequence[str]) -> list[KeyLineage]:
    """The lineage of a KID, in each organization that has one."""
    if len(kid) != KID_SIZE:
        return []
    owners = [(name, owner) for name in organizations if (owner := view.owner(name, kid)) is not None]
    return [_key(view, kid, organization, owner) for organization, owner in owners]


def asset_lineages(view: Reads, asset: str, organizations: Sequence[str]) -> list[AssetLineage]:
    """The lineage of an asset, in each organization that has one of that id."""
    records = [record for name in organizations if (record := view.asset(name, asset)) is not None]
    return [_asset(view, record) for record in records]


def _key(view: Reads, kid: bytes, organization: str, owner: Owner) -> KeyLineage:
    record, asset = view.key_record(owner.record_key), view.asset(organization, owner.asset)
    if record is None:
        raise UnknownKey(f"KID {spelt(kid)} is indexed, but its key record is gone: rebuild the view")
    place = place_of(topics.KEYS, view.coordinates(topics.KEYS.name, owner.record_key), owner.record_key)
    assert place is not None  # the record was read in the same moment
    track = next(track for track in record.tracks if track.kid == kid)
    return KeyLineage(
        kid=spelt(kid),
        fingerprint=owner.fp.hex(),
        organization=organization,
        asset=owner.asset,
        state=asset.state.value if asset else None,
        origin=track.origin.value,
        tracks=tuple(f"{track.label}/{track.scheme.value}" for track in record.tracks if track.kid == kid),
        key_version=record.key_version,
        root_version=record.root_version,
        kek_epoch=record.kek_epoch,
        period=record.period.index if record.period else None,
        policy=policy_of(view, organization, asset),
        key_record=place,
        asset_record=_asset_place(view, organization, owner.asset),
        event=event_told(record.event, place.partition),
    )


def _asset(view: Reads, record: AssetRecord) -> AssetLineage:
    place = _asset_place(view, record.organization, record.asset)
    return AssetLineage(
        organization=record.organization,
        asset=record.asset,
        state=record.state.value,
        key_versions=len(record.versions),
        product_id=record.product_id,
        policy=policy_of(view, record.organization, record),
        asset_record=place,
        keys=keys_told(_key_records(view, record)),
        events=tuple(event_told(at, place.partition if place else None) for at in positions_of(record)),
    )


def _key_records(view: Reads, asset: AssetRecord) -> list[tuple[KeyRecord, Place]]:
    found = []
    prefix = asset_key(asset.organization, asset.asset) + b"/k/"
    for record_key, place, _ in view.scan(topics.KEYS.name, prefix):
        record, told = view.key_record(record_key), place_of(topics.KEYS, place, record_key)
        if record is not None and told is not None:
            found.append((record, told))
    return found


def policy_of(view: Reads, organization: str, asset: AssetRecord | None) -> PolicyTold:
    """The policy of an asset as the view has it."""
    return policy_in(view, organization, asset.policy_id if asset else DEFAULT_POLICY)


def policy_in(view: Reads, organization: str, policy_id: int) -> PolicyTold:
    """A policy as the view has it."""
    place = view.coordinates(topics.POLICIES.name, scoped_key(organization, str(policy_id)))
    return policy_told(policy_id, view.policy(organization, policy_id), place_of(topics.POLICIES, place))


def _asset_place(view: Reads, organization: str, asset: str) -> Place | None:
    return place_of(topics.KEYS, view.coordinates(topics.KEYS.name, asset_key(organization, asset)))
