"""
Every KID that a key record holds: its fingerprints, and whose it is where it was not derived. Pure.

Records are added, and taken out again when another one takes their place, so that only KIDs of those are judged anew.
"""

from typing import Final, NamedTuple

from keymill.core.claim_log import folded, winner
from keymill.ops.ledger import Ledger
from keymill.ops.report import Difference
from schemas.records import Claim, KeyOrigin, KeyRecord, TrackKey
from schemas.values import FINGERPRINT_SIZE, Scheme

Kid = tuple[str, bytes]
"""(organization, KID)"""
_NOBODY: Final[dict[bytes, bytes]] = {}


class Holder(NamedTuple):
    """The track of a key record that a chosen or imported KID stands in."""

    asset: str
    key_version: int
    label: str
    scheme: Scheme
    origin: KeyOrigin
    fp: bytes


class Claims:
    """The winners of the claims topic, by (organization, KID); what stands on a wrong partition wins nothing."""

    def __init__(self) -> None:
        self.winners: dict[Kid, Claim] = {}
        self.new: set[Kid] = set()

    def add(self, claim: Claim) -> None:
        """Take a claim, in topic order: the first one wins, until it is released."""
        kid = (claim.organization, claim.kid)
        before = self.winners.get(kid)
        stands = winner(folded(before, claim))
        if stands is before:
            return
        self.new.add(kid)
        if stands is None:
            del self.winners[kid]
        else:
            self.winners[kid] = stands


class Kids:
    """
    The index. `touched` are those to be judged; `given` those that were not derived.

    A KID's fingerprints are one byte string, one after the other in order, once for each track that has it.

    Args:
        before: what a former ledger had.
    """

    def __init__(self, before: Ledger | None = None) -> None:
        self.given: dict[Kid, tuple[Holder, ...]] = {}
        self._fps: dict[str, dict[bytes, bytes]] = {}
        self._before = {each[:2]: each.fp for each in before.entries()} if before is not None else {}
        self.touched: set[Kid] = set(self._before)
        self._several = 0

    def add(self, record: KeyRecord) -> None:
        """A key record that is held."""
        known = self._fps.setdefault(record.organization, {})
        for track in record.tracks:
            had = known.get(track.kid)
            if had is None:
                known[track.kid] = track.fp
            else:
                self._set(record.organization, track.kid, sorted([*_split(had), track.fp]))
            self._touch(record, track)
            if track.origin is not KeyOrigin.DERIVED:
                kid = record.organization, track.kid
                self.given[kid] = (*self.given.get(kid, ()), _holder(record, track))

    def remove(self, record: KeyRecord) -> None:
        """A key record that was held and is not any more."""
        for track in record.tracks:
            kid = record.organization, track.kid
            left = _split(self._fps[record.organization][track.kid])
            left.remove(track.fp)
            self._set(record.organization, track.kid, left)
            self._touch(record, track)
            if track.origin is not KeyOrigin.DERIVED:
                others = list(self.given.pop(kid))
                others.remove(_holder(record, track))
                if others:
                    self.given[kid] = tuple(others)

    def _set(self, organization: str, kid: bytes, fps: list[bytes]) -> None:
        known = self._fps[organization]
        self._several -= max(0, len(set(_split(known[kid]))) - 1)
        self._several += max(0, len(set(fps)) - 1)
        self.touched.add((organization, kid))
        if fps:
            known[kid] = b"".join(fps)
        else:
            del known[kid]

    def _touch(self, record: KeyRecord, track: TrackKey) -> None:
        if self._before or track.origin is not KeyOrigin.DERIVED:
            self.touched.add((record.organization, track.kid))

    def judge(self, kid: Kid, claim: Claim | None) -> list[Difference]:
        """What is wrong with a KID, whose claim is the one that won, if any."""
        name, fps = f"{kid[0]}/{kid[1].hex()}", self._fingerprints(kid)
        found = [_contradiction(name, "this KID has two fingerprints")] * (len(fps) - 1)
        for holder in self.given.get(kid, ()):
            if claim is None:
                detail = f"asset {holder.asset} has it without a claim"
                found.append(Difference(kind="unclaimed", record_key=name, detail=detail))
            elif reason := _against(claim, holder):
                found.append(_contradiction(name, reason))
        if (before := self._before.get(kid)) is not None:
            if not fps:
                found.append(Difference(kind="key_lost", record_key=name, detail="the former ledger has it"))
            detail = "the former ledger has another fingerprint"
            found += [Difference(kind="key_changed", record_key=name, detail=detail) for fp in fps if fp != before]
        return found

    def __len__(self) -> int:
        """Different fingerprints of all KIDs."""
        return sum(map(len, self._fps.values())) + self._several

    def ledger(self) -> Ledger:
        """All of them."""
        ledger = Ledger()
        for organization, known in self._fps.items():
            ledger.add(organization, ((kid, fp) for kid, fps in known.items() for fp in _split(fps)))
        return ledger

    def _fingerprints(self, kid: Kid) -> list[bytes]:
        return sorted(set(_split(self._fps.get(kid[0], _NOBODY).get(kid[1], b""))))


def _split(fps: bytes) -> list[bytes]:
    return [fps[at : at + FINGERPRINT_SIZE] for at in range(0, len(fps), FINGERPRINT_SIZE)]


def _holder(record: KeyRecord, track: TrackKey) -> Holder:
    return Holder(record.asset, record.key_version, track.label, track.scheme, track.origin, track.fp)


def _contradiction(name: str, detail: str) -> Difference:
    return Difference(kind="contradiction", record_key=name, detail=detail)


def _against(claim: Claim, holder: Holder) -> str:
    """Why the track that a KID stands in is not the one that its claim calls for; empty if it is."""
    if claim.asset != holder.asset:
        return f"asset {holder.asset} has it, asset {claim.asset} claimed it first"
    if (claim.key_version, claim.label, claim.scheme) != (holder.key_version, holder.label, holder.scheme):
        return f"it was claimed for {claim.label}/{claim.scheme} of version {claim.key_version}"
    if (claim.fp is None) != (holder.origin is KeyOrigin.CHOSEN):
        return f"it is {holder.origin.value}, which its claim is not"
    if claim.fp is not None and claim.fp != holder.fp:
        return "its fingerprint is not the claimed one"
    return ""
