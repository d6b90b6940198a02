"""The manifest folder as a source: in order, resumable, refusals beside."""

import codecs
import errno
import json
import os
from pathlib import Path

import pytest

from connectors import manifest
from connectors.manifest import Manifest
from connectors.progress import FORMER_STATE_FILE, STATE_FILE
from keymill.errors import Corrupt, Misconfigured, Reject, Unavailable
from schemas.codec import decode
from schemas.events import AssetEvent
from schemas.values import MAX_RECENT


def line(asset: str, **members: object) -> str:
    """One line of a manifest."""
    return json.dumps({"organization": "acme", "asset_id": asset} | members) + "\n"


def events(source: Manifest, *, acknowledge: bool = True) -> list[AssetEvent]:
    """The events of the next batch."""
    batch = source.read()
    if batch is None:
        return []
    if acknowledge:
        source.acknowledge(batch, {})
    return [decode(item.record.value or b"", AssetEvent) for item in batch.items]


def test_lines_become_events_in_order(tmp_path: Path) -> None:
    """Files by name, lines in order, blank ones passed over; then nothing more."""
    (tmp_path / "b.jsonl").write_text(line("b1"))
    (tmp_path / "a.jsonl").write_text(line("a1", tracks=["SD"]) + "\n" + line("a2"))
    (tmp_path / "notes.txt").write_text("no manifest")
    source = Manifest(tmp_path, tmp_path / "state")
    assert [event.asset for event in events(source)] == ["a1", "a2"]
    assert [event.asset for event in events(source)] == ["b1"]
    assert source.read() is None


def test_unacknowledged_batch_comes_again_the_same(tmp_path: Path) -> None:
    """After a crash the same lines have the same event ids and hashes, so the second sending has no effect."""
    (tmp_path / "a.jsonl").write_text(line("a1") + line("a2"))
    source = Manifest(tmp_path, tmp_path / "state")
    first = events(source, acknowledge=False)
    source.close()
    again = events(Manifest(tmp_path, tmp_path / "state"))
    assert [(each.event_id, each.request_hash) for each in again] == [
        (each.event_id, each.request_hash) for each in first
    ]
    assert len({each.event_id for each in again}) == 2


def test_progress_is_kept_and_a_file_may_grow(tmp_path: Path) -> None:
    """A new connector goes on where the last one stopped."""
    path = tmp_path / "a.jsonl"
    path.write_text(line("a1"))
    source = Manifest(tmp_path, tmp_path / "state")
    events(source)
    source.close()
    with path.open("a") as file:
        file.write(line("a2"))
    source = Manifest(tmp_path, tmp_path / "state")
    assert [event.asset for event in events(source)] == ["a2"]
    assert source.read() is None


def test_line_that_is_still_written_waits(tmp_path: Path) -> None:
    """Half a line stays until it is whole; without line feed it counts when it is whole JSON, or long settled."""
    path = tmp_path / "a.jsonl"
    path.write_text(line("a1") + line("a2")[:20])
    source = Manifest(tmp_path, tmp_path / "state")
    assert [event.asset for event in events(source)] == ["a1"]
    assert source.read() is None
    path.write_text(line("a1") + line("a2").rstrip("\n"))
    assert [event.asset for event in events(source)] == ["a2"]
    with path.open("a") as file:
        file.write("\n" + line("a3")[:20])
    assert events(source) == []  # the line feed alone
    os.utime(path, (1, 1))
    batch = source.read()
    assert batch is not None and batch.items == ()
    source.acknowledge(batch, {})
    assert json.loads((tmp_path / "a.rejected.jsonl").read_text())["line"] == 4


def test_bad_lines_are_refused_with_number_and_reason(tmp_path: Path) -> None:
    """The file goes on; the refusals stand beside it, once, also when the batch had to be read again."""
    bad = ["nonsense\n", line("x", trakcs=[]), line("x/y"), '{"asset_id": "x"}\n', "\udcff\n", "x" * 1_100_000 + "\n"]
    text = line("a1") + "".join(bad) + line("a2", tracks=["4K"]) + line("a3")
    (tmp_path / "a.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    source = Manifest(tmp_path, tmp_path / "state")
    events(source, acknowledge=False)
    source.close()
    source = Manifest(tmp_path, tmp_path / "state")
    assert [event.asset for event in events(source)] == ["a1", "a3"]
    refused = [json.loads(each) for each in (tmp_path / "a.rejected.jsonl").read_text().splitlines()]
    assert [(each["line"], each["field"]) for each in refused] == [
        (2, "body"),
        (3, "trakcs"),
        (4, "asset_id"),
        (5, "organization"),
        (6, "body"),
        (7, "body"),
        (8, "tracks.label"),
    ]
    assert all(each["message"] and each["code"] for each in refused)
    source.close()
    assert Manifest(tmp_path, tmp_path / "state").read() is None


def test_the_text_of_other_machines_is_read(tmp_path: Path) -> None:
    """A byte order mark and CRLF say nothing: the events are those of the plain file."""
    plain = line("a1") + line("a2")
    spelt = codecs.BOM_UTF8 + plain.replace("\n", "\r\n").encode()
    said = []
    for content in (plain.encode(), spelt):
        (folder := tmp_path / str(len(content))).mkdir()
        (folder / "a.jsonl").write_bytes(content)
        said.append([(event.asset, event.event_id) for event in events(Manifest(folder, folder / "state"))])
    assert ["a1", "a2"] == [asset for asset, _ in said[0]]
    assert said[0] == said[1]


def test_a_file_that_is_moved_away_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the folder and the look at the file."""
    (tmp_path / "a.jsonl").write_text(line("a1"))
    (tmp_path / "b.jsonl").write_text(line("b1"))
    there = Path.is_file

    def is_file(path: Path) -> bool:
        found = there(path)
        if path.name == "a.jsonl":
            path.unlink()
        return found

    source = Manifest(tmp_path, tmp_path / "state")
    monkeypatch.setattr(Path, "is_file", is_file)
    assert ["b1"] == [event.asset for event in events(source)]


def test_crash_after_the_refusals_does_not_write_them_twice(tmp_path: Path) -> None:
    """Refusals that were written before the state was are forgotten with it."""
    (tmp_path / "a.jsonl").write_text("nonsense\n" + line("a1"))
    source = Manifest(tmp_path, tmp_path / "state")
    events(source)
    source.close()
    (tmp_path / "state" / STATE_FILE).unlink()
    source = Manifest(tmp_path, tmp_path / "state")
    assert [event.asset for event in events(source)] == ["a1"]
    assert len((tmp_path / "a.rejected.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("full", ["_append", "save_progress"])
def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """The same batch comes again until it can be noted, and its refusals stand there once."""
    (tmp_path / "a.jsonl").write_text(line("a1") + "{}\n")
    source = Manifest(tmp_path, tmp_path / "state")
    append = manifest._append

    def refuse(path: Path, refusals: object) -> int:
        if full == "_append":
            append(path, b"{half a li")
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Unavailable, match="make room"):
            patch.setattr(manifest, full, refuse)
            events(source)
    assert ["a1"] == [event.asset for event in events(source)]
    assert [2] == [json.loads(each)["line"] for each in (tmp_path / "a.rejected.jsonl").read_text().splitlines()]
    assert source.read() is None


def test_batch_refusal_of_the_broker_is_kept(tmp_path: Path) -> None:
    """What cannot be published stands among the refusals, in the lines' order."""
    (tmp_path / "a.jsonl").write_text(line("a1") + "nonsense\n")
    source = Manifest(tmp_path, tmp_path / "state")
    batch = source.read()
    assert batch is not None
    source.refuse(batch.items[0], Reject("too large", field="value", code="too_large"))
    source.acknowledge(batch, {})
    lines = [json.loads(each)["line"] for each in (tmp_path / "a.rejected.jsonl").read_text().splitlines()]
    assert lines == [1, 2]


def test_batch_holds_no_more_lines_of_an_asset_than_its_record_remembers(tmp_path: Path) -> None:
    """A repeat of the batch then meets every one of its event ids."""
    (tmp_path / "a.jsonl").write_text(line("a1") * 40 + line("a2") * 20)
    source = Manifest(tmp_path, tmp_path / "state")
    assert [len(events(source)) for _ in range(3)] == [MAX_RECENT, 28, 0]


def test_replaced_file_is_read_from_its_begin(tmp_path: Path) -> None:
    """Another file of the same name is another file."""
    path = tmp_path / "a.jsonl"
    path.write_text(line("a1") + line("a2"))
    source = Manifest(tmp_path, tmp_path / "state")
    events(source)
    path.write_text(line("z1") + line("z2") + line("z3"))
    assert [event.asset for event in events(source)] == ["z1", "z2", "z3"]
    path.write_text(line("q"))
    assert [event.asset for event in events(source)] == ["q"]


def test_wrong_folder_second_reader_damaged_state(tmp_path: Path) -> None:
    """Each says what and where."""
    with pytest.raises(Misconfigured, match="no folder"):
        Manifest(tmp_path / "nowhere", tmp_path / "state")
    source = Manifest(tmp_path, tmp_path / "state")
    with pytest.raises(Misconfigured, match="another connector"):
        Manifest(tmp_path, tmp_path / "state")
    source.close()
    (tmp_path / "state" / STATE_FILE).write_text("{")
    with pytest.raises(Corrupt, match="damaged"):
        Manifest(tmp_path, tmp_path / "state")


@pytest.mark.parametrize("name", [FORMER_STATE_FILE, ".keymill-manifest.json.new", "a.rejected.jsonl", "progress.json"])
def test_nothing_is_written_through_a_planted_link(tmp_path: Path, name: str) -> None:
    """Whoever may drop files cannot lead the connector's writes to a file that is none of his."""
    dropped, treasure = tmp_path / "dropped", tmp_path / "keys.json"
    dropped.mkdir()
    treasure.write_text("precious")
    (dropped / name).symlink_to(treasure)
    (dropped / "a.jsonl").write_text(line("a1") + "nonsense\n")
    try:
        source = Manifest(dropped, tmp_path / "state")
        events(source)
        source.close()
    except Misconfigured as error:
        assert "symbolic link" in str(error)
    assert "precious" == treasure.read_text()


def test_where_an_earlier_release_stood_is_taken_over(tmp_path: Path) -> None:
    """Its state lay among the dropped files; it is moved, and no line is sent again."""
    (tmp_path / "a.jsonl").write_text(line("a1"))
    source = Manifest(tmp_path, tmp_path / "state")
    events(source)
    source.close()
    (tmp_path / "state" / STATE_FILE).rename(tmp_path / FORMER_STATE_FILE)
    source = Manifest(tmp_path, tmp_path / "state")
    assert [] == events(source)
    assert not (tmp_path / FORMER_STATE_FILE).exists()
    assert (tmp_path / "state" / STATE_FILE).exists()
