"""What Kafka clients say again and again is told once, counted, and told to be over."""

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from keymill.repeats import LIBRDKAFKA, MOST, QUIET_S, REMIND_S, Complaint, Left, Troubles, complaint_of

ROOT = Path(__file__).parents[2]
REFUSED = (
    "FAIL [rdkafka#consumer-{n}] [thrd:127.0.0.1:26394/bootstrap]: 127.0.0.1:26394/bootstrap: Connect to "
    "ipv4#127.0.0.1:26394 failed: Connection refused (after {n}ms in state CONNECT, {n} identical error(s) suppressed)"
)
LOST = "FAIL [rdkafka#producer-2] [thrd:127.0.0.1:26394/0]: 127.0.0.1:26394/0: Disconnected (after 57ms in state UP)"
CANNOT = "Unable connect to node with id %s: %s"
LATE = (
    "REQTMOUT [rdkafka#producer-12] [thrd:a:1/0]: a:1/0: Timed out FetchRequest in flight (after 10003ms, timeout #0)"
)


@pytest.mark.parametrize(
    ("logger", "message", "expected"),
    [
        (LIBRDKAFKA, REFUSED.format(n=2), Complaint("rdkafka consumer", "FAIL Connection refused")),
        (LIBRDKAFKA, REFUSED.format(n=17), Complaint("rdkafka consumer", "FAIL Connection refused")),
        (LIBRDKAFKA, LOST, Complaint("rdkafka producer", "FAIL Disconnected")),
        (LIBRDKAFKA, LATE, Complaint("rdkafka producer", "REQTMOUT Timed out FetchRequest in flight")),
        (LIBRDKAFKA, "whatever 1", Complaint("rdkafka", "whatever #")),
        ("aiokafka", CANNOT, Complaint("aiokafka", f"aiokafka {CANNOT}")),
        ("aiokafka.consumer.fetcher", "no 7", Complaint("aiokafka", "aiokafka.consumer.fetcher no #")),
        ("faust.app", "x", Complaint("faust", "faust.app x")),
        ("keymill.kafka.reporting", {"event": "no report can be written"}, None),
        ("ours", {"event": "child_ended", "child": "proxy", "status": 3}, Complaint("proxy", "child_ended 3")),
        ("asyncio", "x", None),
    ],
)  # fmt: skip
def test_a_line_complains_of_something(logger: str, message: object, expected: Complaint | None) -> None:
    """Numbers, addresses and which of the clients make no other complaint; what is not of that kind is none."""
    assert expected == complaint_of(logger, message)


def test_a_complaint_is_told_once_and_counted_until_it_is_over() -> None:
    """A thousand lines are one, and one more with the count when the client has been quiet."""
    troubles, first, other = Troubles(), Complaint("a", "refused"), Complaint("a", "lost")
    told = [troubles.tells(first, at / 100) for at in range(1000)]
    assert [True] + [False] * 999 == told
    assert troubles.tells(other, 10.0) and troubles.tells(Complaint("b", "refused"), 10.0)
    assert [] == troubles.due(10.0 + QUIET_S - 0.1)
    assert [Left("a", 999, 10.0, True)] == troubles.due(10.0 + QUIET_S)
    assert not troubles and troubles.tells(first, 100.0)


def test_long_trouble_is_told_again_now_and_then() -> None:
    """Every ten minutes a line says that it goes on; the count is of what came since the last."""
    troubles, said = Troubles(), []
    for second in range(2 * int(REMIND_S) + 1):
        troubles.tells(Complaint("a", "refused"), float(second))
        said += troubles.due(float(second))
    assert [(False, 600), (False, 600)] == [(each.over, each.lines) for each in said]


def test_a_text_that_varies_endlessly_is_a_flood_too() -> None:
    """So many kinds of complaint are told, no more."""
    troubles = Troubles()
    assert MOST == sum(troubles.tells(Complaint("a", chr(each)), 0.0) for each in range(200, 300))


def test_the_log_of_a_program_has_the_first_line_and_the_count() -> None:
    """Over the loggers that the clients have, as a program sets them up."""
    code = """
import logging, time
from keymill import repeats, telemetry
repeats.QUIET_S, repeats.LOOK_S = 0.3, 0.05
telemetry.configure("test")
for number in range(500):
    text = f"a:{number}: Disconnected (after {number}ms)"
    telemetry.client_log().error("%s [%s] %s", "FAIL", f"rdkafka#consumer-{number}", text)
    logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", number, "refused")
    telemetry.logger("ours").warning("ours", number=number)
time.sleep(1.5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    ours = [line for line in lines if line["event"] == "ours"]
    rest = [line for line in lines if line["event"] != "ours"]
    assert (500, 4) == (len(ours), len(rest)), rest
    assert {("rdkafka consumer", 499), ("aiokafka", 499)} == {
        (line["client"], line["left_out"]) for line in rest if "left_out" in line
    }


def test_every_client_of_librdkafka_has_our_logger() -> None:
    """One without writes to stderr by itself, no JSON, and nothing keeps it quiet."""
    bare = []
    for package in ("keymill", "streams", "connectors"):
        for path in (ROOT / package).rglob("*.py"):
            for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
                name = getattr(call.func, "id", "")
                text = ast.unparse(call)
                if name in ("Consumer", "Producer", "AdminClient") and "logger" not in text:
                    bare.append(f"{path.name}: {text[:60]}")
    assert [] == bare
    assert logging.getLogger(LIBRDKAFKA)
