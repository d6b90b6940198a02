"""The canonical encoding: injective, and fixed for ever."""

from keymill.core.identity import KeyIdentity, canonical, key_set_digest
from schemas.records import TrackIdentity
from schemas.values import Scheme


def test_canonical_bytes_are_length_prefixed():
    """Text is UTF-8, a number 8 bytes big-endian, None empty; 4 bytes of length before each."""
    expected = bytes.fromhex("00000001 61 00000008 0000000000000102 00000000 00000002 c3bc 00000002 00ff")
    assert canonical("a", 0x102, None, "ü", b"\x00\xff") == expected


def test_boundaries_between_parts_count():
    """Parts that concatenate alike differ."""
    assert len({canonical("ab", "c"), canonical("a", "bc"), canonical("abc"), canonical("ab", "c", None)}) == 4


def test_a_preimage_has_every_field_in_order():
    """All eight, whatever they are."""
    identity = KeyIdentity(
        organization="demo",
        asset="a",
        key_version=1,
        period=None,
        scheme=Scheme.CBCS,
        label="SD",
        root_version=2,
        salt=b"s",
    )
    assert identity.preimage() == canonical("demo", "a", 1, None, "cbcs", "SD", 2, b"s")


def test_the_digest_depends_on_the_order_of_tracks_and_not_on_declared():
    """Wrapped keys stand in the order of the tracks, so another order is another record."""

    def digest(*tracks):
        return key_set_digest(
            organization="demo", asset="a", key_version=1, root_version=1, salt=None, period=None, tracks=tracks
        )

    sd = TrackIdentity(label="SD", scheme=Scheme.CBCS, declared=True)
    hd = TrackIdentity(label="HD", scheme=Scheme.CBCS, declared=True)
    defaulted = TrackIdentity(label="SD", scheme=Scheme.CBCS, declared=False)
    assert digest(sd, hd) != digest(hd, sd)
    assert digest(sd) == digest(defaulted)
    assert len(digest(sd)) == 16
