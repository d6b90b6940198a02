"""Which records lag behind a KEK epoch, and how far ahead a root is announced."""

from pathlib import Path

import msgspec
import pytest

from keymill.errors import InvalidRecord
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.rotation import add_root
from keymill.ops.census import Partition
from schemas.codec import encode
from tests.view_records import asset_record, key_record

NOW = 1_800_000_000_000


def test_an_hour_has_3600_seconds(tmp_path: Path) -> None:
    """Said here once more, so that the constant cannot shrink unseen."""
    path = tmp_path / "keys.json"
    create_key_file(path)
    add_organization(path, "demo")
    with pytest.raises(InvalidRecord, match="one hour ahead"):
        add_root(path, "demo", NOW + 3_599_999, now_ms=NOW)
    assert 2 == add_root(path, "demo", NOW + 3_600_000, now_ms=NOW)


def test_what_lags_is_the_last_record_of_each_key() -> None:
    """Below the epoch, or unreadable; of this organization only, and no asset record."""
    here = Partition("", 0, "demo", 2)
    key, old = key_record("film")
    other, foreign = key_record("film", organization="demo2")
    here._take(other, encode(foreign))
    here._take(asset_record("film")[0], encode(asset_record("film")[1]))
    assert ([], 0, {}) == (here.assets(), here.unreadable(), here.lagging)
    here._take(key, encode(old))
    assert (["film"], 0) == (here.assets(), here.unreadable())
    here._take(key, encode(msgspec.structs.replace(old, kek_epoch=2)))
    assert {} == here.lagging
    here._take(key, encode(old))
    assert ["film"] == here.assets(), "compaction keeps the last one: a late writer's record lags"
    here._take(key, b"poison")
    assert ([], 1) == (here.assets(), here.unreadable())
    here._take(key, None)
    assert ([], 1) == (here.assets(), here.unreadable())
