"""Dead letters: which are meant, what became of their events, and what is never shown."""

import msgspec
import pytest
from hypothesis import given

from keymill.errors import InvalidRecord
from keymill.ops.letters import Coordinates, Later, Letter, Wanted, aftermath, coordinates_of, masked, redriven, row_of
from schemas import topics
from schemas.events import AssetEvent, AssetIngested, ImportedKey, KeysRotated, TrackWish
from schemas.records import DeadLetter
from tests.property.strategies import EVENTS

TOPIC = topics.ASSETS.name
KEY = b"demo/film"


def letter(offset: int = 5, partition: int = 2, event_id: str | None = "e-1") -> Letter:
    about = DeadLetter(
        topic=TOPIC, partition=partition, generation=0, offset=offset, timestamp=1, reason="unknown_organization",
        field="organization", message="no roots", organization="demo", asset="film", event_id=event_id, value_size=3,
        value_sha256=bytes(32),
    )  # fmt: skip
    return Letter(about=about, at=Coordinates(topic=topics.DEAD_LETTERS.name, partition=2, offset=0), recorded=2)


def at(offset: int, partition: int = 2) -> Coordinates:
    return Coordinates(topic=TOPIC, partition=partition, offset=offset)


def later(offset: int, *, of: str | None = None, event_id: str | None = None, partition: int = 2) -> Later:
    return Later(at=at(offset, partition), record_key=KEY, redrive_of=of, event_id=event_id)


OURS = f"{TOPIC}/2/5"


def test_an_attempt_is_pending_until_the_processors_are_past_it() -> None:
    """Then it is accepted, unless a letter is about it: that says why not."""
    behind = [later(9, of=OURS, event_id="e-1")]
    outcomes = [
        aftermath(letter(), behind, refused, {(TOPIC, 2): committed}).attempts[0]
        for committed, refused in ((9, {}), (10, {}), (10, {at(9): "version_gap"}))
    ]
    assert ["pending", "accepted", "refused"] == [each.outcome for each in outcomes]
    assert "version_gap" == outcomes[-1].reason


def test_a_later_event_with_the_same_id_settles_it() -> None:
    """The sender has sent it again by itself; redriving it would change nothing."""
    after = aftermath(letter(), [later(7, event_id="e-1")], {}, {(TOPIC, 2): 20})
    assert (f"{TOPIC}/2/7", 1) == (after.settled_at, after.overtaken_by)
    assert "sent again by its sender" in (redriven(after) or "")
    refused_too = aftermath(letter(), [later(7, event_id="e-1")], {at(7): "conflict"}, {(TOPIC, 2): 20})
    assert (None, 0) == (refused_too.settled_at, refused_too.overtaken_by)
    nameless = aftermath(letter(event_id=None), [later(7)], {}, {(TOPIC, 2): 20})
    assert (None, 1) == (nameless.settled_at, nameless.overtaken_by)


def test_newer_events_overtake_and_older_ones_do_not() -> None:
    """Only accepted ones of the same record key, above the refused one on its partition, or on the right one."""
    behind = [later(3), later(5), later(6), later(8), later(4, partition=1)]
    after = aftermath(letter(), behind, {at(8): "conflict"}, {(TOPIC, 2): 20, (TOPIC, 1): 20})
    assert 2 == after.overtaken_by
    other = Later(at=at(6), record_key=b"demo/other")
    assert 0 == aftermath(letter(), [other], {}, {(TOPIC, 2): 20}).overtaken_by


def test_the_attempts_of_another_letter_are_not_ours() -> None:
    """By the header, which names the refused event."""
    after = aftermath(letter(), [later(9, of=f"{TOPIC}/2/6")], {}, {(TOPIC, 2): 20})
    assert () == after.attempts


@pytest.mark.parametrize(
    ("wanted", "covered"),
    [
        (Wanted(), True),
        (Wanted(organization="demo", asset="film", reason="unknown_organization"), True),
        (Wanted(organization="other"), False),
        (Wanted(asset="other"), False),
        (Wanted(reason="conflict"), False),
        (Wanted(sources=(at(5),)), True),
        (Wanted(sources=(at(6),)), False),
    ],
)
def test_letters_are_chosen_by_what_is_given(wanted: Wanted, covered: bool) -> None:
    """All that is given must fit."""
    assert covered is wanted.covers(letter().about)


def test_coordinates_are_read_as_they_are_printed() -> None:
    """And nothing else is taken for some."""
    for topic in (TOPIC, topics.POLICY_CHANGES.name, topics.REQUESTS.name):
        place = Coordinates(topic=topic, partition=2, offset=17)
        assert place == coordinates_of(str(place))
    for text in ("", "drm.assets.v1", "drm.keys.v1/1/2", "drm.assets.v1/1/-2", "drm.assets.v1/1/2/3", f"{OURS}\n"):
        with pytest.raises(InvalidRecord, match="TOPIC/PARTITION/OFFSET"):
            coordinates_of(text)


def test_a_row_has_what_the_listing_shows() -> None:
    """Coordinates of the refused event, and what became of it."""
    after = aftermath(letter(), [later(9, of=OURS)], {at(9): "conflict"}, {(TOPIC, 2): 10})
    row = row_of(letter(), after)
    assert (OURS, f"refused at {TOPIC}/2/9: conflict") == (row["coordinates"], row["redriven"])


def test_keys_and_salts_are_never_shown() -> None:
    """Of an imported key and of a salt only the size; KIDs and fingerprints are shown."""
    key = ImportedKey(intake_epoch=1, wrapped=b"W" * 48, fp=b"F" * 16)
    body = AssetIngested(tracks=(TrackWish(label="HD", kid=b"K" * 16, imported=key),), salt=b"S" * 16)
    shown = masked(AssetEvent(organization="demo", asset="film", event_time=1, body=body))
    (track,) = shown["body"]["tracks"]
    assert ("(48 bytes)", "(16 bytes)") == (track["imported"]["wrapped"], shown["body"]["salt"])
    assert ((b"K" * 16).hex(), (b"F" * 16).hex()) == (track["kid"], track["imported"]["fp"])


MARK = b"never to be shown"


@given(event=EVENTS)
def test_no_event_shows_what_it_brings(event: AssetEvent) -> None:
    """Whatever the event: neither its wrapped keys nor its salt is in what is printed."""
    body = event.body
    if isinstance(body, KeysRotated | AssetIngested):
        body = msgspec.structs.replace(body, salt=MARK)
    if isinstance(body, AssetIngested):
        key = ImportedKey(intake_epoch=1, wrapped=MARK.ljust(48), fp=bytes(16))
        tracks = tuple(msgspec.structs.replace(track, imported=key) for track in body.tracks or ())
        body = msgspec.structs.replace(body, tracks=tracks or None)
    text = msgspec.json.encode(masked(msgspec.structs.replace(event, body=body))).decode()
    assert MARK.hex() not in text
    assert MARK.decode() not in text
