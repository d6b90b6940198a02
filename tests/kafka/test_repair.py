"""What is lost of keys, policies and dead letters comes back through the owners, and nothing that exists is changed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.policy import Policy
from schemas.records import AssetRecord, DeadLetter, PolicyRecord
from tests.broker import running_broker
from tests.builders import update_policy
from tests.gateway_rig import ORGANIZATION, Rig, eventually, running
from tests.kafka_commands import keymill, told
from tests.losing import lose, newest, on, records, send, start, stop, without

pytestmark = pytest.mark.timeout(240)
CHOSEN, BROUGHT = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
FILM = asset_key(ORGANIZATION, "film")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Assets with derived, chosen and imported keys, four policies, refused events and changes."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        fill(up)
        yield up


def fill(rig: Rig) -> None:
    """Have all of it decided."""
    for name, number in (("film", 2), ("series", 0)):
        if number:
            assert number == rig.make_policy()
        answer = rig.post("?wait=1", {"asset_id": name, "tracks": ["SD", "HD"], "policy_id": number})
        assert 201 == answer.status_code, answer.text
    assert rig.post("/film/rotate?wait=1", {}).status_code in (200, 201)
    asked = {"asset_id": "chosen", "tracks": [{"track_type": "SD", "kid": CHOSEN}, {"track_type": "AUDIO"}]}
    assert 201 == rig.post("?wait=1", asked).status_code
    taken = {"asset_id": "loser", "tracks": [{"track_type": "SD", "kid": CHOSEN}]}
    assert 409 == rig.post("?wait=1", taken).status_code
    assert 409 == rig.post("/film/rotate?wait=1", {"to_version": 9}).status_code
    library = rig.data / "library.csv"
    library.write_text(f"asset,track,kid,key\nbrought,SD,{BROUGHT},00112233445566778899aabbccddeeff\n")
    done = keymill("import", "csv", str(library), "--organization", ORGANIZATION, *on(rig), "--apply")
    assert 0 == done.returncode, done.stdout + done.stderr
    change = msgspec.structs.replace(update_policy(99), organization=ORGANIZATION, event_time=int(time.time() * 1000))
    send(rig, topics.ASSETS, {b"nobody": b"no event"})
    send(rig, topics.POLICY_CHANGES, {ORGANIZATION.encode(): encode(change)})
    keyless = Producer({"bootstrap.servers": rig.bootstrap})
    keyless.produce(topics.ASSETS.name, b"no event", partition=1)
    assert 0 == keyless.flush(10)
    assert 3 == rig.make_policy()
    eventually(lambda: 5 == len(letters(rig)) and asset_key(ORGANIZATION, "brought") in newest(rig), 20)


def letters(rig: Rig) -> set[bytes]:
    """Every dead letter of events and changes."""
    found = {value for _, _, value in records(rig, topics.DEAD_LETTERS)}
    return {each for each in found if decode(each, DeadLetter).topic != topics.REQUESTS.name}


def replay(rig: Rig, *arguments: str, code: int = 0) -> Any:
    """What it tells."""
    return told("replay", *on(rig), *arguments, code=code)


def test_lost_policies_and_dead_letters_come_back(rig: Rig) -> None:
    """
    The newest policy of all and one that assets refer to, and every dead letter: found, planned, asked for, and there
    again byte for byte. Then nothing is left to ask for, and the next policy has the next number.
    """
    policies, refusals = newest(rig, topics.POLICIES), letters(rig)
    eventually(lambda: replay(rig)["pending"] == 0, 20)
    stop(rig)
    lose(rig, topics.POLICIES, without(f"{ORGANIZATION}/2".encode(), f"{ORGANIZATION}/3".encode()))
    lose(rig, topics.DEAD_LETTERS, lambda *_: False)
    start(rig)
    found = replay(rig, code=1)
    assert (7, 0, 0, 0) == tuple(found[name] for name in ("missing", "different", "unexpected", "pending"))
    audited = told("audit", *on(rig), code=1)
    assert (7, 0) == (audited["counts"]["missing"], audited["pending"])
    referred = replay(rig, "--assets", f"{ORGANIZATION}/film", code=1)
    assert {f"{ORGANIZATION}/2", "acme/film", ORGANIZATION} == {each["record_key"] for each in referred["differences"]}
    assert 0 == replay(rig, "--assets", f"{ORGANIZATION}/brought", code=1)["different"]
    planned = replay(rig, "--repair", code=1)
    assert (5, 1, 1, 5, False) == tuple(
        planned[name] for name in ("requests", "assets", "organizations", "letters", "applied")
    ), planned
    assert set() == letters(rig)
    done = replay(rig, "--repair", "--apply")
    assert (5, [], 0) == (done["requests"], done["refused"], done["after"]["missing"])
    assert (policies, refusals) == (newest(rig, topics.POLICIES), letters(rig))
    again = replay(rig, "--repair", "--apply")
    assert (0, True) == (again["requests"], again["applied"])
    eventually(lambda: rig.client.get("/readyz").status_code == 200, 30)
    assert 4 == rig.make_policy()


def test_lost_keys_that_were_chosen_or_imported_come_back(rig: Rig) -> None:
    """Their key records, and one with its asset record, byte for byte; a dead letter of the asset comes with them."""
    before, refusals = newest(rig), letters(rig)
    lost = {key for key in before if b"/chosen" in key or b"/brought/k/" in key or b"/film" in key}
    assert 6 == len(lost)
    stop(rig)
    lose(rig, topics.KEYS, without(*lost))
    lose(rig, topics.DEAD_LETTERS, lambda _key, value: decode(value, DeadLetter).asset != "film")
    start(rig)
    found = replay(rig, code=1)
    assert (len(lost) + 1, 0, 0) == tuple(found[name] for name in ("missing", "different", "unexpected"))
    done = replay(rig, "--repair", "--apply")
    assert (3, 1, [], 0) == (done["requests"], done["letters"], done["refused"], done["after"]["missing"])
    assert (before, refusals) == (newest(rig), letters(rig))
    assert told("audit", *on(rig))["clean"]


def test_what_exists_and_differs_is_never_changed(rig: Rig, tmp_path: Path) -> None:
    """A policy and an asset that contradict the log keep theirs from being repaired; the refusals are told."""
    before = newest(rig) | newest(rig, topics.POLICIES)
    gold, series = f"{ORGANIZATION}/1".encode(), asset_key(ORGANIZATION, "series")
    wrong = {
        gold: encode(msgspec.structs.replace(decode(before[gold], PolicyRecord), policy=Policy(can_persist=True))),
        series: encode(msgspec.structs.replace(decode(before[series], AssetRecord), policy_id=2)),
    }
    lost = {f"{ORGANIZATION}/2".encode(), next(key for key in before if key.startswith(series + b"/k/"))}
    stop(rig)
    for topic in (topics.POLICIES, topics.KEYS):
        lose(rig, topic, without(*lost, gold, series))
    send(rig, topics.POLICIES, {gold: wrong[gold]})
    send(rig, topics.KEYS, {series: wrong[series]})
    start(rig)
    done = replay(rig, "--repair", "--apply", code=1)
    assert (2, 2, 2) == (done["requests"], done["after"]["missing"], done["after"]["different"])
    assert {"repair_contradicted"} == {each["reason"] for each in done["refused"]}
    assert before | wrong == newest(rig) | newest(rig, topics.POLICIES) | {key: before[key] for key in lost}
