"""Lists of an organization's policies: read in pages, from an index, so that no other request waits for a long one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

from keymill.core.folding import DEFAULT_POLICY
from keymill.core.policy_records import built_in
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads
from schemas.records import PolicyRecord

PAGE: Final = 64
"""Policies read at a time: about 2 ms, for which all other requests wait."""
NUMBERS: Final = 1024
"""Policies passed over at a time, by their numbers alone: about 1 ms."""


class PolicyLists:
    """Lists over a view."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader

    def count(self, organization: str) -> int:
        """How many policies are not deleted, policy 0 among them."""
        with self._reader.at_once() as view:
            head, changed = view.policy_head(organization), view.policy(organization, DEFAULT_POLICY) is not None
        return (0 if changed else 1) + (head.stored - head.deleted if head else 0)

    async def each(
        self, organization: str, *, deleted: bool = False, after: int = -1, skip: int = 0
    ) -> AsyncIterator[PolicyRecord]:
        """
        The policies by id, policy 0 among them, read as they are asked for; others have the loop between them.

        Args:
            deleted: deleted ones too.
            after: only those above this id.
            skip: so many are passed over, unread.
        """
        while True:
            records, last, skip = self._page(organization, deleted, after, skip)
            for record in records:
                yield record
            if last is None:
                return
            after = last
            await asyncio.sleep(0)

    def _page(
        self, organization: str, deleted: bool, after: int, skip: int
    ) -> tuple[list[PolicyRecord], int | None, int]:
        """Up to `PAGE` policies, the last id that was looked at (None at the end), and what is still to be skipped."""
        records: list[PolicyRecord] = []
        seen = 0
        with self._reader.at_once() as view:
            for policy_id, is_deleted in _numbered(view, organization, after):
                after, seen = policy_id, seen + 1
                if (deleted or not is_deleted) and skip:
                    skip -= 1
                elif deleted or not is_deleted:
                    records.append(view.policy_afresh(organization, policy_id) or built_in(organization))
                if len(records) == PAGE or seen == NUMBERS:
                    return records, after, skip
        return records, None, skip


def _numbered(view: Reads, organization: str, after: int) -> Iterator[tuple[int, bool]]:
    """The ids above *after*, policy 0 among them whether it is stored or not, and which policies are deleted."""
    stored = view.policy_ids(organization, after)
    first = next(stored, None)
    if after < DEFAULT_POLICY and (first is None or first[0] != DEFAULT_POLICY):
        yield DEFAULT_POLICY, False
    if first is not None:
        yield first
    yield from stored
