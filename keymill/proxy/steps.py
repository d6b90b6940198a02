"""
The steps of the license procedure: what each looks up in the view and asks the pure rules.

What a view lacks while it is behind or cut off may exist all the same: then no step says "not found", but "not ready".
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from keymill.core.credentials import ORGANIZATION_ID
from keymill.core.licensable import MAX_LICENSED_KEYS, NamedPeriod, licensable
from keymill.core.policy import Grant, highest, opened
from keymill.errors import Corrupt
from keymill.proxy.auth import Claims
from keymill.proxy.keys import MissingKek, ProxyKeys
from keymill.proxy.request import LicenseRequest, Reason, Refusal
from keymill.proxy.upstream.contract import Asked, GrantedKey
from keymill.snapshot.reads import Reads
from keymill.snapshot.state import ViewState
from schemas.access import OrganizationCreated, Service
from schemas.policy import Policy
from schemas.records import AssetRecord, KeyOrigin, KeyRecord
from schemas.values import CLEAR_LABEL, KID_SIZE, DrmSystem

Candidate = tuple[KeyRecord, int]
"""A key record and the index of one of its tracks."""


class Chosen(NamedTuple):
    """A candidate that may be given, with the labels of all tracks that its key opens."""

    record: KeyRecord
    at: int
    labels: tuple[str, ...]


_UNNAMED: Final = OrganizationCreated(display_name="")


class Aim(NamedTuple):
    """Whom a request means within the token's organization; `limits` and a named `upstream` are a service's."""

    drm_system: DrmSystem
    upstream: str | None = None
    limits: Policy | None = None


BEHIND: Final = Refusal(reason=Reason.NOT_READY, message="the proxy is behind the key topic, ask again")


def readiness(state: ViewState, max_staleness_s: int) -> Refusal | None:
    """Why nothing may be served now, or None."""
    if not state.ready:
        return Refusal(reason=Reason.NOT_READY, message="the proxy has not caught up with the key topic yet")
    if max_staleness_s and state.staleness_s > max_staleness_s:
        message = f"the proxy has not heard from the brokers for more than {max_staleness_s} s"
        return Refusal(reason=Reason.TOO_STALE, message=message)
    return None


def absent(reason: Reason, message: str) -> Refusal:
    """Something is not in the view: it does not exist, or, while the view is behind or cut off, nobody knows."""
    return Refusal(reason=reason, message=message, absent=True)


def token_missing(name: str) -> Refusal:
    """Return what a request without a token is told: where to put one."""
    message = f"a player token is needed: as {name} in the query, or in the header Authorization: Bearer"
    return Refusal(reason=Reason.TOKEN_MISSING, message=message)


def services(request: LicenseRequest, view: Reads) -> Sequence[Service] | Refusal:
    """The service configurations that the request may mean, one per organization; none if it names none."""
    if request.service is None:
        return ()
    name, version = request.service
    found = [service for service in view.services(name, version) if not service.retired]
    return found or absent(Reason.UNKNOWN_SERVICE, version)


def aim(request: LicenseRequest, claims: Claims, found: Sequence[Service]) -> Aim | Refusal:
    """DRM system and license server, within the token's organization, which path or service must equal."""
    if request.drm_system is not None and request.organization in (claims.organization, None):
        return Aim(request.drm_system)
    for service in found:
        if service.organization == claims.organization:
            return Aim(service.drm_system, service.upstream, service.limits)
    return Refusal(reason=Reason.WRONG_ORGANIZATION, message="the token is not of this organization")


def organization_of(claims: Claims, view: Reads) -> OrganizationCreated | Refusal:
    """The organization's own record; once it is revoked, nothing is licensed."""
    record = view.credential(claims.organization, ORGANIZATION_ID)
    if record is not None and record.revoked:
        return Refusal(reason=Reason.ORGANIZATION_REVOKED, message="the organization is revoked")
    return record.body if record and isinstance(record.body, OrganizationCreated) else _UNNAMED


def no_license_server(target: DrmSystem) -> Refusal:
    """Nobody here makes licenses of that DRM system."""
    return Refusal(reason=Reason.NO_LICENSE_SERVER, message=f"no license server is configured for {target.value}")


def find_asset(request: LicenseRequest, organization: str, view: Reads) -> AssetRecord | Refusal:
    """The asset by id, or by one of its KIDs."""
    if request.kid is not None:
        owner = view.owner(organization, request.kid) if len(request.kid) == KID_SIZE else None
        found = view.asset(organization, owner.asset) if owner else None
        return found or absent(Reason.UNKNOWN_KID, "no such KID")
    found = view.asset(organization, request.asset or "")
    return found or absent(Reason.UNKNOWN_ASSET, f"no asset {request.asset}")


def choose(
    asset: AssetRecord,
    asked: Asked,
    granted: Grant,
    view: Reads,
    *,
    clear: bool = False,
    named: Collection[NamedPeriod] = (),
) -> list[Chosen] | Refusal:
    """
    Of the asset's keys those that were asked for and are granted, in the asked order; none left is a refusal.

    A key is granted if every track that it opens is.

    Args:
        clear: the key is to be handed out as it is (`Grant.covers`).
        named: crypto periods that the request names, for a challenge that names no KID.
    """
    if asked.persistent and not granted.policy.can_persist:
        return Refusal(reason=Reason.PERSISTENCE_DENIED, message="the asset's policy does not allow stored licenses")
    if asked.kids is None:
        found: Iterable[Candidate] = unasked(asset, granted.tracks, view, granted.now_ms, named)
    else:
        located = candidates(asset, asked.kids, view)
        if located is None:
            return absent(Reason.UNKNOWN_KID, "none of the KIDs is known")
        found = located
    withheld: dict[str, tuple[str, ...]] = {}
    covered = _covered(found, asset, granted, view, clear, withheld)
    chosen = list(covered if asked.kids is not None else _at_most(MAX_LICENSED_KEYS, covered))
    return chosen or Refusal(reason=Reason.NO_KEY_ALLOWED, message=_none_allowed(withheld))


def opened_by(candidate: Candidate, asset: AssetRecord, view: Reads) -> tuple[str, ...]:
    """
    The label of every track that a candidate's key opens, its own first.

    A KID that a caller brought may be the one of a key that is derived in another record: the index tells which.
    """
    record, index = candidate
    track = record.tracks[index]
    labels = opened(asset, record, track)
    if track.origin is KeyOrigin.DERIVED:
        return labels
    owner = view.owner(asset.organization, track.kid)
    first = view.key_record(owner.record_key) if owner else None
    if first is None or first == record:
        return labels
    others = (opened(asset, first, each) for each in first.tracks if each.kid == track.kid)
    return tuple(dict.fromkeys((*labels, *(label for each in others for label in each))))


def _covered(
    found: Iterable[Candidate],
    asset: AssetRecord,
    granted: Grant,
    view: Reads,
    clear: bool,
    withheld: dict[str, tuple[str, ...]],
) -> Iterator[Chosen]:
    """Those that may be given. Into *withheld*, by a label that is granted, what its key opens that is not."""
    for record, index in found:
        own = record.tracks[index].label
        if not granted.covers(record, own, clear=clear):
            continue
        labels = opened_by((record, index), asset, view)
        if granted.covers(record, *labels, clear=clear):
            yield Chosen(record, index, labels)
        else:
            withheld[own] = tuple(label for label in labels if label not in granted.tracks)


def _none_allowed(withheld: dict[str, tuple[str, ...]]) -> str:
    if not withheld:
        return "policy and token allow none of these keys"
    label, others = next(iter(withheld.items()))
    return f"the key of {label} also opens {', '.join(others) or CLEAR_LABEL}, which policy and token do not allow"


def candidates(asset: AssetRecord, kids: Iterable[bytes], view: Reads) -> list[Candidate] | None:
    """The asset's keys among *kids*, in their order; None when no KID is known to the organization."""
    located: dict[bytes, list[Candidate]] = {}
    wanted = dict.fromkeys(kids)
    known = False
    for kid in wanted:
        if kid in located:
            continue
        owner = view.owner(asset.organization, kid)
        known = known or owner is not None
        record = view.key_record(owner.record_key) if owner and owner.asset == asset.asset else None
        if record is not None:
            for index, track in enumerate(record.tracks):  # mostly the other KIDs stand in the same record
                located.setdefault(track.kid, []).append((record, index))
    return [candidate for kid in wanted for candidate in located.get(kid, ())] if known else None


def unasked(
    asset: AssetRecord, labels: Collection[str], view: Reads, now_ms: int, named: Collection[NamedPeriod] = ()
) -> Iterator[Candidate]:
    """The keys of these tracks that a license may hold whose challenge names none, read one record at a time."""
    for record_key in licensable(asset, labels=labels, now_ms=now_ms, named=named):
        if (record := view.key_record(record_key)) is not None:
            yield from ((record, index) for index in range(len(record.tracks)))


def named_periods(request: LicenseRequest, asset: AssetRecord, view: Reads) -> frozenset[NamedPeriod]:
    """The crypto periods of the asset whose KIDs stand in the request beside its challenge."""
    kids = list(request.message.kids if request.message else ())
    if request.kid is not None:
        kids.append(request.kid)
    return frozenset(
        NamedPeriod(record.key_version, record.period.index)
        for record, _ in candidates(asset, kids, view) or ()
        if record.period is not None
    )


def _at_most(count: int, found: Iterable[Chosen]) -> Iterator[Chosen]:
    """The first of so many KIDs; nothing is read for more."""
    kids: set[bytes] = set()
    for each in found:
        kids.add(each.record.tracks[each.at].kid)
        if len(kids) > count:
            return
        yield each


def unwrap(chosen: Iterable[Chosen], keys: ProxyKeys) -> tuple[GrantedKey, ...] | Refusal:
    """The clear keys, each KID once, under the label of the highest track that it opens."""
    granted: dict[bytes, GrantedKey] = {}
    try:
        for record, index, labels in chosen:
            opened_record, clear = keys.open(record)
            track = opened_record.tracks[index]
            granted.setdefault(
                track.kid,
                GrantedKey(
                    kid=track.kid, label=highest(labels), labels=labels, scheme=track.scheme, clear=clear[index],
                    key_version=opened_record.key_version,
                ),
            )  # fmt: skip
    except MissingKek as error:
        return Refusal(reason=Reason.KEK_MISSING, message=str(error))
    except Corrupt:
        return Refusal(reason=Reason.KEY_UNUSABLE, message="the stored key does not open; it was reported")
    return tuple(granted.values())
