"""
Simulation: which assets another policy, or another schedule of roots, would change. Pure; nothing is derived.

A schedule decides about a key version by the record time of its first event; what exists keeps its root, whatever the
schedule says, so this tells what would have been, and what a rebuild under it would get wrong.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from keymill.core.formats import native
from keymill.core.policy import BUILT_IN_DEFAULT
from keymill.errors import InvalidRecord
from schemas.policy import Policy
from schemas.records import AssetRecord
from schemas.values import Record

T = TypeVar("T")
Policies = Mapping[tuple[str, int], Policy]
"""By (organization, policy id)."""
Times = Mapping[tuple[int, int], int]
"""Record time (epoch ms) by (generation, offset) of one partition of the asset topic."""
_ABSENT: Final = "no such policy"


class Activation(Record, frozen=True, kw_only=True):
    """From *activates* (epoch ms) on, new key versions pin this root version."""

    root_version: int
    activates: int


Schedules = Mapping[str, tuple[Activation, ...]]


class Effect(Record, frozen=True, kw_only=True):
    """What would be another thing for an asset. `what`: policy, or root_version of the key version `key_version`."""

    organization: str
    asset: str
    what: str
    key_version: int | None = None
    now: str
    then: str


def read_policies(data: bytes) -> Policies:
    """Draft policies: `{"ORGANIZATION": {"POLICY_ID": {…}}}`, the policies in keymill's own words."""
    drafts = _decode(data, dict[str, dict[int, msgspec.Raw]], "policies")
    return {
        (organization, policy_id): native.read(bytes(document)).policy
        for organization, documents in drafts.items()
        for policy_id, document in documents.items()
    }


def read_schedules(data: bytes) -> Schedules:
    """Draft schedules: `{"ORGANIZATION": [{"root_version": 1, "activates": 0}, …]}`, ascending from time 0."""
    found = _decode(data, dict[str, tuple[Activation, ...]], "schedule")
    for organization, schedule in found.items():
        times = [each.activates for each in schedule]
        if not times or times[0] != 0 or times != sorted(set(times)):
            raise InvalidRecord(f"the schedule of {organization} must ascend from time 0", field="schedule")
    return found


def _decode(data: bytes, kind: type[T], field: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(f"the drafts of {field}: {error}", field=field) from None


def policy_effects(assets: Iterable[AssetRecord], stored: Policies, drafts: Policies) -> Iterator[Effect]:
    """The assets whose policy would have another content."""
    for asset in assets:
        name = (asset.organization, asset.policy_id)
        if name not in drafts:
            continue
        held = stored.get(name) or (BUILT_IN_DEFAULT if asset.policy_id == 0 else None)
        if held != drafts[name]:
            now = _ABSENT if held is None else _text(held)
            yield Effect(
                organization=name[0], asset=asset.asset, what=f"policy {name[1]}", now=now, then=_text(drafts[name])
            )


def root_effects(assets: Iterable[AssetRecord], times: Times, schedules: Schedules) -> Iterator[Effect]:
    """The key versions that would have pinned another root version."""
    for asset in assets:
        schedule = schedules.get(asset.organization)
        for version in asset.versions if schedule else ():
            at = times.get((version.created.generation, version.created.offset))
            if at is None or schedule is None:
                continue
            then = max(each.root_version for each in schedule if each.activates <= max(at, 0))
            if then != version.root_version:
                yield Effect(
                    organization=asset.organization, asset=asset.asset, what="root_version",
                    key_version=version.key_version, now=str(version.root_version), then=str(then),
                )  # fmt: skip


def _text(policy: Policy) -> str:
    return msgspec.json.encode(native.plain(policy)).decode()
