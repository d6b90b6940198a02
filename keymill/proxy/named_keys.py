"""Keys and key ids that a request or a policy names: each must be its track's stored one, since keys never change."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from keymill.core.formats.azure_widevine import MessageKey, WidevineMessage
from keymill.core.licensable import MAX_LICENSED_KEYS
from keymill.core.period import is_licensable
from keymill.core.policy import labels_of
from keymill.errors import InvalidRecord
from keymill.proxy.auth import Claims
from keymill.proxy.keys import ProxyKeys
from keymill.proxy.request import Reason, Refusal
from keymill.proxy.steps import Candidate, Chosen, candidates, opened_by, unasked, unwrap
from keymill.snapshot.reads import Reads
from schemas.policy import Policy
from schemas.records import AssetRecord

_PLAYERS_KEY: Final = Refusal(
    reason=Reason.SERVER_SIDE_ONLY, message="a content key may be sent with a server-side token alone"
)


def policy_of(message: WidevineMessage, asset: AssetRecord, view: Reads) -> Policy | Refusal:
    """What a request says about the policy, each of its specs under the track whose KID it names."""
    labels = {spec.kid: track_labels(spec.kid, asset, view) for spec in message.by_kid}
    try:
        return message.resolved(labels)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))


def strange_kid(asset: AssetRecord, policies: Iterable[Policy], view: Reads) -> Refusal | None:
    """Why a KID that a policy names for a track of the asset is not that track's, or None."""
    named = [track for policy in policies for track in policy.tracks or () if track.kid is not None]
    labels = frozenset(labels_of(asset)) if named else ()
    for track in named:
        if track.kid is None or track.label not in labels:
            continue
        if track.label not in track_labels(track.kid, asset, view):
            return _mismatch(f"key_id {track.kid.hex()} is not of {track.label}")
    return None


def strange_key(
    injected: Iterable[MessageKey], claims: Claims, asset: AssetRecord, view: Reads, keys: ProxyKeys, now_ms: int
) -> Refusal | None:
    """Why a key that the request brings is not the stored one of its track, or None; compared in constant time."""
    for each in injected:
        if not claims.server_side:
            return _PLAYERS_KEY
        name = each.label or (each.kid or b"").hex()
        meant = _meant(each, asset, view, now_ms)
        if not meant:
            return _mismatch(f"a key was sent for {name}, which the asset does not have")
        opened = unwrap([Chosen(*each, (each[0].tracks[each[1]].label,)) for each in meant], keys)
        if isinstance(opened, Refusal):
            return opened
        if not any(key.clear.cek == each.cek for key in opened):
            return _mismatch(f"the key sent for {name} is not the stored one")
    return None


def track_labels(kid: bytes, asset: AssetRecord, view: Reads) -> tuple[str, ...]:
    """The labels of the asset's tracks with that KID: several where one key serves all, none where it has no such."""
    found = candidates(asset, (kid,), view) or ()
    return tuple(dict.fromkeys(label for each in found for label in opened_by(each, asset, view)))


def _meant(named: MessageKey, asset: AssetRecord, view: Reads, now_ms: int) -> list[Candidate]:
    """The tracks that a sent key may be of: those of its KID, or what a license may hold under its label."""
    found: Iterable[Candidate]
    if named.kid is not None:
        found = candidates(asset, (named.kid,), view) or []
    else:
        found = unasked(asset, (named.label or "",), view, now_ms)
    if named.label is not None:
        found = (each for each in found if each[0].tracks[each[1]].label == named.label)
    found = islice(found, MAX_LICENSED_KEYS)
    return [each for each in found if each[0].period is None or is_licensable(each[0].period, now_ms)]


def _mismatch(message: str) -> Refusal:
    return Refusal(reason=Reason.KEY_MISMATCH, message=message)
