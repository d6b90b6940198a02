"""Lineages: what a view says of a key, an asset, a request, and how the log completes it as far as it can."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keymill.config import ProcessorSettings
from keymill.errors import InvalidRecord, Unavailable
from keymill.ops import explaining
from keymill.ops.explaining import complete, with_audit, with_events, with_policies
from keymill.ops.lineage import Answered, AssetLineage, EventTold, KeyLineage, Place, PolicyTold, RequestLineage
from keymill.ops.lineage_log import Interrupted, Log
from keymill.ops.lineage_view import asset_lineages, key_lineages, kid_of, organizations_of
from keymill.ops.moment import epoch_ms_of, shown
from keymill.ops.show_lineage import show
from keymill.ops.telling import answered, policy_told, spelt
from schemas import topics
from schemas.audit import AuditEvent, EventPlace
from schemas.events import KeysRotated
from tests import builders
from tests.proxy_rig import ProxyRig

DAY = 86_400_000
_PLACE = Place(topic=topics.AUDIT.name, partition=0, offset=0)
SETTINGS = ProcessorSettings()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A view with an organization, a policy, and an asset of two versions."""
    rig = ProxyRig(tmp_path)
    rig.put_organization()
    rig.put_policy(3, version=2)
    first = rig.ingest("film", "SD", "HD", policy_id=3)
    event = msgspec.structs.replace(builders.ingest(asset="film"), body=KeysRotated(to_version=2))
    rig.take(event, first)
    yield rig
    rig.close()


def lineages(rig: ProxyRig, kid: bytes) -> list[KeyLineage]:
    with rig.life.means.reader.at_once() as view:
        return key_lineages(view, kid, organizations_of(view))


def asset_of(rig: ProxyRig) -> AssetLineage:
    with rig.life.means.reader.at_once() as view:
        (found,) = asset_lineages(view, "film", ["demo", "other"])
    return found


def test_a_key_leads_to_its_record_its_policy_and_its_event(rig: ProxyRig) -> None:
    """Each with its coordinates; a rotated version's key to the rotation."""
    (first,) = lineages(rig, rig.kid("film", "HD"))
    (second,) = lineages(rig, rig.kid("film", "HD", version=2))
    assert ("demo", "film", 1, 2) == (first.organization, first.asset, first.key_version, second.key_version)
    assert first.event.offset < second.event.offset
    assert (3, 2, topics.POLICIES.name) == (first.policy.id, first.policy.version, first.policy.place.topic)  # type: ignore[union-attr]
    assert str(first.key_record.record_key).startswith("demo/film/k/")
    assert ("DERIVED", "ACTIVE", ("HD/cbcs",)) == (first.origin, first.state, first.tracks)
    assert [] == lineages(rig, bytes(16))


def test_an_asset_lists_its_versions_keys_and_events(rig: ProxyRig) -> None:
    """Every KID of every version, and each event once, in log order."""
    told = asset_of(rig)
    assert [(1, "SD/cbcs"), (1, "HD/cbcs"), (2, "SD/cbcs"), (2, "HD/cbcs")] == [
        (key.key_version, key.track) for key in told.keys
    ]
    assert {spelt(rig.kid("film", label, version)) for label in ("SD", "HD") for version in (1, 2)} == {
        key.kid for key in told.keys
    }
    offsets = [event.offset for event in told.events]
    assert sorted(set(offsets)) == offsets
    assert {key.event_offset for key in told.keys} <= set(offsets)


def test_no_lineage_holds_a_key(rig: ProxyRig) -> None:
    """Neither in hex nor as bytes."""
    (key,) = lineages(rig, rig.kid("film"))
    text = msgspec.json.encode([key, asset_of(rig)]).decode()
    assert rig.clear
    assert not [kid for kid, clear in rig.clear.items() if clear.hex() in text]


class _Log(Log):
    """A log whose answers the test gives."""

    def __init__(self, answers: list[Answered], trouble: Exception | None = None) -> None:
        self._answers = answers
        self._trouble = trouble

    def event(self, event: EventTold) -> EventTold:
        """Found, unless there is trouble."""
        if self._trouble:
            raise self._trouble
        return msgspec.structs.replace(event, found=True, request_id="r-1", kind="AssetIngested")

    def policy(self, organization: str, policy_id: int, version: int) -> PolicyTold:
        """The version that was asked for."""
        return PolicyTold(id=policy_id, version=version, name="from the log")

    def audit(self, since_ms: int, needles: object, matches: object) -> list[Answered]:
        """All of them."""
        return self._answers

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def note(**more: object) -> Answered:
    event = AuditEvent(
        at=1, program="gateway", instance="g", sequence=1, request_id="r-1", what="license", granted=True,
        reason="granted", organization="demo", asset="film",
    )  # fmt: skip
    place = answered(event, _PLACE)
    return msgspec.structs.replace(place, **more)


def test_the_sender_of_an_event_is_found_by_its_place(rig: ProxyRig) -> None:
    """And the last licenses of this key, not those of another, newest last."""
    (key,) = lineages(rig, rig.kid("film"))
    place = EventPlace(topic=key.event.topic, partition=key.event.partition or 0, generation=0, offset=key.event.offset)
    sent = note(what="asset_event", reason="accepted", caller="cms", event=place)
    elsewhere = msgspec.structs.replace(sent, caller="other", event=msgspec.structs.replace(place, offset=99))
    mine = [note(kids=(key.kid,), sequence=number) for number in range(5)]
    log = _Log([elsewhere, sent, *mine, note(kids=(spelt(bytes(16)),))])
    told = with_audit(0, 3)(log, with_events(log, key))
    assert "cms" == told.event.asked.caller  # type: ignore[union-attr]
    assert [2, 3, 4] == [each.sequence for each in told.audit]
    assert () == with_audit(0, 0)(log, key).audit


@pytest.mark.parametrize(
    ("trouble", "code"),
    [(Unavailable("no broker answers"), 3), (InvalidRecord("odd"), 2)],
    ids=["unavailable", "caller's"],
)
def test_what_the_log_cannot_tell_leaves_the_rest(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch, trouble: Exception, code: int
) -> None:
    """The view's part stands, the events say why they are not told, and so does the exit code."""
    monkeypatch.setattr(explaining, "Log", lambda _settings: _Log([], trouble))
    told, given = complete(asset_of(rig), SETTINGS, [with_events])
    assert (code, str(trouble)) == (given, told.incomplete)
    assert {str(trouble)} == {event.error for event in told.events}
    assert 4 == len(told.keys)


def test_an_event_that_is_half_known_is_told_as_far(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the log, but its schema's registry does not answer."""
    (key,) = lineages(rig, rig.kid("film"))
    half = msgspec.structs.replace(key.event, found=True, error="the registry does not answer")
    trouble = Interrupted(Unavailable("the registry does not answer"), half)
    monkeypatch.setattr(explaining, "Log", lambda _settings: _Log([], trouble))
    told, code = complete(key, SETTINGS, [with_events])
    assert (3, half) == (code, told.event)


def test_a_lineage_is_printed_without_what_is_unknown(rig: ProxyRig, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per member."""
    (key,) = lineages(rig, rig.kid("film"))
    show(key)
    lines = capsys.readouterr().out.splitlines()
    assert f"kid            {key.kid}" in lines
    assert not [line for line in lines if line.startswith(("claim", "audit", "incomplete"))]


def test_policy_0_is_built_in_until_somebody_stores_one() -> None:
    """Another that is not there is missing, and licenses of it are refused."""
    assert (0, 0, "built-in default") == tuple(
        getattr(policy_told(0, None, None), name) for name in ("id", "version", "name")
    )
    missing = policy_told(7, None, None)
    assert (7, None, "missing") == (missing.id, missing.version, missing.name)


def test_a_license_names_the_policy_version_it_was_made_under(rig: ProxyRig) -> None:
    """The view's where it is the same, else the log's; no policy for a request that got none."""
    (key,) = lineages(rig, rig.kid("film"))
    answers = (note(policy_id=3, policy_version=2), note(policy_id=3, policy_version=1), note())
    told = with_policies(_Log([]), RequestLineage(request_id="r-1", answers=answers, keys=(key,)))
    assert [(3, 2, "a policy"), (3, 1, "from the log")] == [
        (each.id, each.version, each.name) for each in told.policies
    ]


def test_moments_are_read_and_shown() -> None:
    """So long ago, a time with its zone or in UTC, or epoch ms; what is none of them is said, by the option's name."""
    assert 10 * DAY - 7 * DAY == epoch_ms_of("7d", 10 * DAY)
    assert 0 == epoch_ms_of("30d", DAY)
    assert DAY == epoch_ms_of("1970-01-02T00:00:00Z", 0) == epoch_ms_of("1970-01-02", 0)
    for text in ("1800000000000", "2027-01-15T08:00:00Z", "2027-01-15T10:00:00+02:00", "2027-01-15T08:00:00"):
        assert 1_800_000_000_000 == epoch_ms_of(text, 0)
    assert (0, 20 * DAY) == (epoch_ms_of("0", DAY), epoch_ms_of("19700121", DAY))
    assert "1970-01-02T00:00:00.001Z" == shown(DAY + 1)
    assert str(2**62) == shown(2**62)
    for text in ("", "d", "7", "7 d", "yesterday", "1970-13-01"):
        with pytest.raises(InvalidRecord) as told:
            epoch_ms_of(text, 0, "from_time")
        assert "from_time" == told.value.field


def test_only_a_uuid_is_a_kid() -> None:
    """In any of its spellings."""
    assert bytes(16) == kid_of("00000000-0000-0000-0000-000000000000") == kid_of("0" * 32)
    assert None is kid_of("film")
