"""docker-compose.yml is valid, and every service's command runs with its environment against three real brokers."""

import contextlib
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from keymill.kafka.ports import free_ports
from tests.broker import embedded_kafka

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KEYMILL = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "keymill"}
ONCE = ("topics", "keys")
CONNECTORS = ("sql-archive", "sql-outbox")
REPORTING = ("processor-1", "processor-2", "gateway", "proxy-1", "proxy-2", *CONNECTORS)
PROGRAMS = (*REPORTING, "audit")
PORTS = ("--admin-port", "--metrics-port", "--port")
"""What Prometheus asks is the first of them that a program has."""
PASSWORDS = ("KEYMILL_POSTGRES_PASSWORD", "KEYMILL_GRAFANA_PASSWORD")
READY_S = 90


def specification() -> dict[str, Any]:
    """The compose specification's JSON schema, as the package check-jsonschema carries it."""
    found = importlib.util.find_spec("check_jsonschema")
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    return json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())


def test_it_follows_the_compose_specification() -> None:
    """The file is what `docker compose` takes."""
    jsonschema.validate(COMPOSE, specification())


def test_it_is_the_layout_of_the_design() -> None:
    """Three brokers, two processors, a gateway, two proxies, archive and outbox; a database and who watches."""
    assert {"postgres", "prometheus", "grafana"} < set(COMPOSE["services"])
    assert {*ONCE, *PROGRAMS} == set(KEYMILL)
    assert ["kafka-1", "kafka-2", "kafka-3"] == [name for name in COMPOSE["services"] if name.startswith("kafka")]


def test_what_a_broker_writes_is_on_its_volume() -> None:
    """The log folder is the mount, or the asset events would end with the container."""
    for name in ("kafka-1", "kafka-2", "kafka-3"):
        service = COMPOSE["services"][name]
        assert [f"{name}:{service['environment']['KAFKA_LOG_DIRS']}"] == service["volumes"]


def test_every_mount_belongs_to_the_image_s_user() -> None:
    """Docker gives a named volume the owner of the image's folder, and an absent one to root."""
    image = (ROOT / "Dockerfile").read_text()
    made = next(line for line in image.splitlines() if "install -d -o keymill" in line).split()
    mounts = {volume.split(":")[1] for service in KEYMILL.values() for volume in service.get("volumes", ())}
    assert mounts == {"/keys", "/var/lib/keymill/data"} <= set(made)
    assert "USER keymill" in image


def test_images_are_pinned_and_ports_are_this_machine_s() -> None:
    """Images are named by digest, nothing is published beyond loopback, every named volume is declared."""
    pinned = re.compile(r"[a-z/]+:v?\d+\.\d+(\.\d+)?[a-z-]*@sha256:[0-9a-f]{64}")
    base = re.search(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None and pinned.fullmatch(base.group(1))
    for name, service in COMPOSE["services"].items():
        assert service["image"] == "keymill" or pinned.fullmatch(service["image"]), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        sources = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert {source for source in sources if "/" not in source} <= set(COMPOSE["volumes"]), name
        assert all((ROOT / source).exists() for source in sources if source.startswith("./")), name


def test_a_container_that_is_taken_over_holds_little() -> None:
    """No capability, no way to new privileges, and nothing to write but its volumes and what is gone with it."""
    for name, service in COMPOSE["services"].items():
        hardening = service["read_only"], service["cap_drop"], service["security_opt"]
        assert (True, ["ALL"], ["no-new-privileges:true"]) == hardening, name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
        written = {path.split(":")[0] for path in service.get("tmpfs", ())}
        mounted = {volume.split(":")[1] for volume in service.get("volumes", ())}
        assert "/tmp" in written or name == "prometheus", name
        assert service["image"] != "keymill" or "/var/lib/keymill/data" in written | mounted, name


def test_no_password_is_a_default(tmp_path: Path) -> None:
    """Each is a variable that must be set, or nothing starts; a script draws them, once, for nobody else to read."""
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(PASSWORDS) == set(re.findall(r"\$\{(\w+):\?is not set", text))
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or str(value).startswith("${KEYMILL_"), (name, variable)
            assert "postgresql://" not in str(value) or ":${KEYMILL_POSTGRES_PASSWORD:?" in str(value), (name, variable)
    kept: dict[str, str] = {}
    for _ in range(2):
        with (tmp_path / ".env").open("a") as file:
            subprocess.run(
                [ROOT / "deploy" / "passwords.sh"], cwd=tmp_path, stdout=file, stderr=subprocess.PIPE, check=True
            )
        drawn = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
        assert set(PASSWORDS) == set(drawn) and all(re.fullmatch("[0-9a-f]{48}", each) for each in drawn.values())
        assert len(set(drawn.values())) == 2 and kept in ({}, drawn)
        kept = drawn
    assert 0o600 == (tmp_path / ".env").stat().st_mode & 0o777
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_callers_reach_no_metrics() -> None:
    """The admin ports are published nowhere."""
    for name in ("gateway", "proxy-1", "proxy-2"):
        words = [str(word) for word in KEYMILL[name]["command"]]
        admin = words[words.index("--admin-port") + 1]
        assert all(admin != str(port).rpartition(":")[2] for port in KEYMILL[name]["ports"]), name


def test_every_program_has_an_instance_id() -> None:
    """A container's host name is another one after every start, and its reports would pile up."""
    named = [KEYMILL[name]["environment"].get("KEYMILL_INSTANCE_ID") for name in REPORTING]
    assert list(REPORTING) == named


def test_prometheus_scrapes_every_program() -> None:
    """At the port where it listens in its container."""
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for group in job["static_configs"] for target in group["targets"]}
    expected = set()
    for name in PROGRAMS:
        words = [str(word) for word in KEYMILL[name]["command"]]
        given = KEYMILL[name]["environment"].get("KEYMILL_CONNECT_PORT")
        ports = [words[words.index(option) + 1] for option in PORTS if option in words] or [given]
        expected.add(f"{name}:{ports[0]}")
    assert expected == targets


def test_the_outbox_s_table_is_the_documented_one() -> None:
    """PostgreSQL makes it at its first start."""
    made = (ROOT / "deploy" / "outbox.sql").read_text().split("\n", 1)[1]
    assert made in (ROOT / "docs" / "outbox.md").read_text()


def test_the_image_installs_nothing_without_a_hash() -> None:
    """Everything comes from the lock file, what builds the package too."""
    installs = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip install" in line]
    assert ["--require-hashes" in line or "--no-deps ." in line for line in installs] == [True, True]
    assert "\nhatchling==" in (ROOT / "requirements-run.lock").read_text()


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with embedded_kafka(nodes=3) as kafka:
        yield kafka.bootstrap


def environment(name: str, bootstrap: str, folder: Path, port: int = 0) -> dict[str, str]:
    """The service's environment, with addresses and folders of this machine in place of the containers'."""
    given = {key: str(value) for key, value in KEYMILL[name]["environment"].items()}
    assert given.pop("KEYMILL_BOOTSTRAP") and given.pop("KEYMILL_KEY_FILE") and given.pop("KEYMILL_HOST")
    assert name not in ("gateway", "proxy-1", "proxy-2") or given["KEYMILL_ADMIN_HOST"]
    here = {"KEYMILL_BOOTSTRAP": bootstrap, "KEYMILL_KEY_FILE": str(folder / "keys.json"), "KEYMILL_HOST": "127.0.0.1"}
    if name == "sql-archive":
        here["KEYMILL_ARCHIVE_URL"] = f"sqlite:///{folder / 'archive.sqlite'}"
    if name == "sql-outbox":
        here["KEYMILL_OUTBOX_URL"] = f"sqlite:///{outbox(folder)}"
    return {**os.environ, **given, **here, "KEYMILL_DATA": str(folder / name), "KEYMILL_CONNECT_PORT": str(port)}


def outbox(folder: Path) -> Path:
    """A database with the documented table."""
    page = (ROOT / "docs" / "outbox.md").read_text()
    found = re.search(r"```sql sqlite\n(.*?)```", page, re.DOTALL)
    assert found is not None
    path = folder / "outbox.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(found.group(1))
    return path


def command(name: str, port: int) -> list[str]:
    """The service's command, its port replaced: all containers of a kind share one number."""
    words = [str(word) for word in KEYMILL[name]["command"]]
    for option in PORTS:
        if option in words:
            words[words.index(option) + 1] = "0" if option == "--admin-port" else str(port)
    return [sys.executable, "-m", "keymill.ops.cli", *words]


@pytest.mark.timeout(300)
def test_every_command_runs(bootstrap: str, tmp_path: Path) -> None:
    """Topics and keys are made, then every program gets ready and ends with 0 on SIGTERM."""
    for name in ONCE:
        done = subprocess.run(
            command(name, 0), env=environment(name, bootstrap, tmp_path), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    ports = dict(zip(PROGRAMS, free_ports(), strict=False))
    logs = {name: (tmp_path / f"{name}.log").open("wb") for name in PROGRAMS}
    running = {
        name: subprocess.Popen(
            command(name, port),
            env=environment(name, bootstrap, tmp_path, port),
            stdout=subprocess.DEVNULL,
            stderr=logs[name],
        )
        for name, port in ports.items()
    }
    try:
        for name, port in ports.items():
            assert _becomes_ready(port, running[name]), f"{name}: {(tmp_path / f'{name}.log').read_text()[-3000:]}"
    finally:
        for process in running.values():
            process.terminate()
        codes = {name: process.wait(60) for name, process in running.items()}
        for log in logs.values():
            log.close()
    assert dict.fromkeys(PROGRAMS, 0) == codes


def _becomes_ready(port: int, process: "subprocess.Popen[bytes]") -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(READY_S * 5):
        try:
            with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return True
        except OSError:
            if process.poll() is not None:
                return False
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    return False
