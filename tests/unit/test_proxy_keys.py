"""Which KEKs a proxy holds while they are rotated, and what it serves meanwhile."""

import pytest

from keymill.core.provisioning import make_key_record, needed
from keymill.core.rewrapping import rewrap
from keymill.kms.keyring import Keyring
from keymill.proxy.keys import MissingKek, ProxyKeys
from schemas.records import KeyRecord
from tests.builders import folded, ingest
from tests.fakes import MemoryKms


@pytest.fixture
def kms() -> MemoryKms:
    return MemoryKms()


def record_under(kms: MemoryKms, epoch: int) -> KeyRecord:
    """The key record of one asset, wrapped under an epoch."""
    keyring, asset = Keyring(kms), folded(ingest("SD"))
    (need,) = needed(asset, None)
    first = make_key_record(asset, need, Keyring(MemoryKms()).keys_for("demo", 1))
    if epoch == 1:
        return first
    k_fp, kek = keyring.k_fp("demo"), keyring.kek("demo", epoch)
    return rewrap(first, held_under=keyring.kek("demo", 1), kek=kek, kek_epoch=epoch, k_fp=k_fp)


def test_an_announced_epoch_is_held_before_anything_is_wrapped_under_it(kms: MemoryKms) -> None:
    """So that the first record under it opens at once, and the report of what is held can be waited for."""
    keys = ProxyKeys(kms)
    keys.refresh()
    kms.kek_epochs, kms.announced = (1, 2), (2,)
    keys.refresh()
    assert (("demo", 1), ("demo", 2)) == keys.held
    assert keys.open(record_under(kms, 1))[1] == keys.open(record_under(kms, 2))[1]


def test_a_record_of_an_unknown_epoch_leaves_the_copy_before_it_in_use(kms: MemoryKms) -> None:
    """It is told as missing, until the KEK is handed over."""
    keys = ProxyKeys(kms)
    keys.refresh()
    before = keys.open(record_under(kms, 1))
    newer = record_under(kms, 2)
    assert before == keys.open(newer)
    assert ("KEKs are missing: demo epoch 2", None) == (keys.degraded(), keys.missing())
    kms.kek_epochs = (1, 2)
    keys.refresh()
    assert (newer, None) == (keys.open(newer)[0], keys.degraded())


def test_a_retired_epoch_is_not_handed_to_a_proxy_that_starts(kms: MemoryKms) -> None:
    """An old copy met before the view has caught up does not open, and is no missing KEK: it is about to go."""
    kms.kek_epochs, kms.retired = (1, 2), (1,)
    keys = ProxyKeys(kms)
    keys.refresh()
    assert (("demo", 2),) == keys.held
    with pytest.raises(MissingKek):
        keys.open(record_under(kms, 1))
    assert keys.missing() is None
    assert keys.open(record_under(kms, 2))


def test_an_epoch_that_becomes_retired_is_no_longer_missing(kms: MemoryKms) -> None:
    """A proxy that met its record first would otherwise never be ready again."""
    kms.kek_epochs = (2,)
    keys = ProxyKeys(kms)
    keys.refresh()
    with pytest.raises(MissingKek):
        keys.open(record_under(kms, 1))
    assert keys.degraded() is not None
    kms.kek_epochs, kms.retired = (1, 2), (1,)
    keys.refresh()
    assert keys.degraded() is None


def test_a_retired_epoch_is_let_go_of_once_the_view_cannot_need_it(kms: MemoryKms) -> None:
    """Not while it is cut off, nor at the first look: the view may have been live just before the last record."""
    live = False
    keys = ProxyKeys(kms, lambda: live)
    keys.refresh()
    kms.kek_epochs, kms.retired = (1, 2), (1,)
    held = []
    for live in (False, False, True, False, True, True):
        keys.refresh()
        held.append([epoch for _, epoch in keys.held])
    assert [[1, 2]] * 5 + [[2]] == held
