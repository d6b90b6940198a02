"""
KIDs that callers chose or brought, in a run: what must be claimed first, who lost, and the keys of those that won.

Pure but for the KMS; `streams.provision` publishes the claims and has the run decided afresh.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from keymill import telemetry
from keymill.core import claims
from keymill.core.derive import derive, derive_kid, fingerprint
from keymill.core.envelope import ClearKey, unwrap_imported
from keymill.core.identity import KeyIdentity
from keymill.core.provisioning import GivenKey, Needed, track_label
from keymill.core.wishes import Derived, Name
from keymill.errors import InvalidRecord, LostKeys, UnknownKey
from keymill.kms.keyring import Keyring
from keymill.secret import Secret
from schemas import topics
from schemas.events import AssetEvent, ImportedKey
from schemas.ids import asset_key, claim_key
from schemas.records import Claim, KeyRecord, KeyVersion
from schemas.values import MAX_TRACKS, LogPosition

log = telemetry.logger("streams.claims")


class Claimed(Protocol):
    """What is known of KIDs."""

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """The claim that won the KID, or None."""
        ...

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        """The key record that the KID stands in, or None."""
        ...


class Claims:
    """
    Judges over what a `Claimed` knows.

    Args:
        partitions: of the asset topic, to name where a winner's event stands.
    """

    def __init__(self, keyring: Keyring, partitions: int) -> None:
        self._keyring = keyring
        self._partitions = partitions
        self._clear: dict[tuple[str, bytes, ImportedKey], ClearKey] = {}

    def derived(self, event: AssetEvent) -> Derived:
        """For `fold`: the own KID of a track of the event's asset, with its fingerprint."""

        def own(version: KeyVersion, name: Name) -> tuple[bytes, Callable[[], bytes]]:
            identity = KeyIdentity(
                organization=event.organization,
                asset=event.asset,
                key_version=version.key_version,
                period=None,
                scheme=name[1],
                label=track_label(name[0], single_key=version.single_key),
                root_version=version.root_version,
                salt=version.salt,
            )
            prk, preimage = self._prk(event.organization, version.root_version), identity.preimage()
            k_fp = self._keyring.k_fp(event.organization)
            kid = derive_kid(prk, preimage)
            return kid, lambda: fingerprint(k_fp, kid, derive(prk, preimage).cek)

        return own

    def missing(
        self, event: AssetEvent, wanted: Mapping[bytes, Claim], known: Claimed, pending: Mapping[bytes, Claim]
    ) -> list[Claim]:
        """
        The claims of *wanted* that nobody has made.

        Args:
            pending: by record key, what the run's events before will claim; they are taken to win.

        Raises:
            Reject: a KID is another's, or an imported key does not open; nothing must be claimed then.
        """
        self._clear.clear()
        for kid, wish in claims.wishes_of(event).items():
            if wish.imported is not None:
                self._opened(event.organization, kid, wish.imported)
        unclaimed = []
        for claim in wanted.values():
            won = known.claim(claim.organization, claim.kid)
            self._check(claim, won or pending.get(claim_key(claim.organization, claim.kid)), known)
            if won is None:
                unclaimed.append(claim)
        return unclaimed

    def given(
        self, need: Needed, event: AssetEvent, at: LogPosition, known: Claimed, ask: Callable[[Sequence[Claim]], None]
    ) -> dict[bytes, GivenKey] | None:
        """
        By KID, the keys that callers chose or brought for a key record; None when one of them is not at hand.

        A KID of the event's without a claim is *ask*ed for: the view may be behind the record that calls for it.
        An imported key comes with its event, and with every repeat of it: a record that another event calls for is
        left to a repair, which brings that event.
        """
        keys: dict[bytes, GivenKey] = {}
        wishes = claims.wishes_of(event)
        tracks = {track.kid: track for track in need.tracks if track.kid is not None}
        for kid, track in tracks.items():
            claim, wish = known.claim(event.organization, kid), wishes.get(kid)
            if claim is None and wish is not None:
                ask([claims.claim_of(event, track, wish, need, at)])
            elif claim is None or claim.asset != event.asset:
                _left(need, kid, "its claim is not there")
            elif (key := self._key(claim, wish.imported if wish else None)) is not None:
                keys[kid] = key
            else:
                _left(need, kid, "the event that brought the key is not at hand")
        return keys if len(keys) == len(tracks) else None

    def _key(self, claim: Claim, brought: ImportedKey | None) -> GivenKey | None:
        imported = None
        if claim.fp is not None:
            if brought is None or brought.fp != claim.fp:
                return None
            imported = self._opened(claim.organization, claim.kid, brought)
        return claims.given_key(claim, self._prk(claim.organization, claim.root_version), imported)

    def _check(self, wanted: Claim, held: Claim | None, known: Claimed) -> None:
        organization = wanted.organization
        prk = self._prk(organization, (held or wanted).root_version)
        owner = known.owner(organization, wanted.kid)
        winner = claims.winner_against(wanted, held, owner, self._keyring.k_fp(organization), prk)
        if winner is not None:
            partition = topics.partition_of(topics.ASSETS, asset_key(organization, winner.asset), self._partitions)
            place = f"{topics.ASSETS.name} partition {partition} offset {winner.event.offset}"
            raise claims.taken(wanted, winner, place)

    def _prk(self, organization: str, root_version: int) -> Secret:
        """Of a root that the schedule, the asset or a claim names: that it is not here is no fault of the event."""
        try:
            return self._keyring.prk(organization, root_version)
        except UnknownKey as error:
            raise LostKeys(f"{error}; restore the newest backup of the keys") from None

    def _opened(self, organization: str, kid: bytes, imported: ImportedKey) -> ClearKey:
        """Unwrap an event's key; what `missing` has opened need not be opened again."""
        name = (organization, kid, imported)
        if (clear := self._clear.get(name)) is not None:
            return clear
        try:
            kek = self._keyring.intake_kek(imported.intake_epoch)
        except UnknownKey as error:
            message = f"tracks.imported: the key of KID {kid.hex()}: {error}"
            raise InvalidRecord(message, field="tracks.imported", code="imported_key") from None
        k_fp = self._keyring.k_fp(organization)
        clear = unwrap_imported(kek, k_fp, organization=organization, kid=kid, imported=imported)
        if len(self._clear) >= MAX_TRACKS:
            self._clear.clear()
        self._clear[name] = clear
        return clear


def _left(need: Needed, kid: bytes, reason: str) -> None:
    log.warning("key record is left to a repair", record_key=need.record_key.decode(), kid=kid.hex(), reason=reason)
