"""Key versions: what the first event of one chooses, what later events may add, and what is a conflict."""

import pytest

from keymill.core.folding import fold
from keymill.core.period import MAX_SPANS, spans
from keymill.errors import Conflict, InvalidRecord, Reject
from schemas.events import TrackWish
from schemas.values import DEFAULT_LABELS, LogPosition, Scheme
from tests.builders import NOW, at, folded, ingest, rotate, tracks_of

CBCS, CENC = Scheme.CBCS, Scheme.CENC
SALT, OTHER_SALT = b"s" * 16, b"t" * 16


def test_no_tracks_mean_all_five_labels():
    """What Shaka Packager asks for, defaulted."""
    asset = folded(ingest(tracks=None))
    assert tracks_of(asset) == [(label, CBCS) for label in DEFAULT_LABELS]
    assert not any(track.declared for track in asset.versions[0].key_sets[0].tracks)


def test_each_track_gets_a_key_per_scheme():
    """Unless it names a scheme of its own."""
    wishes = (TrackWish(label="SD"), TrackWish(label="HD", scheme=Scheme.CENS))
    asset = folded(ingest(tracks=wishes, schemes=(CBCS, CENC)))
    assert tracks_of(asset) == [("SD", CBCS), ("SD", CENC), ("HD", Scheme.CENS)]


def test_a_track_or_scheme_named_twice_is_one():
    """No key record with the same identity twice."""
    asset = folded(ingest("SD", "SD", schemes=(CBCS, CBCS)))
    assert tracks_of(asset) == [("SD", CBCS)]
    assert len(tracks_of(folded(ingest(tracks=None, schemes=(CENC, CENC))))) == 5


def test_a_later_event_adds_a_further_key_set_and_changes_none():
    """Tracks that are there keep their record; only the new one gets another."""
    first = folded(ingest("SD", "HD"))
    second = folded(ingest("HD", "UHD1"), held=first, start=1)
    assert second.versions[0].key_sets[0] == first.versions[0].key_sets[0]
    assert tracks_of(second) == [("SD", CBCS), ("HD", CBCS), ("UHD1", CBCS)]


def test_added_tracks_keep_the_version_s_root_and_salt():
    """The choices of a version are its first event's, whatever the schedule says by now."""
    first = folded(ingest("SD", salt=SALT), root_version=1)
    second = folded(ingest("HD"), held=first, start=1, root_version=2)
    assert (second.versions[0].root_version, second.versions[0].salt) == (1, SALT)


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"salt": OTHER_SALT}, "salt"), ({"single_key": True}, "single_key"), ({"schemes": (CENC,)}, "schemes")],
)
def test_a_different_explicit_choice_later_is_a_conflict(changed, field):
    """Choices are sticky; the same choice again, or none, is fine."""
    held = folded(ingest(salt=SALT, single_key=False, schemes=(CBCS,)))
    assert folded(ingest(salt=SALT, single_key=False, schemes=(CBCS,)), held=held, start=1).versions == held.versions
    assert folded(ingest(), held=held, start=1).versions == held.versions
    with pytest.raises(Conflict) as refused:
        fold(ingest(**changed), at=at(1), held=held, root_version=1)
    assert refused.value.field == field


def test_a_salt_cannot_be_added_later():
    """A version without a salt has keys already."""
    with pytest.raises(Conflict) as refused:
        fold(ingest(salt=SALT), at=at(1), held=folded(ingest()), root_version=1)
    assert refused.value.field == "salt"


def test_a_rotation_renews_every_track_in_one_key_set():
    """Tracks that several events brought, under the newest root."""
    held = folded(ingest("SD"), ingest("HD"))
    rotated = folded(rotate(2), held=held, start=2, root_version=2)
    assert tracks_of(rotated, 2) == [("SD", CBCS), ("HD", CBCS)]
    assert len(rotated.versions[1].key_sets) == 1
    assert [version.root_version for version in rotated.versions] == [1, 2]
    assert rotated.versions[0] == held.versions[0]


def test_a_rotation_to_a_version_that_exists_is_a_repeat():
    """Redelivered or sent twice, it makes no third version; another salt is a conflict."""
    held = folded(ingest(), rotate(2, salt=SALT))
    for repeat in (rotate(1), rotate(2), rotate(2, salt=SALT)):
        assert folded(repeat, held=held, start=2).versions == held.versions
    with pytest.raises(Conflict) as refused:
        fold(rotate(2, salt=OTHER_SALT), at=at(2), held=held, root_version=1)
    assert refused.value.field == "salt"


@pytest.mark.parametrize(("happened", "field"), [(rotate(3), "to_version"), (ingest(key_version=3), "key_version")])
def test_a_version_that_skips_one_is_refused(happened, field):
    """The event before it was lost or is late; the next version would be 2."""
    with pytest.raises(Conflict, match="the next is 2") as refused:
        fold(happened, at=at(1), held=folded(ingest()), root_version=1)
    assert (refused.value.field, refused.value.code) == (field, "version_gap")


@pytest.mark.parametrize("begin", [rotate(2), ingest(tracks=None, key_version=2)], ids=["rotate", "ingest"])
def test_a_new_version_inherits_whatever_it_does_not_choose(begin):
    """Salt, key mode, schemes, tracks and the newest live periods, whichever event begins it."""
    held = folded(ingest("SD", salt=SALT, single_key=True, schemes=(CENC,)), ingest("SD", periods=(0, 25)))
    renewed = folded(begin, held=held, start=2).versions[1]
    assert (renewed.salt, renewed.single_key, renewed.schemes) == (SALT, True, (CENC,))
    assert [(t.label, t.scheme) for t in renewed.key_sets[0].tracks] == [("SD", CENC)]
    assert (renewed.live.from_index, renewed.live.through_index) == (15, 24)
    assert renewed.live.at == renewed.created == LogPosition(generation=0, offset=2)


def test_a_new_version_may_choose_anew():
    """An ingest event that begins a version may change all of its choices."""
    held = folded(ingest("SD", salt=SALT))
    renewed = folded(ingest("HD", key_version=2, salt=OTHER_SALT, schemes=(CENC,)), held=held, start=1)
    assert tracks_of(renewed, 2) == [("HD", CENC)]
    assert renewed.versions[1].salt == OTHER_SALT


def test_tracks_may_be_added_to_an_older_version():
    """It is still licensed, so its packager may need one more."""
    held = folded(ingest("SD"), rotate(2))
    added = folded(ingest("HD", key_version=1), held=held, start=2)
    assert tracks_of(added, 1) == [("SD", CBCS), ("HD", CBCS)]
    assert added.versions[1] == held.versions[1]


def test_a_version_holds_no_more_tracks_than_a_key_record():
    """So that a rotation, which puts them all into one record, always fits its topic."""
    labels = ("SD", "HD", "UHD1", "UHD2", "AUDIO", "ALL", "VIDEO", "HD1", "HD2", "UHD", "STEREO_AUDIO", "HLS_AES128")
    held = folded(ingest(*labels, schemes=tuple(Scheme)), ingest("SD+HD", "SD+UHD1", "SD+UHD2", "SD+HD1"))
    assert len(tracks_of(held)) == 64
    with pytest.raises(Reject) as refused:
        fold(ingest("HD+HD2"), at=at(2), held=held, root_version=1)
    assert (refused.value.field, refused.value.code) == ("tracks", "too_many_tracks")


def test_periods_extend_both_ways_and_never_shrink():
    """Each request only ever widens the span."""
    spans = []
    held = None
    for offset, periods in enumerate([(10, 10), (15, 10), (5, 3), (12, 1)]):
        held = fold(ingest("SD", periods=periods), at=at(offset), held=held, root_version=1).asset
        live = held.versions[0].live
        spans.append((live.from_index, live.through_index, live.at.offset))
    assert spans == [(10, 19, 0), (10, 24, 0), (5, 24, 0), (5, 24, 0)]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (ingest("SD", periods=(0, 1), period_s=11), "periods"),
        (ingest("SD", periods=(0, 1), start=NOW + 1), "periods"),
        (ingest("HD", periods=(0, 1)), "tracks"),
    ],
)
def test_another_clock_or_other_tracks_for_live_periods_are_a_conflict(wanted, field):
    """Period keys exist already; an unnamed start is inherited."""
    held = folded(ingest("SD", periods=(0, 1)))
    assert folded(ingest("SD", periods=(1, 1), start=None), held=held, start=1).versions[0].live.through_index == 1
    with pytest.raises(Conflict) as refused:
        fold(wanted, at=at(1), held=held, root_version=1)
    assert refused.value.field == field


@pytest.mark.parametrize("jump", [(29935973, 10), (0, 10), (29934953 - 1011, 10)], ids=["off air", "wrapped", "back"])
def test_a_clock_that_jumps_opens_a_span(jump):
    """An encoder that was off air, or whose counter began anew, gets the periods it asks for and none between."""
    held = folded(ingest("SD", periods=(29934953, 10)))
    live = folded(ingest("SD", periods=jump), held=held, start=1).versions[0].live
    assert [(span[0], span[-1]) for span in spans(live)] == [(29934953, 29934962), (jump[0], jump[0] + 9)]
    back = folded(ingest("SD", periods=(29934960, 10)), ingest("SD", periods=jump), held=held, start=1)
    assert spans(back.versions[0].live)[0] == range(29934953, 29934970)


def test_a_version_takes_only_so_many_jumps_and_a_new_one_begins_anew():
    """The refusal says what to send; a rotation keeps the newest periods alone, and the channel goes on."""
    jumps = [ingest("SD", periods=(5000 * number, 10)) for number in range(MAX_SPANS + 2)]
    held = folded(*jumps[:-1])
    assert len(held.versions[0].live.earlier) == MAX_SPANS
    with pytest.raises(Reject, match="send the next key_version") as refused:
        folded(jumps[-1], held=held, start=90)
    assert (refused.value.field, refused.value.code) == ("periods.first_index", "period_gap")
    assert folded(jumps[0], held=held, start=90).versions == held.versions
    renewed = folded(rotate(2), ingest("SD", key_version=2, periods=(5000 * len(jumps), 10)), held=held, start=90)
    assert len(spans(renewed.versions[1].live)) == 2
    assert renewed.versions[0] == held.versions[0]


def test_periods_never_leave_the_calendar():
    """A time that RFC 3339 cannot write is refused before anything is derived."""
    with pytest.raises(InvalidRecord) as refused:
        fold(ingest("SD", periods=(2**50, 1)), at=at(0), held=None, root_version=1)
    assert refused.value.field == "periods"


def test_an_event_without_tracks_adds_no_static_keys_to_live_content():
    """A policy change of a channel is not a request for five more keys."""
    held = folded(ingest("SD", periods=(0, 5)))
    after = folded(ingest(tracks=None, policy_id=7), held=held, start=1)
    assert after.versions == held.versions
    assert after.policy_id == 7


def test_a_live_version_that_names_no_tracks_inherits_them():
    """From the version before, else all five."""
    assert len(folded(ingest(tracks=None, periods=(0, 1))).versions[0].live.tracks) == 5
    held = folded(ingest("SD", periods=(0, 1)))
    after = folded(ingest(tracks=None, key_version=2, periods=(0, 1)), held=held, start=1)
    assert [track.label for track in after.versions[1].live.tracks] == ["SD"]
