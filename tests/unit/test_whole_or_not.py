"""What is kept in one piece: an archive's rows with its positions, a batch of the spool."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from keymill.archive.tables import POSITIONS
from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.errors import Unavailable
from keymill.trail import spool
from keymill.trail.sender import send_spool
from keymill.trail.spool import Spool
from tests.archive_rig import adopted, contents, slots_after
from tests.unit.test_archive import EVERY_RECORD
from tests.unit.test_trail import MIB, Brokers, numbered, sequences


@pytest.mark.parametrize("lost", ["positions", "rows"])
def test_rows_and_positions_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Whichever of the two fails, neither is kept."""
    url = archive_url("", tmp_path)
    with closing(ArchiveWriter(url, adopted())) as writer:
        real = writer._insert

        def cut(table):
            if (table is POSITIONS) == (lost == "positions"):
                raise Unavailable("cut")
            return real(table)

        with monkeypatch.context() as patch:
            patch.setattr(writer, "_insert", cut)
            with pytest.raises(Unavailable):
                writer.write(EVERY_RECORD, slots_after(EVERY_RECORD))
        assert {name: [] for name in contents(url)} == contents(url)
        writer.write(EVERY_RECORD, slots_after(EVERY_RECORD))
        assert all(contents(url)[name] for name in ("asset_events", "positions"))


def test_a_batch_that_the_disk_takes_in_part_is_taken_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is counted as lost, so none of it may arrive, not even a line that is whole."""
    writer, real = Spool(tmp_path, "w", limit=MIB), os.write
    assert 1 == writer.append(numbered(1))
    whole = len(numbered(1, 2)[0]) + 5

    def refuse(descriptor: int, data: bytes) -> int:
        if bytes(data).startswith(b"2 "):
            return real(descriptor, bytes(data)[:whole])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "write", refuse)
        with pytest.raises(OSError, match="No space"):
            writer.append(numbered(2, 2))
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert [1] == sequences(brokers, "w")
