"""What programs say of themselves on the status topic, on a real broker."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keymill.kafka.admin import create_topics
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.reporting import Observation, Reporter
from keymill.kafka.status_topic import read_status
from keymill.kms.keyfile import add_organization
from keymill.ops.credentials import create_organization
from schemas.operations import KekEpochs, ProgramReport
from schemas.topics import KEYS
from tests.authentic import installation
from tests.broker import embedded_kafka
from tests.e2e.programs import CLI, Program, wait_for

pytestmark = pytest.mark.timeout(170)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reporting") / "data"
    made.mkdir()
    installation(made)
    return made


@pytest.fixture(scope="module")
def kafka(folder: Path) -> Iterator[EmbeddedKafka]:
    with embedded_kafka() as running:
        create_topics(running.bootstrap, 3)
        yield running


@pytest.fixture(scope="module")
def data(kafka: EmbeddedKafka, folder: Path) -> Path:
    """A data folder with the keys of one organization, or by now of two."""
    create_organization(kafka.bootstrap, folder / "keys.json", "demo")
    return folder


def report(kafka: EmbeddedKafka, name: str) -> ProgramReport | None:
    """A program's last report."""
    return read_status(kafka.bootstrap).reports.get(name)


def test_a_change_is_told_at_once_and_the_end_too(kafka: EmbeddedKafka) -> None:
    """With a period of minutes: the first look, a change of readiness, of KEKs, and the goodbye."""
    seen = [Observation(waits_for="it starts")]
    reporter = Reporter(kafka.bootstrap, program="tested", instance="one", every_s=300, observe=lambda: seen[-1])
    with reporter:
        wait_for(lambda: (told := report(kafka, "tested/one")) and told.waits_for == "it starts", 10)
        seen.append(Observation())
        wait_for(lambda: report(kafka, "tested/one").waits_for is None, 3)
        keks = (KekEpochs(organization="demo", epochs=(1, 2)),)
        seen.append(Observation(keks=keks))
        wait_for(lambda: report(kafka, "tested/one").keks == keks, 3)
    last = report(kafka, "tested/one")
    assert last is not None and last.stopped is not None
    assert last.stopped >= last.started


def test_a_program_that_cannot_look_at_itself_says_so(kafka: EmbeddedKafka) -> None:
    """Whatever is raised becomes what it waits for, and the reports go on."""

    def broken() -> Observation:
        raise ZeroDivisionError

    with Reporter(kafka.bootstrap, program="tested", instance="two", every_s=0.3, observe=broken):
        first = wait_for(lambda: report(kafka, "tested/two"), 10)
        assert "ZeroDivisionError" in first.waits_for
        wait_for(lambda: report(kafka, "tested/two").at > first.at, 5)


def test_brokers_that_are_away_cost_nothing() -> None:
    """A program whose brokers never answered ends within seconds, and its reporter with it."""
    reporter = Reporter("127.0.0.1:1", program="tested", instance="three", every_s=1, observe=Observation).start()
    time.sleep(1.0)
    began = time.monotonic()
    reporter.close()
    assert time.monotonic() - began < 3


def test_a_proxy_reports_the_keks_that_all_its_workers_hold(kafka: EmbeddedKafka, data: Path, tmp_path: Path) -> None:
    """An organization that comes later is in the report once every worker has fetched its KEK; the stop is told."""
    environment = {"KEYMILL_INSTANCE_ID": "p", "KEYMILL_WORKERS": "2", "KEYMILL_REPORT_S": "1"}
    proxy = Program("proxy", data, kafka.bootstrap, tmp_path / "proxy.log", **environment)
    try:
        proxy.wait_ready()
        told = wait_for(lambda: (seen := report(kafka, "proxy/p")) and not seen.waits_for and seen, 20)
        assert (KekEpochs(organization="demo", epochs=(1,)),) == told.keks
        assert 3 == len(next(each for each in told.progress if each.topic == KEYS.name).positions)
        assert told.staleness_ms < 5000
        add_organization(data / "keys.json", "later")
        wait_for(lambda: [each.organization for each in report(kafka, "proxy/p").keks] == ["demo", "later"], 20)
        assert 0 == proxy.stop()
        assert report(kafka, "proxy/p").stopped
    finally:
        proxy.end()


def test_processor_and_gateway_report(kafka: EmbeddedKafka, data: Path, tmp_path: Path) -> None:
    """Ready, with their views' positions and the KEKs that they wrap and unwrap with."""
    environment = {"KEYMILL_INSTANCE_ID": "s", "KEYMILL_REPORT_S": "1"}  # the test below takes its place in the group
    programs = {
        name: Program(name, data, kafka.bootstrap, tmp_path / f"{name}.log", **environment)
        for name in ("processor", "gateway")
    }
    try:
        for name in programs:
            told = wait_for(lambda key=f"{name}/s": (seen := report(kafka, key)) and not seen.waits_for and seen, 40)
            assert KekEpochs(organization="demo", epochs=(1,)) in told.keks
            assert KEYS.name in {each.topic for each in told.progress}
        for name, program in programs.items():
            assert 0 == program.stop()
            assert report(kafka, f"{name}/s").stopped, name
    finally:
        for program in programs.values():
            program.end()


def test_status_says_how_everything_stands(kafka: EmbeddedKafka, data: Path, tmp_path: Path) -> None:
    """0 while all is well, 1 with the reason once a proxy is killed, the same while watching, 3 without brokers."""
    programs = [
        Program(name, data, kafka.bootstrap, tmp_path / f"{name}.log", KEYMILL_INSTANCE_ID="s", KEYMILL_REPORT_S="1")
        for name in ("processor", "gateway", "proxy")
    ]
    try:
        for program in programs:
            program.wait_ready()
        well = wait_for(lambda: (asked := ask(kafka.bootstrap))[0] == 0 and asked, 30, every_s=1)
        stood = json.loads(well[1])
        assert {"processor/s", "gateway/s", "proxy/s"} <= {
            f"{each['program']}/{each['instance']}" for each in stood["programs"] if each["state"] == "ready"
        }
        assert [1, 0] == [stood["group"]["members"], len(stood["topics"]["differences"])]
        assert "all is well" in ask(kafka.bootstrap, as_json=False)[1]
        programs[-1].kill()
        late = ("--silent-after", "3")
        asked = wait_for(lambda: (asked := ask(kafka.bootstrap, *late))[0] == 1 and asked, 30, every_s=1)
        whole = json.loads(asked[1])
        assert any("proxy/s has not reported" in each["what"] for each in whole["concerns"]), whole["concerns"]
        command = [
            *CLI,
            "status",
            "--bootstrap",
            kafka.bootstrap,
            "--watch",
            "--interval",
            "0.5",
            "--silent-after",
            "3",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            lines = [watching.stdout.readline() for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            assert 1 == watching.wait(20)
        assert all("attention: " in line for line in lines), lines
    finally:
        for program in programs:
            program.end()
    assert 3 == ask("127.0.0.1:1")[0]


def ask(bootstrap: str, *options: str, as_json: bool = True) -> tuple[int, str]:
    """Exit code and output of `keymill status`."""
    command = [*CLI, "status", "--bootstrap", bootstrap, *options, *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_starts_stay_fast_over_many_reports(kafka: EmbeddedKafka) -> None:
    """A day of reports of twenty programs is compacted to what a start reads within a second."""
    from keymill.kafka.producer import Publisher
    from schemas.codec import encode
    from schemas.topics import STATUS

    value = encode(report(kafka, "tested/one"))
    publisher = Publisher(kafka.bootstrap, {STATUS.name: 3})
    for _ in range(10):
        keys = [f"tested/{number % 20}".encode() for number in range(20_000)]
        publisher.flush_all([publisher.send(STATUS.name, key, value) for key in keys])
    publisher.close()

    def quick() -> bool:
        began = time.monotonic()
        found = read_status(kafka.bootstrap)
        assert {f"tested/{number}" for number in range(20)} <= found.reports.keys()
        return time.monotonic() - began < 1.0

    wait_for(quick, 60, every_s=2)
