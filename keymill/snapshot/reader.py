"""
A view from the outside: typed reads of its LMDB snapshot, from any number of processes, and how far it can be trusted.

Every read begins and ends its own LMDB transaction; `at_once` puts several into one. None of them waits for anything.
"""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import lmdb

from keymill.errors import NotReady
from keymill.snapshot import store
from keymill.snapshot.layout import Owner, Place, Rejection
from keymill.snapshot.policy_index import PolicyHead
from keymill.snapshot.reads import Reads
from keymill.snapshot.state import HeartbeatFile, ViewState, view_state
from keymill.snapshot.store import Environment
from schemas.access import Credential, Entitlement, Service
from schemas.records import AssetRecord, Claim, KeyRecord, PolicyRecord

OPEN_WAIT_S: Final = 10.0
"""How long `open` waits for the follower to make the environment."""
CHANGE_POLL_S: Final = 0.001
"""`wait_change` looks this often: it costs 1 µs, and the tail adds no more than that to a record's way."""


class SnapshotReader:
    """
    A view's folder, open for reading.

    Open it after any fork, in the process that reads; threads may share it. What `Reads` documents is here too, each
    read in a transaction of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment: Environment | None = None
        self._number = -1
        self._heartbeat: HeartbeatFile | None = None
        self._positions: tuple[int, dict[str, dict[int, int]]] = (-1, {})

    def open(self, wait_s: float = OPEN_WAIT_S) -> Self:
        """
        Open the snapshot, which need not be caught up; wait for a follower that is about to make it.

        Raises:
            NotReady: there is no snapshot after *wait_s*.
        """
        manifest = store.await_manifest(self.folder, wait_s)
        path = store.environment_path(self.folder, manifest)
        self._environment = store.acquire(path, map_size=manifest.map_size, write=False, wait_s=wait_s)
        self._number = manifest.environment
        self._heartbeat = HeartbeatFile(self.folder)
        return self

    def close(self) -> None:
        """Let go; no read may be under way. May be repeated."""
        if self._heartbeat:
            self._heartbeat.close()
            self._heartbeat = None
        if self._environment:
            store.release(self._environment)
            self._environment = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def at_once(self) -> Reads:
        """Several reads of one state: `with reader.at_once() as view: …`. Never keep it across an await."""
        opened = self._opened()
        try:
            return Reads(opened.env.begin(), opened.handles)
        except lmdb.MapResizedError:
            opened.env.set_mapsize(0)  # the writer was given a larger map meanwhile: take it over
            return Reads(opened.env.begin(), opened.handles)

    def txn_id(self) -> int:
        """A number that rises whenever the view changes."""
        return self._opened().env.info()["last_txnid"]

    async def wait_change(self, since_txn: int, timeout_s: float) -> bool:
        """Wait until the view is another than at *since_txn*; False when nothing changed in time."""
        deadline = time.monotonic() + timeout_s
        while self.txn_id() == since_txn:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(CHANGE_POLL_S)
        return True

    def state(self) -> ViewState:
        """How far the view can be trusted right now. About 5 µs; do not change the positions in it."""
        if self._heartbeat is None:
            raise NotReady(f"the view {self.folder} is not open")
        beat = self._heartbeat.read()
        if beat is not None and beat.environment > self._number:
            self._reopen()
        txn = self.txn_id()
        if txn != self._positions[0]:
            with self.at_once() as view:
                self._positions = (txn, view.positions())
        return view_state(beat, self._positions[1])

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """`Reads.asset`"""
        with self.at_once() as view:
            return view.asset(organization, asset)

    def key_records(self, organization: str, asset: str) -> list[KeyRecord]:
        """`Reads.key_records`"""
        with self.at_once() as view:
            return view.key_records(organization, asset)

    def key_record(self, record_key: bytes) -> KeyRecord | None:
        """`Reads.key_record`"""
        with self.at_once() as view:
            return view.key_record(record_key)

    def has(self, topic: str, record_key: bytes) -> bool:
        """`Reads.has`"""
        with self.at_once() as view:
            return view.has(topic, record_key)

    def coordinates(self, topic: str, record_key: bytes) -> Place | None:
        """`Reads.coordinates`"""
        with self.at_once() as view:
            return view.coordinates(topic, record_key)

    def owner(self, organization: str, kid: bytes) -> Owner | None:
        """`Reads.owner`"""
        with self.at_once() as view:
            return view.owner(organization, kid)

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """`Reads.claim`"""
        with self.at_once() as view:
            return view.claim(organization, kid)

    def policy(self, organization: str, policy_id: int) -> PolicyRecord | None:
        """`Reads.policy`"""
        with self.at_once() as view:
            return view.policy(organization, policy_id)

    def policies(self, organization: str) -> list[PolicyRecord]:
        """`Reads.policies`"""
        with self.at_once() as view:
            return view.policies(organization)

    def policy_of_request(self, organization: str, request_id: str) -> PolicyRecord | None:
        """`Reads.policy_of_request`"""
        with self.at_once() as view:
            return view.policy_of_request(organization, request_id)

    def policy_head(self, organization: str) -> PolicyHead | None:
        """`Reads.policy_head`"""
        with self.at_once() as view:
            return view.policy_head(organization)

    def entitlement(self, organization: str, user: str, product: str) -> Entitlement | None:
        """`Reads.entitlement`"""
        with self.at_once() as view:
            return view.entitlement(organization, user, product)

    def service(self, organization: str | None, service: str, version: str) -> Service | None:
        """`Reads.service`"""
        with self.at_once() as view:
            return view.service(organization, service, version)

    def credential(self, organization: str, credential: str) -> Credential | None:
        """`Reads.credential`"""
        with self.at_once() as view:
            return view.credential(organization, credential)

    def credential_by_id(self, credential: str) -> Credential | None:
        """`Reads.credential_by_id`"""
        with self.at_once() as view:
            return view.credential_by_id(credential)

    def rejected(self) -> list[Rejection]:
        """`Reads.rejected`"""
        with self.at_once() as view:
            return view.rejected()

    def regressions(self) -> list[Rejection]:
        """`Reads.regressions`"""
        with self.at_once() as view:
            return view.regressions()

    def _opened(self) -> Environment:
        if self._environment is None:
            raise NotReady(f"the view {self.folder} is not open")
        return self._environment

    def _reopen(self) -> None:
        """The follower has begun another environment: what was open is history."""
        self.close()
        self._positions = (-1, {})
        self.open()
