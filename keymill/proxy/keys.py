"""
KEKs and fingerprint keys in memory, fetched before the first request and refreshed beside the requests.

No license waits for the KMS: what is not here is missing, which /readyz says.
"""

import threading
from collections.abc import Callable
from typing import Final

from keymill import telemetry
from keymill.core.credentials import token_key_identity
from keymill.core.envelope import ClearKey, unwrap_keys, unwrap_secret
from keymill.errors import Corrupt, KeymillError, Stop
from keymill.kms.keyring import Keyring
from keymill.kms.provider import KekState, Kms
from keymill.secret import Secret
from schemas.access import TokenKey
from schemas.records import KeyRecord

REFRESH_S: Final = 5.0
"""How soon a new organization or KEK epoch is known: it is announced well before a record uses it."""
EpochName = tuple[str, int]
"""(organization, KEK epoch)"""
OPENED_RECORDS: Final = 4096
"""Key records kept open per worker, about 1 KiB each; opening one costs as much as the rest of a license."""
log = telemetry.logger("proxy.keys")


class MissingKek(Exception):
    """A record names a KEK that this proxy was not handed."""


class ProxyKeys:
    """
    What a proxy may open. `refresh` talks to the KMS, everything else is memory.

    Args:
        live: whether the view holds all that is written now, so that it holds nothing under a retired KEK.
    """

    def __init__(self, kms: Kms, live: Callable[[], bool] = lambda: False) -> None:
        self._kms = kms
        self._live = live
        self._keyring = Keyring(kms)
        self._keks: dict[EpochName, Secret] = {}
        self._retired: frozenset[EpochName] = frozenset()
        self._unused: frozenset[EpochName] = frozenset()
        self._fingerprint_keys: dict[str, Secret] = {}
        self._failure: str | None = "the KMS was not asked yet"
        self._missing: set[EpochName] = set()
        self._opened: dict[tuple[str, bytes], tuple[KeyRecord, tuple[ClearKey, ...]]] = {}
        self._reported: dict[tuple[str, bytes], KeyRecord] = {}
        self._stop = threading.Event()

    def refresh(self) -> None:
        """
        Fetch what the KMS has that is not here yet; when it does not answer, what is here stays.

        A retired KEK is not fetched. One that is here is let go of at the second look that finds it retired and the
        view live: a proxy that was cut off while keys were wrapped again goes on serving what it holds.
        """
        try:
            self._fetch()
            self._failure = None
        except KeymillError as error:
            if self._failure is None:
                log.error("the KMS does not answer", reason=str(error))
            self._failure = str(error)
            if not self._keks and isinstance(error, Stop):
                raise
        self._missing -= self._keks.keys() | self._retired

    def _fetch(self) -> None:
        retired: set[EpochName] = set()
        for organization in self._kms.organizations():
            self._fingerprint_keys[organization] = self._keyring.k_fp(organization)
            for each in self._kms.epochs(organization):
                name = (organization, each.epoch)
                if each.state is KekState.RETIRED:
                    retired.add(name)
                elif name not in self._keks:
                    self._keks[name] = self._kms.kek(*name)
        self._retired = frozenset(retired)
        live = self._live()
        for name in self._unused & self._retired if live else ():
            self._keks.pop(name, None)
        self._unused = self._retired if live else frozenset()

    def keep_fresh(self) -> None:
        """Refresh in a thread until `close`."""
        threading.Thread(target=self._run, name="kms", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    @property
    def held(self) -> tuple[tuple[str, int], ...]:
        """(organization, epoch) of every KEK that is here, ascending."""
        return tuple(sorted(self._keks.copy()))

    def show(self) -> None:
        """Set the gauges; call about once a second."""
        telemetry.KEKS_MISSING.set(len(self._missing))
        newest: dict[str, int] = {}
        for organization, epoch in self.held:
            newest[organization] = max(newest.get(organization, 0), epoch)
        for organization, epoch in newest.items():
            telemetry.KEK_EPOCH.labels(organization).set(epoch)

    def missing(self) -> str | None:
        """Why no license at all can be given, or None."""
        return f"no KEK is here: {self._failure}" if not self._keks and self._failure else None

    def degraded(self) -> str | None:
        """Which organizations' licenses fail for want of a KEK, or None: the others' are given all the same."""
        if self._missing:
            return "KEKs are missing: " + ", ".join(f"{name} epoch {epoch}" for name, epoch in sorted(self._missing))
        return None

    def open(self, record: KeyRecord) -> tuple[KeyRecord, tuple[ClearKey, ...]]:
        """
        The keys of a key record, in the order of its tracks, with the record they came from.

        A record that does not open is treated as quarantined: the copy of it that was open before, under an older KEK
        epoch, is served on. A wrong key is never returned.

        Raises:
            MissingKek: its KEK is not here, and there is no earlier copy.
            Corrupt: it does not open, and there is no earlier copy.
        """
        slot = (record.organization, record.tracks[0].kid)
        held = self._opened.get(slot)
        if held is not None and held[0] is record:
            return held
        try:
            opened = (record, self._unwrap(record))
        except (MissingKek, Corrupt) as error:
            self._report(slot, record, error)
            if held is None or held[0].tracks != record.tracks:
                raise
            return held
        if len(self._opened) >= OPENED_RECORDS:
            self._opened.pop(next(iter(self._opened)))
        self._opened[slot] = opened
        return opened

    def _report(self, slot: tuple[str, bytes], record: KeyRecord, error: Exception) -> None:
        """Page once per record, not once per request."""
        if self._reported.get(slot) != record:
            if len(self._reported) >= OPENED_RECORDS:
                self._reported.clear()
            self._reported[slot] = record
            telemetry.UNOPENED.inc()
            log.error(
                "a key record does not open", organization=record.organization, asset=record.asset, reason=str(error)
            )

    def open_secret(self, organization: str, credential: str, key: TokenKey) -> Secret | None:
        """The clear secret of an HS256 token key; None when it cannot be opened here."""
        kek = self._keks.get((organization, key.kek_epoch or 0))
        if kek is None or key.wrapped is None:
            return None
        try:
            return unwrap_secret(kek, key.wrapped, *token_key_identity(organization, credential, key.kek_epoch))
        except Corrupt as error:
            log.error("a token key does not open", organization=organization, credential=credential, reason=str(error))
            return None

    def _unwrap(self, record: KeyRecord) -> tuple[ClearKey, ...]:
        kek = self._keks.get((record.organization, record.kek_epoch))
        k_fp = self._fingerprint_keys.get(record.organization)
        if kek is None or k_fp is None:
            if (record.organization, record.kek_epoch) not in self._retired:  # an old copy, about to be superseded
                self._missing.add((record.organization, record.kek_epoch))
            raise MissingKek(f"KEK epoch {record.kek_epoch} of {record.organization} is not here")
        return unwrap_keys(kek, k_fp, record)

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                self.refresh()
            except KeymillError as error:
                log.error("the KMS cannot be used", reason=str(error))
