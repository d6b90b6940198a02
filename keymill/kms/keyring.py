"""What a program keeps of the KMS in memory: PRKs, K_fp and KEKs, each fetched once and held as `Secret`."""

from keymill.core.derive import fingerprint_message, prk_message
from keymill.core.provisioning import Keys
from keymill.core.record_authentication import mac_key_message, signing_key_message
from keymill.errors import KeymillError, UnknownKey
from keymill.kms.provider import KekState, Kms
from keymill.secret import Secret


class Keyring:
    """
    A cache over a `Kms`. It never forgets, since neither a root's PRK nor an epoch's KEK ever changes.

    Raises what the `Kms` raises, on the first use of an organization, version or epoch.
    """

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self._prks: dict[tuple[str, int], Secret] = {}
        self._fingerprint_keys: dict[str, Secret] = {}
        self._keks: dict[tuple[str, int], Secret] = {}
        self._intake_keks: dict[int, Secret] = {}
        self._record_keys: dict[bytes, Secret] = {}

    def root_version_at(self, organization: str, timestamp: int) -> int:
        """The root version that a key version pins whose first event has this record timestamp (epoch ms)."""
        schedule = self._kms.schedule(organization)
        at = max(timestamp, 0)
        return max([entry.root_version for entry in schedule if entry.activates <= at])

    def roots(self) -> frozenset[tuple[str, int]]:
        """Return (organization, root version) of every root."""
        kms = self._kms
        return frozenset((each, root.root_version) for each in kms.organizations() for root in kms.schedule(each))

    def prk(self, organization: str, root_version: int) -> Secret:
        """The PRK of (organization, root version), 32 bytes."""
        found = self._prks.get((organization, root_version))
        if found is None:
            found = self._kms.hmac(organization, root_version, prk_message(organization, root_version))
            self._prks[organization, root_version] = found
        return found

    def k_fp(self, organization: str) -> Secret:
        """The fingerprint key of an organization, 32 bytes, of its first root for ever."""
        found = self._fingerprint_keys.get(organization)
        if found is None:
            found = self._kms.hmac(organization, 1, fingerprint_message(organization))
            self._fingerprint_keys[organization] = found
        return found

    def record_mac_key(self, organization: str, epoch: int) -> Secret:
        """
        Return K_rec, 32 bytes, of (organization, root version); without organization the installation's own.

        Raises `UnknownKey` when there is no such organization or root version.
        """
        return self._record_key(organization, epoch, mac_key_message(organization))

    def record_signing_key(self, organization: str, epoch: int) -> Secret:
        """Return the seed of the Ed25519 key, 32 bytes; arguments and errors as for `record_mac_key`."""
        return self._record_key(organization, epoch, signing_key_message(organization))

    def _record_key(self, organization: str, epoch: int, message: bytes) -> Secret:
        name = epoch.to_bytes(4, "big") + message
        found = self._record_keys.get(name)
        if found is None:
            if organization:
                found = self._kms.hmac(organization, epoch, message)
            elif epoch == 1:
                found = self._kms.installation_hmac(message)
            else:
                raise UnknownKey(f"the installation has no key of epoch {epoch}")
            self._record_keys[name] = found
        return found

    def kek(self, organization: str, epoch: int) -> Secret:
        """The KEK of (organization, epoch), 64 bytes."""
        found = self._keks.get((organization, epoch))
        if found is None:
            found = self._kms.kek(organization, epoch)
            self._keks[organization, epoch] = found
        return found

    def intake_kek(self, epoch: int) -> Secret:
        """The intake KEK of that epoch, 64 bytes."""
        found = self._intake_keks.get(epoch)
        if found is None:
            _, found = self._kms.intake_kek(epoch)
            self._intake_keks[epoch] = found
        return found

    def hold_all(self) -> tuple[tuple[str, int], ...]:
        """
        Fetch every KEK that is not retired; returns their (organization, epoch).

        While the KMS does not answer, what was fetched before counts.
        """
        try:
            handed = [(each, epoch) for each in self._kms.organizations() for epoch in self.open_epochs(each)]
            for organization, epoch in handed:
                self.kek(organization, epoch)
            return tuple(handed)
        except KeymillError:
            return tuple(self._keks)

    def current_epoch(self, organization: str) -> int:
        """The KEK epoch that wraps new records."""
        return max([each.epoch for each in self._kms.epochs(organization) if each.state is KekState.ACTIVE])

    def open_epochs(self, organization: str) -> tuple[int, ...]:
        """The KEK epochs that are handed to proxies, ascending: all that are not retired."""
        known = self._kms.epochs(organization)
        return tuple(each.epoch for each in known if each.state is not KekState.RETIRED)

    def keys_for(self, organization: str, root_version: int) -> Keys:
        """All that making a key record takes."""
        epoch = self.current_epoch(organization)
        return Keys(
            prk=self.prk(organization, root_version),
            k_fp=self.k_fp(organization),
            kek=self.kek(organization, epoch),
            kek_epoch=epoch,
        )
