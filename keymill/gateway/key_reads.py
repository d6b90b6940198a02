"""Reads of an asset's key records: those of a version by name, and all of them in pages that let others run."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import Final

from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads, key_of
from schemas import topics
from schemas.codec import decode
from schemas.ids import key_set_key
from schemas.records import AssetRecord, KeyRecord, KeyVersion

PAGE: Final = 64
"""Key records read at a time: about 2 ms. A channel may have thousands, and other requests wait for the loop."""
_KEY_SETS: Final = b"/k/"


def of_all_time(view: Reads, asset: AssetRecord, version: KeyVersion) -> list[KeyRecord]:
    """The key records of a version that hold for all time, as far as the view has them; no period is read."""
    keys = [key_set_key(asset.organization, asset.asset, key_set.digest) for key_set in version.key_sets]
    return [record for key in keys if (record := view.key_record(key))]


async def pages(reader: SnapshotReader, organization: str, asset: str) -> AsyncIterator[list[KeyRecord]]:
    """
    Every key record of an asset, ordered by record key; each page is of one state of the view.

    They are decoded afresh: thousands of them would push out what license and packager requests find decoded.
    """
    prefix, after = key_of(organization, asset) + _KEY_SETS, b""
    while True:
        with reader.at_once() as view:
            found = [(key, value) for key, _, value in islice(view.scan(topics.KEYS.name, prefix, after), PAGE)]
        yield [decode(value, KeyRecord) for _, value in found]
        if len(found) < PAGE:
            return
        after = found[-1][0]
        await asyncio.sleep(0)
