"""JSON bodies: one request however spelt, and every mistake named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.bodies import (
    IngestBody,
    ManifestLine,
    PolicyBody,
    RevokeBody,
    RotateBody,
    event_body_of,
    event_id_of,
    event_time_of,
    read_body,
    request_hash,
)
from keymill.errors import InvalidRecord
from schemas.events import AssetIngested, KeysRotated, PolicyAssigned, TrackWish
from schemas.values import Scheme

KINDS = (IngestBody, RotateBody, PolicyBody, RevokeBody, ManifestLine)


def test_spellings_of_one_request_have_one_hash() -> None:
    """Order, tracks as words or objects, times with any offset or in ms: the same hash; another track: another."""
    spellings = (
        b'{"asset_id":"a","tracks":["SD"],"available_from":"1970-01-01T01:00:01+01:00"}',
        b'{"available_from":1000,"tracks":[{"label":"sd"}],"asset_id":"a"}',
        b'{"available_from":"1970-01-01T00:00:01.000Z","tracks":[{"track_type":"SD"}],"asset_id":"a","salt":null}',
    )
    hashes = {request_hash("ingest", "acme", "a", read_body(each, IngestBody)) for each in spellings}
    assert len(hashes) == 1
    other = read_body(b'{"asset_id":"a","tracks":["HD"],"available_from":1000}', IngestBody)
    assert request_hash("ingest", "acme", "a", other) not in hashes
    assert request_hash("rotate", "acme", "a", read_body(spellings[0], IngestBody)) not in hashes


def test_a_kid_is_one_however_it_is_written() -> None:
    """Hex or a UUID, in either case: one request, and 16 bytes big-endian in the event."""
    spellings = ("00010203-0405-0607-0809-0A0B0C0D0E0F", "000102030405060708090a0b0c0d0e0f")
    bodies = [
        read_body(json.dumps({"asset_id": "a", "tracks": [{"label": "sd", "kid": kid}]}).encode(), IngestBody)
        for kid in spellings
    ]
    assert bodies[0] == bodies[1]
    event = event_body_of(bodies[0], lambda: 1)
    assert isinstance(event, AssetIngested)
    assert event.tracks == (TrackWish(label="SD", kid=bytes(range(16))),)


def test_body_becomes_the_event() -> None:
    """Every member stands in the event's body."""
    text = b"""{"asset_id":"a","tracks":["sd",{"track_type":"AUDIO","scheme":"cenc"}],"schemes":["cbcs"],
    "single_key":true,"key_version":2,"policy_id":3,"product_id":"p","available_from":1,"available_until":2,
    "salt":"AAAAAAAAAAAAAAAAAAAAAA=="}"""
    expected = AssetIngested(
        tracks=(TrackWish(label="SD"), TrackWish(label="AUDIO", scheme=Scheme.CENC)),
        schemes=(Scheme.CBCS,),
        single_key=True,
        key_version=2,
        policy_id=3,
        product_id="p",
        available_from=1,
        available_until=2,
        salt=bytes(16),
    )
    assert event_body_of(read_body(text, IngestBody), lambda: 1) == expected
    assert event_body_of(read_body(b"", RotateBody), lambda: 7) == KeysRotated(to_version=7)
    assert event_body_of(read_body(b'{"to_version":2}', RotateBody), lambda: 7) == KeysRotated(to_version=2)
    assert event_body_of(read_body(b'{"policy_id":2}', PolicyBody), lambda: 7) == PolicyAssigned(policy_id=2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"asset_id":"a","event_time":"2026-01-01T00:00:00"}', "event_time"),
        (b'{"asset_id":"a","available_from":-1}', "available_from"),
        (b'{"asset_id":"a","available_until":"10000-01-01T00:00:00Z"}', "available_until"),
        (b'{"asset_id":"a","tracks":[{"track_type":"SD","label":"SD"}]}', "tracks.track_type"),
        (b'{"asset_id":"a","tracks":[{}]}', "tracks.track_type"),
        (b'{"asset_id":"a","tracks":[7]}', "tracks"),
        (b'{"asset_id":"a","tracks":[{"track_type":"SD","kid":"0001"}]}', "tracks.kid"),
        (
            b'{"asset_id":"a","tracks":[{"track_type":"SD","kid":"{00010203-0405-0607-0809-0a0b0c0d0e0f}"}]}',
            "tracks.kid",
        ),
        (b'{"asset_id":"a","policy_id":"1"}', "policy_id"),
        (b'{"asset_id":"a","policy_id":-1}', "policy_id"),
        (b'{"asset_id":null}', "asset_id"),
    ],
)
def test_mistake_is_named(body: bytes, field: str) -> None:
    """The field that is wrong stands in the error."""
    with pytest.raises(InvalidRecord) as caught:
        event_body_of(read_body(body, IngestBody), lambda: 1)
    assert caught.value.field == field


def test_time_ahead_is_refused() -> None:
    """Up to 24 h ahead is a clock, more is a unit mistake; absent is now."""
    assert event_time_of(read_body(b"", RotateBody), 5) == 5
    assert event_time_of(read_body(b'{"event_time":86400005}', RotateBody), 5) == 86_400_005
    with pytest.raises(InvalidRecord):
        event_time_of(read_body(b'{"event_time":86400006}', RotateBody), 5)


def test_event_id_is_per_organization_and_asset() -> None:
    """One key, three event ids; what is no key is refused."""
    names = {event_id_of(*scope, "k") for scope in (("acme", "a"), ("acme", "b"), ("other", "a"))}
    assert len(names) == 3 and all(len(name) == 42 for name in names)
    for key in ("", "x" * 256, "é", "a\nb"):
        with pytest.raises(InvalidRecord):
            event_id_of("acme", "a", key)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
bodies = st.dictionaries(st.sampled_from(IngestBody.__struct_fields__), json_values)


@given(st.binary() | bodies.map(lambda body: json.dumps(body).encode()))
def test_any_bytes_are_a_body_or_refused(body: bytes) -> None:
    """Only the documented error comes out, whatever goes in."""
    for kind in KINDS:
        try:
            event_body_of(read_body(body, kind), lambda: 1)
        except InvalidRecord as error:
            assert error.field
