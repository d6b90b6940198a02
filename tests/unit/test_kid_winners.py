"""Who wins a KID, judged by the claim alone and by the key record alone."""

import msgspec
import pytest

from keymill.core.claims import Winner, winner_against
from keymill.core.derive import fingerprint
from keymill.core.envelope import unwrap_imported
from keymill.errors import InvalidRecord
from keymill.secret import Secret
from schemas.records import Claim, KeyOrigin
from schemas.values import Scheme
from tests.builders import INTAKE_KEK, K_FP, at, imported
from tests.view_records import key_record

K, L, CEK = b"k" * 16, b"l" * 16, b"c" * 16
PRK = Secret(b"p" * 32)
WANTED = Claim(
    organization="demo", kid=K, asset="bbb", key_version=1, label="SD", scheme=Scheme.CBCS, root_version=1,
    fp=b"f" * 16, event=at(5).position,
)  # fmt: skip


@pytest.mark.parametrize("change", [{"asset": "other"}, {"key_version": 2}, {"fp": b"g" * 16}, {"fp": None}], ids=str)
def test_the_first_claim_wins_before_its_key_record_is_there(change) -> None:
    """Between claim and key record only the claim tells: another asset, version or key has lost."""
    same = msgspec.structs.replace(WANTED, event=at(3).position)
    held = msgspec.structs.replace(same, **change)
    assert winner_against(WANTED, same, None, K_FP, PRK) is None
    assert winner_against(WANTED, held, None, K_FP, PRK) == Winner(
        asset=held.asset, key_version=held.key_version, event=held.event
    )


@pytest.mark.parametrize("change", [{"asset": "other"}, {"key_version": 2}, {"fp": b"g" * 16}], ids=str)
@pytest.mark.parametrize("claimed", [False, True])
def test_a_key_record_that_holds_the_kid_wins(change, claimed: bool) -> None:
    """Also with the very key that is asked for, and whatever the claim says."""
    _, record = key_record("bbb", labels=["SD"])
    track = msgspec.structs.replace(record.tracks[0], kid=K, fp=WANTED.fp, origin=KeyOrigin.IMPORTED)
    same = msgspec.structs.replace(record, tracks=(track,))
    if "fp" in change:
        owner = msgspec.structs.replace(same, tracks=(msgspec.structs.replace(track, **change),))
    else:
        owner = msgspec.structs.replace(same, **change)
    held = WANTED if claimed else None
    assert winner_against(WANTED, held, same, K_FP, PRK) is None
    assert winner_against(WANTED, held, owner, K_FP, PRK) == Winner(
        asset=owner.asset, key_version=owner.key_version, event=owner.event
    )


def test_the_intake_s_associated_data_names_kid_and_epoch() -> None:
    """By itself, also where the fingerprint was made to fit; and no refusal holds the key."""
    key = imported(K, CEK)
    moved = msgspec.structs.replace(key, fp=fingerprint(K_FP, L, Secret(CEK)))
    later = msgspec.structs.replace(key, intake_epoch=2)
    for kid, each in ((L, moved), (K, later)):
        with pytest.raises(InvalidRecord, match="does not open under intake KEK epoch"):
            unwrap_imported(INTAKE_KEK, K_FP, organization="demo", kid=kid, imported=each)
    other = msgspec.structs.replace(key, fp=b"x" * 16)
    with pytest.raises(InvalidRecord, match="another key than its fingerprint says") as refused:
        unwrap_imported(INTAKE_KEK, K_FP, organization="demo", kid=K, imported=other)
    assert CEK.hex() not in str(refused.value) and repr(CEK) not in str(refused.value)
