"""What a proxy's parent says for its workers, and the names that programs report under."""

from pathlib import Path

import pytest

from keymill.config import GatewaySettings, ProxySettings, load
from keymill.kafka.reporting import held_keks, instance_of
from keymill.proxy.standing import NOT_UP, Standing, StandingFile, together
from schemas.operations import KekEpochs

ONE = Standing(waits_for=None, keks=(("demo", 1), ("demo", 2)))
TWO = Standing(waits_for=None, keks=(("demo", 1), ("other", 1)))


def test_a_kek_is_held_when_every_worker_holds_it() -> None:
    """One that a worker lacks would fail the licenses that come to that worker."""
    assert Standing(waits_for=None, keks=(("demo", 1),)) == together([ONE, TWO])


@pytest.mark.parametrize("missing", [[None], [ONE, None], []])
def test_a_worker_that_is_not_up_holds_nothing(missing: list[Standing | None]) -> None:
    """Until it has told, nothing can be said of all."""
    assert Standing(waits_for=NOT_UP, keks=()) == together(missing)


def test_the_first_reason_is_told() -> None:
    """Of several workers that wait, and though another one is not up."""
    waits = Standing(waits_for="the KMS does not answer", keks=())
    assert "the KMS does not answer" == together([ONE, waits]).waits_for
    assert "the KMS does not answer" == together([None, waits]).waits_for


def test_a_worker_s_file_goes_with_it(tmp_path: Path) -> None:
    """What it told is read; forgotten, or torn, it is nothing; and told again when nothing changed in between."""
    worker, parent = StandingFile(tmp_path / "0.json"), StandingFile(tmp_path / "0.json")
    assert parent.read() is None
    worker.write(ONE)
    assert ONE == parent.read()
    (tmp_path / "0.json").write_bytes(b'{"waits')
    assert parent.read() is None
    parent.forget()
    parent.forget()
    StandingFile(tmp_path / "0.json").write(ONE)
    assert ONE == parent.read()


def test_a_name_is_the_same_after_every_start_and_another_in_another_folder(tmp_path: Path) -> None:
    """Made of host and folder, with a port where several may share them; a setting goes before."""
    here, there = (load(GatewaySettings, environ={}, data=tmp_path / name) for name in ("a", "b"))
    assert instance_of(here) == instance_of(load(ProxySettings, environ={}, data=tmp_path / "a"))
    assert 4 == len({instance_of(here), instance_of(there), instance_of(here, 8083), instance_of(here, 8084)})
    assert "edge-1" == instance_of(load(ProxySettings, environ={}, instance_id="edge-1"), 8083)


def test_epochs_ascend_by_organization() -> None:
    """Whatever the order in which they were fetched."""
    expected = (KekEpochs(organization="a", epochs=(1,)), KekEpochs(organization="b", epochs=(1, 2)))
    assert expected == held_keks([("b", 2), ("a", 1), ("b", 1)])
