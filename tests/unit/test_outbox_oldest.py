"""For how long the oldest row of an outbox has waited: from its time, or from when it was first seen."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from connectors import outbox_oldest
from connectors.outbox_oldest import OldestRow, WaitingRow
from connectors.pulse import LATE_S, Pulse
from keymill.telemetry import OUTBOX_OLDEST

NEAR_S = 5


def ago(seconds: float, shape: str = "{}") -> str:
    """A time of UTC, as a database shows it."""
    return shape.format(datetime.now(UTC).replace(tzinfo=None, microsecond=120_000) - timedelta(seconds=seconds))


@pytest.mark.parametrize("shape", ["{}", "{}+00:00", "{}+00", "{:%Y-%m-%d %H:%M:%S.12}+00", "{:%Y-%m-%dT%H:%M:%S}Z"])
def test_age_counts_from_the_row_s_own_time(shape: str) -> None:
    """In every form in which the databases show it; without a zone it is one of UTC."""
    oldest = OldestRow()
    oldest.saw([WaitingRow(7, ago(100, shape))])
    assert 99 <= oldest.age_s() < 100 + NEAR_S


def test_age_knows_zones() -> None:
    """Half past two in Kolkata was nine o'clock."""
    at = datetime.now(UTC).astimezone(timezone(timedelta(hours=5.5))) - timedelta(seconds=100)
    oldest = OldestRow()
    oldest.saw([WaitingRow(7, str(at))])
    assert 100 <= oldest.age_s() < 100 + NEAR_S


@pytest.mark.parametrize("created", ["", "yesterday", "infinity", "2999-01-01 00:00:00+00"])
def test_row_without_a_time_counts_from_when_it_was_seen(created: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps that moment, also from when it was behind another row."""
    clock = [1000.0]
    monkeypatch.setattr(outbox_oldest.time, "monotonic", lambda: clock[0])
    oldest = OldestRow()
    oldest.saw([WaitingRow(2, created), WaitingRow(1, created)])
    clock[0] += 30
    assert 30 == oldest.age_s()
    oldest.done([1])
    oldest.saw([WaitingRow(2, created), WaitingRow(3, created)])
    assert 30 == oldest.age_s()
    oldest.done([2])
    oldest.saw([WaitingRow(2, created)])
    assert 0 == oldest.age_s()


def test_lowest_id_is_the_oldest_and_none_is_0() -> None:
    """A row that became visible late is the oldest, whatever stands around it."""
    oldest = OldestRow()
    assert 0 == oldest.age_s()
    oldest.saw([WaitingRow(3, ago(10)), WaitingRow(1, ago(300)), WaitingRow(2, ago(20))])
    assert 299 <= oldest.age_s() < 300 + NEAR_S
    oldest.saw([])
    assert 0 == oldest.age_s()


def test_nothing_to_take_is_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred polls of ten seconds are ten looks; between them what was done is known, and a backlog has no gap."""
    clock, looks = [50.0], []
    monkeypatch.setattr(outbox_oldest.time, "monotonic", lambda: clock[0])

    def look() -> list[WaitingRow]:
        looks.append(clock[0])
        return [WaitingRow(1, "")]

    oldest = OldestRow()
    for _ in range(100):
        oldest.took_none(look)
        clock[0] += 0.1
    assert 10 == len(looks)
    oldest.saw([WaitingRow(1, "")])
    clock[0] = looks[-1] + 0.9
    before = oldest.age_s()
    oldest.done([1])
    assert before == oldest.age_s() > 9
    oldest.took_none(look)
    assert (0, 10) == (oldest.age_s(), len(looks))


def test_a_late_relay_says_so() -> None:
    """What /readyz and `keymill status` show, and the metric."""
    pulse, waited = Pulse(), [LATE_S]
    pulse.works()
    pulse.watches(lambda: waited[0])
    assert pulse.reason() is None
    waited[0] = 75.4
    assert "it is late: the oldest row of the outbox has waited for 75 s" == pulse.reason()
    assert [75.4] == [sample.value for metric in OUTBOX_OLDEST.collect() for sample in metric.samples]
    waited[0] = 0
    assert pulse.reason() is None
