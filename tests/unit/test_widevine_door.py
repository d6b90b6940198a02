"""The Widevine key API's bytes, against a request that Shaka Packager 3.8.0 sent."""

import asyncio
import base64
import json
import time
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.envelope import ClearKey
from keymill.drm import widevine as message
from keymill.errors import Corrupt, InvalidRecord
from keymill.gateway.dialects import widevine
from keymill.gateway.dialects.widevine import Asked, PackagedTrack, Refusal, Status
from keymill.gateway.dialects.widevine_route import publish_until
from keymill.gateway.intake import Intake
from keymill.http.health import Readiness
from keymill.kafka.producer import Publisher
from keymill.secret import Secret
from keymill.trail.recorder import Recorder
from schemas import topics
from schemas.events import AssetEvent, AssetIngested, PeriodRange
from schemas.records import KeyOrigin, TrackKey
from schemas.values import DEFAULT_LABELS, Scheme

# Captured: packager v3.8.0-75b2faf --content_id 6d6f7669652d3432 --signer acme --protection_scheme cbcs
CAPTURED = (
    b'{"request":"eyJjb250ZW50X2lkIjoiYlc5MmFXVXROREk9IiwicG9saWN5IjoiIiwidHJhY2tzIjpbeyJ0eXBlIjoiU0QifSx7InR5cGUiOiJI'
    b"RCJ9LHsidHlwZSI6IlVIRDEifSx7InR5cGUiOiJVSEQyIn0seyJ0eXBlIjoiQVVESU8ifV0sImRybV90eXBlcyI6WyJXSURFVklORSJdLCJwcm90ZWN0"
    b'aW9uX3NjaGVtZSI6IkNCQ1MifQ==","signature":"9iVzXTjok7Z5PmkR6RQA8ovSdwib5f/WtmjGZSolJkU=","signer":"acme"}'
)
SIGNER = Secret(bytes(range(32)) + bytes(range(16)))
TRACK = TrackKey(kid=bytes(16), fp=bytes(16), label="SD", scheme=Scheme.CBCS, origin=KeyOrigin.DERIVED)


def request(**members: Any) -> bytes:
    """Inner bytes with a content id and one track, and what is given."""
    return json.dumps({"content_id": "bW92aWUtNDI=", "tracks": [{"type": "SD"}]} | members).encode()


def status_of(inner: bytes) -> Status:
    """The status that a request is refused with."""
    with pytest.raises(Refusal) as caught:
        widevine.read_inner(inner)
    return caught.value.status


def test_real_request_is_understood_and_its_signature_verified() -> None:
    """The packager's own bytes are read, and its signature is ours."""
    envelope = widevine.read_envelope(CAPTURED)
    assert envelope.signer == "acme" and widevine.is_signed(envelope, SIGNER)
    expected = Asked(
        asset="movie-42",
        content_id=b"movie-42",
        labels=DEFAULT_LABELS,
        scheme=Scheme.CBCS,
        policy_id=None,
        periods=None,
    )
    assert widevine.read_inner(envelope.request) == expected


def test_signature_covers_the_exact_bytes() -> None:
    """A byte more, the same JSON spelt otherwise, another key, no signature: none is signed."""
    envelope = widevine.read_envelope(CAPTURED)
    spelt = json.dumps(json.loads(envelope.request)).encode()
    for other in (envelope.request + b"\n", spelt):
        assert not widevine.is_signed(widevine.Envelope(request=other, signature=envelope.signature), SIGNER)
    assert not widevine.is_signed(envelope, Secret(bytes(48)))
    assert not widevine.is_signed(widevine.Envelope(request=envelope.request), SIGNER)


def test_policy_is_an_id_or_none() -> None:
    """Empty names none, digits name one, all else is unknown."""
    assert widevine.read_inner(request(policy="")).policy_id is None
    assert widevine.read_inner(request(policy="007")).policy_id == 7
    for policy in ("gold", "-1", "1.0", "9" * 17, "٣", " 1"):
        assert status_of(request(policy=policy)) is Status.POLICY_UNKNOWN


def test_crypto_periods() -> None:
    """The three members together are a range of periods."""
    inner = request(first_crypto_period_index=4, crypto_period_count=10, crypto_period_seconds=6)
    assert widevine.read_inner(inner).periods == PeriodRange(first_index=4, count=10, period_s=6)
    assert status_of(request(first_crypto_period_index=4, crypto_period_count=10)) is Status.INVALID_ARGUMENT
    for count in (0, -1, 101, 10**30):
        broken = request(first_crypto_period_index=4, crypto_period_count=count, crypto_period_seconds=6)
        assert status_of(broken) is Status.INVALID_ARGUMENT


def test_scheme_by_name_or_code() -> None:
    """A name, a four-character code, or nothing, which is cenc."""
    assert widevine.read_inner(request(protection_scheme=int.from_bytes(b"cbcs", "big"))).scheme is Scheme.CBCS
    assert widevine.read_inner(request(protection_scheme="CENS")).scheme is Scheme.CENS
    assert widevine.read_inner(request()).scheme is Scheme.CENC
    for scheme in ("none", -1, 0, 2**40):
        assert status_of(request(protection_scheme=scheme)) is Status.INVALID_ARGUMENT


def test_unknown_labels_are_left_out_and_repeats_said_once() -> None:
    """What is known stays, in order."""
    tracks = [{"type": "HD"}, {"type": "8K"}, {"type": "sd"}, {"type": "HD"}]
    assert widevine.read_inner(request(tracks=tracks)).labels == ("HD", "SD")


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_are_asked_or_refused(inner: bytes) -> None:
    """Whatever is signed, only a known status comes out."""
    for read in (widevine.read_inner, widevine.read_envelope):
        try:
            read(inner)
        except (Refusal, InvalidRecord):
            pass


def test_answer_has_one_pssh_per_track() -> None:
    """Key, IV, KID and exactly one Widevine PSSH with KID, content id and scheme."""
    asked = widevine.read_inner(request(protection_scheme="CBCS"))
    clear = ClearKey(cek=Secret(b"c" * 16), iv=Secret(b"i" * 16))
    track = PackagedTrack(label="SD", key=TRACK, clear=clear, period_index=5)
    answer = json.loads(widevine.answer(asked, [track], already_used=False))
    inner = json.loads(base64.b64decode(answer["response"]))
    (told,) = inner["tracks"]
    assert (inner["status"], told["type"], told["crypto_period_index"]) == ("OK", "SD", 5)
    assert [base64.b64decode(told[name]) for name in ("key_id", "key", "iv")] == [bytes(16), b"c" * 16, b"i" * 16]
    data = message.decode_data(base64.b64decode(told["pssh"][0]["data"]))
    assert (data.kids, data.content_id, data.scheme, data.period_index) == ((bytes(16),), b"movie-42", Scheme.CBCS, 5)
    assert len(told["pssh"]) == 1


def test_disagreeing_track_is_never_answered() -> None:
    """A key of another scheme than asked for stops the answer."""
    asked = widevine.read_inner(request(protection_scheme="CENC"))
    clear = ClearKey(cek=Secret(bytes(16)), iv=Secret(bytes(16)))
    with pytest.raises(Corrupt):
        widevine.answer(
            asked, [PackagedTrack(label="SD", key=TRACK, clear=clear, period_index=None)], already_used=False
        )


def test_refusal_has_no_tracks() -> None:
    """A status and nothing else."""
    answer = json.loads(widevine.refusal(Status.ACCESS_DENIED))
    assert json.loads(base64.b64decode(answer["response"])) == {"status": "ACCESS_DENIED"}


def test_a_packager_is_answered_before_it_gives_up() -> None:
    """While no broker acknowledges the event, the answer comes at the deadline and not at the publisher's own."""
    publisher = Publisher("127.0.0.1:9", {topics.ASSETS.name: 12})
    intake = Intake(publisher, topic=topics.ASSETS, partitions=12, generation=0, audit=Recorder())
    event = AssetEvent(organization="acme", asset="film", event_time=0, body=AssetIngested())
    began = time.monotonic()
    with closing(publisher), pytest.raises(Refusal, match="did not acknowledge") as caught:
        asyncio.run(publish_until(began + 0.5, event, intake, Readiness()))
    assert (Status.INTERNAL_ERROR, True) == (caught.value.status, 0.4 < time.monotonic() - began < 5)
