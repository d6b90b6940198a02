"""The golden keys of chosen and imported KIDs: what the second implementation says is what the product makes."""

import json
from importlib.resources import files

import pytest

from keymill.core.claims import claims_of, given_key
from keymill.core.derive import imported_iv
from keymill.core.envelope import ClearKey, unwrap_imported, unwrap_keys, wrap_imported
from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.secret import Secret
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.records import KeyRecord
from schemas.values import LogPosition, Scheme
from tests.golden import second

VECTORS = json.loads(files("schemas").joinpath("golden/chosen.json").read_text())
NAMES = [f"{index}" for index in range(len(VECTORS))]


def _secret(text):
    return Secret(bytes.fromhex(text))


def _keys(vector):
    name = vector["organization"]
    return Keys(
        prk=Secret(second.prk_of(bytes.fromhex(vector["root"]), name, vector["root_version"])),
        k_fp=Secret(second.k_fp_of(bytes.fromhex(vector["first_root"]), name)),
        kek=_secret(vector["kek"]),
        kek_epoch=vector["kek_epoch"],
    )


def _imported(vector):
    track = vector["tracks"][2]
    key = ClearKey(cek=_secret(track["cek"]), iv=_secret(track["iv"]))
    return wrap_imported(
        _secret(vector["intake_kek"]),
        _keys(vector).k_fp,
        organization=vector["organization"],
        kid=bytes.fromhex(track["kid"]),
        key=key,
        intake_epoch=vector["intake_epoch"],
    )


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_an_imported_key_travels_as_the_golden_one(vector):
    """Wrapped under the intake KEK, with its fingerprint, and the way back; an IV that lacks follows from the key."""
    track, imported = vector["tracks"][2], _imported(vector)
    assert (imported.wrapped.hex(), imported.fp.hex()) == (vector["intake_wrapped"], track["fp"])
    kid = bytes.fromhex(track["kid"])
    key = unwrap_imported(
        _secret(vector["intake_kek"]),
        _keys(vector).k_fp,
        organization=vector["organization"],
        kid=kid,
        imported=imported,
    )
    assert (key.cek.reveal().hex(), key.iv.reveal().hex()) == (track["cek"], track["iv"])
    if not vector["iv_given"]:
        assert imported_iv(key.cek, vector["organization"], kid).reveal().hex() == track["iv"]


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_a_key_record_of_all_three_origins_is_the_golden_one(vector):
    """From the event to the wrapped bytes: a derived, a chosen and an imported track in one record."""
    wishes = tuple(
        TrackWish(
            label=track["label"],
            scheme=Scheme(track["scheme"]),
            kid=None if track["origin"] == "DERIVED" else bytes.fromhex(track["kid"]),
            imported=_imported(vector) if track["origin"] == "IMPORTED" else None,
        )
        for track in vector["tracks"]
    )
    body = AssetIngested(tracks=wishes)
    event = AssetEvent(organization=vector["organization"], asset=vector["asset"], event_time=0, body=body)
    place = Coordinates(partition=0, position=LogPosition(generation=0, offset=vector["offset"]), timestamp=0)
    asset = fold(event, at=place, held=None, root_version=vector["root_version"]).asset
    (need,) = needed(asset, event)
    assert need.record_key.decode().endswith(vector["digest"])
    keys, claims = _keys(vector), claims_of(event, asset, place.position)
    opened = {
        bytes.fromhex(vector["tracks"][2]["kid"]): ClearKey(
            cek=_secret(vector["tracks"][2]["cek"]), iv=_secret(vector["tracks"][2]["iv"])
        )
    }
    given = {kid: given_key(claim, keys.prk, opened.get(kid)) for kid, claim in claims.items()}
    record = make_key_record(asset, need, keys, given)
    assert record.wrapped.hex() == vector["wrapped"]
    assert [(t.kid.hex(), t.fp.hex(), t.origin) for t in record.tracks] == [
        (t["kid"], t["fp"], t["origin"]) for t in vector["tracks"]
    ]
    read = unwrap_keys(keys.kek, keys.k_fp, decode(encode(record), KeyRecord))
    assert [key.cek.reveal().hex() for key in read] == [track["cek"] for track in vector["tracks"]]
