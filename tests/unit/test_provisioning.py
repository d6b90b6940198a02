"""From an asset to its key records: which are called for, and what they hold."""

import pytest

from keymill.core.envelope import unwrap_keys
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.secret import Secret
from schemas.codec import decode, encode
from schemas.ids import is_key_set, partition_key
from schemas.records import KeyOrigin, KeyRecord
from schemas.values import Scheme
from tests.builders import KEYS, NOW, assign, folded, ingest, rotate


def _records(asset, event=None):
    return [make_key_record(asset, need, KEYS) for need in needed(asset, event)]


def test_an_event_calls_for_one_record_per_key_set():
    """Each under a record key of its own on the asset's partition, in the order of the log."""
    asset = folded(ingest("SD"), ingest("HD"), rotate(2))
    needs = list(needed(asset, rotate(2)))
    assert [(need.key_version, len(need.tracks)) for need in needs] == [(1, 1), (1, 1), (2, 2)]
    assert len({need.record_key for need in needs}) == 3
    assert all(is_key_set(need.record_key) and partition_key(need.record_key) == b"demo/bbb" for need in needs)


def test_a_key_record_says_whose_keys_it_holds():
    """Tracks in the event's order, the version's root, the event that called for it."""
    asset = folded(ingest("HD", "SD", schemes=(Scheme.CENC,)), start=41, root_version=3)
    (record,) = _records(asset)
    assert [(t.label, t.scheme, t.origin) for t in record.tracks] == [
        ("HD", Scheme.CENC, KeyOrigin.DERIVED),
        ("SD", Scheme.CENC, KeyOrigin.DERIVED),
    ]
    assert (record.organization, record.asset, record.key_version, record.root_version) == ("demo", "bbb", 1, 3)
    assert record.event.offset == 41
    assert len(record.wrapped) == 16 + 32 * 2
    assert decode(encode(record), KeyRecord) == record


def test_an_event_calls_for_its_periods_only():
    """Not for every period that the channel ever had; without an event all are named."""
    asset = folded(ingest("SD", periods=(0, 30)), ingest("SD", periods=(30, 10)))
    assert [need.period.index for need in needed(asset, ingest("SD", periods=(30, 10)))] == list(range(30, 40))
    assert len(list(needed(asset, None))) == 40
    assert list(needed(asset, assign(3))) == []
    assert list(needed(asset, ingest())) == []


def test_periods_outside_the_record_are_never_made():
    """An event that was refused, redelivered, must not get keys that the asset record does not know."""
    asset = folded(ingest("SD", periods=(0, 10)))
    assert [need.period.index for need in needed(asset, ingest("SD", periods=(8, 500)))] == [8, 9]
    assert list(needed(asset, ingest("SD", periods=(5000, 3)))) == []


def test_a_jump_of_the_clock_changes_no_key():
    """A period's record is the same in whichever span it stands; the periods between two spans are not called for."""
    counted = folded(ingest("SD", periods=(0, 10)), ingest("SD", periods=(9000, 10)), ingest("SD", periods=(10, 3)))
    straight = folded(ingest("SD", periods=(0, 13)))
    made = {need.record_key: encode(make_key_record(counted, need, KEYS)) for need in needed(counted, None)}
    for need in needed(straight, None):
        assert made[need.record_key] == encode(make_key_record(straight, need, KEYS))
    assert len(made) == 23
    again = needed(counted, ingest("SD", periods=(0, 10)))
    assert [need.period.index for need in again] == list(range(10))


def test_a_rotation_of_live_content_calls_for_its_newest_periods():
    """The ten newest under new keys; the old version's are there already and are not named again."""
    held = folded(ingest("SD", periods=(0, 25)))
    rotated = folded(rotate(2), held=held, start=1)
    needs = [need for need in needed(rotated, rotate(2)) if need.period]
    assert {need.key_version for need in needs} == {2}
    assert [need.period.index for need in needs] == list(range(15, 25))


def test_a_period_s_record_is_the_same_whoever_asks():
    """Two requests that overlap give one record, byte for byte."""
    once = folded(ingest("SD", periods=(0, 10)))
    twice = folded(ingest("SD", periods=(5, 10)), held=once, start=1)
    again = {need.record_key: encode(make_key_record(twice, need, KEYS)) for need in needed(twice, None)}
    first = {need.record_key: encode(make_key_record(once, need, KEYS)) for need in needed(once, None)}
    assert first.items() <= again.items()
    assert next(iter(needed(once, None))).period.start == NOW


def test_each_track_and_scheme_has_a_key_of_its_own():
    """Unless one key for all was chosen."""
    (record,) = _records(folded(ingest("SD", "HD", "AUDIO", schemes=(Scheme.CBCS, Scheme.CENC))))
    assert len({track.kid for track in record.tracks}) == 6


def test_a_single_key_serves_every_track_of_a_scheme():
    """Later tracks get the same key, in a record of their own."""
    asset = folded(ingest("SD", "HD", single_key=True, schemes=(Scheme.CBCS, Scheme.CENC)), ingest("AUDIO"))
    first, second = _records(asset)
    assert len({track.kid for track in first.tracks}) == 2
    assert {track.kid for track in second.tracks} == {track.kid for track in first.tracks}
    assert {track.fp for track in second.tracks} == {track.fp for track in first.tracks}
    assert len({key.cek.reveal() for key in unwrap_keys(KEYS.kek, KEYS.k_fp, first)}) == 2


def test_a_clear_key_is_never_the_single_key():
    """HLS_AES128 is handed out in the clear, so it must not open the protected tracks."""
    (record,) = _records(folded(ingest("SD", "HLS_AES128", "AUDIO", single_key=True)))
    sd, hls, audio = (track.kid for track in record.tracks)
    assert sd == audio
    assert hls != sd
    opened = unwrap_keys(KEYS.kek, KEYS.k_fp, record)
    assert opened[1].cek != opened[0].cek


@pytest.mark.parametrize("changed", [{"kek": Secret(b"z" * 64)}, {"kek_epoch": 2}])
def test_another_epoch_wraps_the_same_keys(changed):
    """A re-wrap changes the wrapping and nothing else."""
    import msgspec

    asset = folded(ingest())
    (need,) = needed(asset, None)
    keys = msgspec.structs.replace(KEYS, **changed)
    before, after = make_key_record(asset, need, KEYS), make_key_record(asset, need, keys)
    assert before.tracks == after.tracks
    assert before.wrapped != after.wrapped
    assert unwrap_keys(keys.kek, keys.k_fp, after) == unwrap_keys(KEYS.kek, KEYS.k_fp, before)


def test_another_root_gives_other_kids():
    """A race about root versions gives two KIDs, never two keys for one."""
    asset = folded(ingest())
    (need,) = needed(asset, None)
    other = Keys(prk=Secret(b"q" * 32), k_fp=KEYS.k_fp, kek=KEYS.kek, kek_epoch=1)
    kids = {track.kid for keys in (KEYS, other) for track in make_key_record(asset, need, keys).tracks}
    assert len(kids) == 6
