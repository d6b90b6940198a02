"""KEK rotation: what is due, decided anew from what is so."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.credentials import join_signer, ncp_identity, signer_identity, token_key_identity
from keymill.core.envelope import wrap_secret
from keymill.core.rewrapping import credential_epoch, rewrap_credential
from keymill.errors import Corrupt, InvalidRecord
from keymill.kms.keyring import Keyring
from keymill.kms.provider import KekEpoch, KekState
from keymill.ops import rotation_run
from keymill.ops.changes import Plan
from keymill.ops.credential_rewrapping import overtaken
from keymill.ops.owners import barriers
from keymill.ops.rotate_root import time_of
from keymill.ops.rotating import LIVE_MS, Lagging, Line, Situation, Step, behind, due, live, plan, target_of, without
from keymill.ops.rotation_run import Looking, Place, Rotation, WaitedInVain
from keymill.secret import Secret
from schemas import topics
from schemas.access import ApiKey, Credential, NcpKey, TokenKey, WidevineSigner
from schemas.operations import KekEpochs, PartitionPosition, ProgramReport, TopicProgress
from tests.fakes import MemoryKms

NOW = 1_800_000_000_000
RETIRED, ACTIVE, ANNOUNCED = KekState
ENDS = {topics.KEYS.name: {0: 10, 1: 0}, topics.CREDENTIALS.name: {0: 3, 1: 0}}


def epochs(*states: KekState) -> tuple[KekEpoch, ...]:
    return tuple(KekEpoch(epoch=number, state=state) for number, state in enumerate(states, 1))


def report(program: str, *held: int, at: int = NOW, keys: int = 10, stopped: int | None = None) -> ProgramReport:
    """A report of a program that holds some epochs and has read so far."""
    progress = [(topics.KEYS.name, keys), (topics.CREDENTIALS.name, 3)]
    return ProgramReport(
        program=program,
        instance="a",
        version="0",
        started=NOW,
        at=at,
        stopped=stopped,
        keks=(KekEpochs(organization="demo", epochs=held),),
        progress=tuple(
            TopicProgress(topic=topic, positions=(PartitionPosition(partition=0, position=position),))
            for topic, position in progress
        ),
    )


PROGRAMS = (report("processor", 1, 2), report("gateway", 1, 2), report("proxy", 1, 2))
LAGGING = Lagging(key_records=4, assets=2, credentials=("ncp",))


def at(*states: KekState, lagging: Lagging = LAGGING, reports: tuple[ProgramReport, ...] = PROGRAMS) -> Situation:
    return Situation(organization="demo", target=2, epochs=epochs(*states), reports=reports, lagging=lagging, ends=ENDS)


@pytest.mark.parametrize(
    ("situation", "step"),
    [
        (at(ACTIVE), Step.ANNOUNCE),
        (at(ACTIVE, ANNOUNCED, reports=(*PROGRAMS[:2], report("proxy", 1))), Step.HOLD),
        (at(ACTIVE, ANNOUNCED, reports=()), Step.HOLD),
        (at(ACTIVE, ANNOUNCED), Step.ACTIVATE),
        (at(ACTIVE, ACTIVE), Step.REWRAP),
        (at(ACTIVE, ACTIVE, lagging=Lagging(credentials=("ncp",))), Step.REWRAP),
        (at(ACTIVE, ACTIVE, lagging=Lagging(unreadable=1)), Step.REWRAP),
        (at(ACTIVE, ACTIVE, lagging=Lagging(), reports=(report("proxy", 1, 2, keys=9),)), Step.FOLLOW),
        (at(ACTIVE, ACTIVE, lagging=Lagging()), Step.RETIRE),
        (at(RETIRED, ACTIVE, lagging=Lagging()), None),
        (at(RETIRED, ACTIVE, lagging=LAGGING), Step.REWRAP),
    ],
)
def test_the_first_step_that_is_not_done_is_due(situation: Situation, step: Step | None) -> None:
    """Whatever a former run did; the last one is a record that a late writer left under a retired epoch."""
    assert step == due(plan(situation))


@pytest.mark.parametrize("states", [(ACTIVE, ANNOUNCED), (ACTIVE, ACTIVE)])
def test_a_program_whose_report_is_not_believed_is_waited_for(states: tuple[KekState, ...]) -> None:
    """Whoever writes over its report cannot have the old KEK taken away from it."""
    here = at(*states, lagging=Lagging())
    waiting = msgspec.structs.replace(here, unverified=("proxy/b",))
    assert {Step.ACTIVATE, Step.RETIRE} >= {due(plan(here))}
    line = next(each for each in plan(waiting) if not each.done)
    assert line.step in (Step.HOLD, Step.FOLLOW)
    assert "proxy/b" in line.detail


STATES = st.sampled_from([(ACTIVE,), (ACTIVE, ANNOUNCED), (ACTIVE, ACTIVE), (RETIRED, ACTIVE)])


@given(
    states=STATES,
    held=st.sets(st.integers(1, 2)),
    records=st.integers(0, 3),
    credentials=st.integers(0, 2),
    position=st.integers(0, 12),
)
def test_no_step_comes_before_what_it_relies_on(
    states: tuple[KekState, ...], held: set[int], records: int, credentials: int, position: int
) -> None:
    """Nothing is wrapped under a KEK that a live program lacks; none is retired that anything still needs."""
    names = tuple(f"c{number}" for number in range(credentials))
    lagging = Lagging(key_records=records, assets=records, credentials=names)
    reports = (report("processor", *sorted(held)), report("proxy", *sorted(held), keys=position))
    lines = plan(at(*states, lagging=lagging, reports=reports))
    assert list(Step) == [line.step for line in lines]
    match due(lines):
        case Step.ACTIVATE:
            assert 2 in held
        case Step.RETIRE:
            assert (records, credentials) == (0, 0)
            assert position >= 10


def test_programs_that_are_gone_are_not_waited_for() -> None:
    """A report is the word of a living program for a minute; its last word is that it has stopped."""
    silent = report("proxy", 1, at=NOW - LIVE_MS - 1)
    stopped = report("proxy", 1, stopped=NOW)
    assert PROGRAMS == live((*PROGRAMS, silent, stopped), NOW)


def test_who_lacks_the_epoch_is_named() -> None:
    """Connectors hold no KEK; without a processor nobody could wrap again."""
    assert [] == without((*PROGRAMS, report("connect")), "demo", 2)
    assert ["gateway/a"] == without((PROGRAMS[0], report("gateway", 1)), "demo", 2)
    assert ["processor: none is live", "proxy/a"] == without((report("proxy", 1),), "demo", 2)
    assert ["processor/a", "gateway/a", "proxy/a"] == without(PROGRAMS, "other", 2)


def test_a_proxy_that_has_not_read_everything_is_named() -> None:
    """Nor one that does not say so; empty partitions are nobody's to read."""
    assert [] == behind(PROGRAMS, ENDS)
    mute = msgspec.structs.replace(PROGRAMS[2], progress=())
    assert ["proxy/a", "proxy/a"] == behind((report("proxy", keys=9), report("gateway", keys=0), mute), ENDS)


def test_an_unfinished_rotation_is_finished_before_another_begins() -> None:
    """The target follows from the states; after a complete one it is the next epoch."""
    unfinished = (epochs(ACTIVE, ANNOUNCED), epochs(ACTIVE, ACTIVE), epochs(RETIRED, ACTIVE, ACTIVE))
    assert [2, 2, 3] == [target_of(each, lagging=False) for each in unfinished]
    assert [2, 3, 2] == [
        target_of(epochs(ACTIVE), lagging=False),
        target_of(epochs(RETIRED, ACTIVE), lagging=False),
        target_of(epochs(RETIRED, ACTIVE), lagging=True),
    ]


class Fixed(Looking):
    """A situation that nobody changes."""

    def __init__(self, situation: Situation) -> None:
        super().__init__(Place("127.0.0.1:1", Path("nowhere"), "demo", 2, "group"), 2)
        self._fixed = situation

    def reports(self) -> tuple[tuple[ProgramReport, ...], tuple[str, ...]]:
        """Of the situation."""
        return self._fixed.reports, self._fixed.unverified

    def situation(self, *, counted: bool = True) -> Situation:
        """The one."""
        return self._fixed


def rotation(situation: Situation, said: list[Line]) -> Rotation:
    """One whose owners have passed the activation."""
    run = Rotation(Fixed(situation), Plan(), said.append, wait_s=0.1)
    run._passed = True
    return run


def test_records_that_cannot_be_read_end_a_rotation_and_are_counted() -> None:
    """Nobody can wrap them again, so looking once more helps nobody; the older epochs stay."""
    with pytest.raises(WaitedInVain, match="2 key records cannot be read, `keymill audit`"):
        rotation(at(ACTIVE, ACTIVE, lagging=Lagging(unreadable=2)), []).run()


def test_a_wait_says_all_the_while_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and from when on a program that was killed holds it up no longer."""
    monkeypatch.setattr(rotation_run, "TELL_S", 0.0)
    monkeypatch.setattr(rotation_run, "POLL_S", 0.02)
    said: list[Line] = []
    with pytest.raises(WaitedInVain, match="in vain for proxy/a"):
        rotation(at(ACTIVE, ANNOUNCED, reports=(*PROGRAMS[:2], report("proxy", 1))), said).run()
    first, second, *_ = said
    assert "waits for proxy/a" == first.detail
    assert Step.HOLD is second.step
    assert "still waits for proxy/a (a program that is not heard of for 60 s is waited for no longer)" == second.detail


SECRET = Secret(b"a secret of some length")


def kek_of(epoch: int) -> Secret:
    return Keyring(MemoryKms()).kek("demo", epoch)


def credential(kind: str, epoch: int) -> Credential:
    """A credential with a secret."""
    kek = kek_of(epoch)
    body: NcpKey | WidevineSigner | TokenKey
    match kind:
        case "ncp":
            body = NcpKey(kek_epoch=epoch, wrapped=wrap_secret(kek, SECRET, *ncp_identity("demo", "c")))
        case "signer":
            secret = join_signer(b"k" * 32, b"i" * 16)
            body = WidevineSigner(kek_epoch=epoch, wrapped=wrap_secret(kek, secret, *signer_identity("demo", "c")))
        case _:
            wrapped = wrap_secret(kek, SECRET, *token_key_identity("demo", "c", epoch))
            body = TokenKey(algorithm="HS256", kek_epoch=epoch, wrapped=wrapped)
    return Credential(organization="demo", credential="c", revoked=kind == "ncp", created=1, label="l", body=body)


@pytest.mark.parametrize("kind", ["ncp", "signer", "token"])
def test_a_credential_wrapped_again_is_what_was_made_under_that_epoch(kind: str) -> None:
    """Byte for byte; revocation, label and time stay."""
    again = rewrap_credential(credential(kind, 1), kek_of=kek_of, kek_epoch=2)
    assert credential(kind, 2) == again
    assert (1, 2) == (credential_epoch(credential(kind, 1)), credential_epoch(again))
    with pytest.raises(Corrupt):
        rewrap_credential(credential(kind, 1), kek_of=lambda epoch: kek_of(epoch + 1), kek_epoch=2)


def test_a_change_that_came_between_is_made_again() -> None:
    """A revocation written just before the record that was wrapped again without it would be lost otherwise."""
    held, again = credential("signer", 1), credential("signer", 2)
    revoked = msgspec.structs.replace(held, revoked=True)
    assert [revoked] == overtaken([revoked, again], 2)
    assert [] == overtaken([again], 2)
    assert [] == overtaken([again, revoked], 2)
    assert [] == overtaken([revoked, again, revoked], 2)


def test_a_credential_without_a_secret_is_of_no_epoch() -> None:
    """API keys are hashed, public keys are no secret."""
    bodies = (ApiKey(token_sha256=bytes(32)), TokenKey(algorithm="EdDSA", public_pem="pem"))
    held = [msgspec.structs.replace(credential("ncp", 1), body=body) for body in bodies]
    assert [None, None] == [credential_epoch(each) for each in held]
    with pytest.raises(ValueError, match="no wrapped secret"):
        rewrap_credential(held[0], kek_of=lambda _: SECRET, kek_epoch=2)


@pytest.mark.parametrize("partitions", [1, 4, 12, 24])
def test_every_owner_gets_one_barrier(partitions: int) -> None:
    """On every partition one request, under a record key that belongs there."""
    sent = list(barriers("demo", 2, partitions))
    places = [topics.partition_of(topics.REQUESTS, each.record_key, partitions) for each in sent]
    assert list(range(partitions)) == sorted(places)


def test_a_root_activates_at_a_time_or_after_a_span() -> None:
    """Whole seconds, a span is no shorter than it says; anything else is refused with an example."""
    spans = [time_of(text, NOW) for text in ("+90m", "+24h", "+2d")]
    assert [NOW + 5_400_000, NOW + 86_400_000, NOW + 172_800_000] == spans
    assert [NOW + 3_601_000, NOW + 3_600_000] == [time_of("+1h", NOW + 1), time_of("+60m", NOW)]
    assert time_of("2027-01-15T09:00:00+01:00", NOW) == time_of("2027-01-15T08:00:00Z", NOW)
    for wrong in ("tomorrow", "2027-01-15T08:00:00", "+24", "24h"):
        with pytest.raises(InvalidRecord, match="RFC 3339"):
            time_of(wrong, NOW)


def test_a_minute_is_a_minute() -> None:
    """Reports come every few seconds; one that is missed costs nobody his place."""
    assert 60_000 == LIVE_MS
