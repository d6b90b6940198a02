"""`keymill policy` and `keymill org set`, as processes, against a real broker, processor and gateway."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keymill.ops import access
from schemas.access import OrganizationCreated
from tests.broker import running_broker
from tests.gateway_rig import ORGANIZATION, Rig, eventually, paused, running
from tests.unit.test_azure_widevine import EVERYTHING

POLICIES = f"/v1/organizations/{ORGANIZATION}/policies"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of everything for the module."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        yield up


def run(rig: Rig, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A command as a process."""
    place = ["--bootstrap", rig.bootstrap, "--data", str(rig.data)]
    command = [sys.executable, "-m", "keymill.ops.cli", *arguments, *place]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60)


def policy(rig: Rig, command: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """`keymill policy` for the organization."""
    return run(rig, "policy", command, *arguments, "--organization", ORGANIZATION, **settings)


def told(done: subprocess.CompletedProcess[bytes]) -> Any:
    """The one line of JSON that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_template_is_imported_shown_and_exported(rig: Rig, tmp_path: Path) -> None:
    """From a file or stdin; the export is the import; list and show agree with the API."""
    text = json.dumps(EVERYTHING, indent=1).encode()
    (tmp_path / "gold.json").write_bytes(text)
    made = told(policy(rig, "import", "--format", "azure-widevine", str(tmp_path / "gold.json"), "--json"))
    assert made == {"policy_id": made["policy_id"], "version": 1, "warnings": []}
    number = str(made["policy_id"])
    assert policy(rig, "export", number, "--format", "azure-widevine").stdout == text
    assert json.loads(policy(rig, "export", number).stdout)["can_renew"] is True
    assert told(policy(rig, "export", number, "--format", "azure-widevine", "--json")) == {
        "policy_id": made["policy_id"], "version": 1, "format": "azure-widevine", "document": EVERYTHING,
    }  # fmt: skip
    shown = told(policy(rig, "show", number, "--json"))
    eventually(lambda: rig.client.get(f"{POLICIES}/{number}").status_code == 200, 2)
    assert shown["policy"] == rig.client.get(f"{POLICIES}/{number}").json()["policy"]
    assert (shown["name"], shown["state"], shown["version"]) == ("gold", "READY", 1)
    assert "can_renew" in policy(rig, "show", number).stdout.decode()
    warned = policy(rig, "import", "-", "--format", "azure-widevine", "--json", stdin=b'{"policy_overrides": {}}')
    assert b"warning: policy_overrides has no can_play" in warned.stderr and len(told(warned)["warnings"]) == 1


def test_import_replaces_and_repeats(rig: Rig) -> None:
    """--policy-id makes the next version, --idempotency-key makes a repeat harmless, also towards the API."""
    key = ("--idempotency-key", "nightly", "--json")
    first = told(policy(rig, "import", "-", "--name", "night", *key, stdin=b'{"can_play": true}'))
    assert told(policy(rig, "import", "-", "--name", "night", *key, stdin=b'{"can_play": true}')) == first
    again = rig.client.post(
        POLICIES, params={"name": "night"}, json={"can_play": True}, headers={"idempotency-key": "nightly"}
    )
    assert again.json()["policy_id"] == first["policy_id"]
    other = policy(rig, "import", "-", *key, stdin=b'{"can_play": false}')
    assert other.returncode == 1 and b"was used with another content" in other.stderr
    number = str(first["policy_id"])
    second = told(policy(rig, "import", "-", "--policy-id", number, "--json", stdin=b'{"can_play": false}'))
    assert (second["policy_id"], second["version"]) == (first["policy_id"], 2)
    assert told(policy(rig, "show", number, "--json"))["name"] == "night"


def test_list_leaves_deleted_ones_out(rig: Rig) -> None:
    """One line a policy, policy 0 first; --deleted shows all."""
    gone = rig.make_policy()
    rig.client.delete(f"{POLICIES}/{gone}")
    listed = told(policy(rig, "list", "--json"))
    ids = [each["policy_id"] for each in listed]
    assert ids == sorted(ids) and ids[:2] == [0, 1] and gone not in ids
    first = {"policy_id": 0, "version": 0, "state": "READY", "name": "built-in default"}
    assert listed[0] == first | {"created": None, "changed": None} and listed[1]["created"].endswith("Z")
    every = policy(rig, "list", "--deleted").stdout.decode().splitlines()[1:]
    assert len(every) == max(*ids, gone) + 1
    assert [line.split()[1:3] for line in every if line.split()[0] == str(gone)] == [["2", "DELETED"]]


def test_assign_checks_and_waits(rig: Rig) -> None:
    """The asset has the policy when the command ends; what the API refuses is refused."""
    rig.post("?wait=1", {"asset_id": "film", "tracks": ["SD", "HD"]})
    wide, narrow, gone = rig.make_policy(), rig.make_policy({"can_play": True, "tracks": [{"label": "SD"}]}), 9999
    deleted = rig.make_policy()
    rig.client.delete(f"{POLICIES}/{deleted}")
    assert told(policy(rig, "assign", str(wide), "--asset", "film", "--json")) == {
        "organization": ORGANIZATION,
        "asset": "film",
        "policy_id": wide,
    }
    lines = policy(rig, "assign", str(wide), "--asset", "film").stdout.decode().splitlines()
    assert [line.split() for line in lines] == [
        ["organization", ORGANIZATION], ["asset", "film"], ["policy_id", str(wide)]
    ]  # fmt: skip
    eventually(lambda: rig.get("film").json()["policy"]["id"] == wide, 2)
    for number, asset, said in (
        (narrow, "film", b"HD missing"),
        (gone, "film", b"has no policy 9999"),
        (deleted, "film", b"is deleted"),
        (wide, "nothing", b"has no asset nothing"),
    ):
        done = policy(rig, "assign", str(number), "--asset", asset)
        assert done.returncode == 1 and said in done.stderr, done.stderr
    assert rig.get("film").json()["policy"]["id"] == wide


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (("import", "-", "--format", "yaml"), b"{}", 2),
        (("import", "-", "--format", "azure-widevine"), b'{"policy_overrides": {"can persist": true}}', 2),
        (("import", "-", "--policy-id", "9999"), b"{}", 1),
        (("import", "/nothing.json"), b"", 2),
        (("export", "9999"), b"", 1),
        (("export", "x"), b"", 2),
        (("show", "-1"), b"", 2),
    ],
)
def test_exit_codes(rig: Rig, arguments: tuple[str, ...], stdin: bytes, code: int) -> None:
    """1 for what is refused, 2 for what is no use of the command; one line says why."""
    done = policy(rig, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, b"") and done.stderr


def test_export_names_what_a_format_cannot_hold(rig: Rig) -> None:
    """Exit code 1, and nothing on stdout."""
    made = rig.make_policy({"can_play": True, "playready": {"security_level": 3000}})
    done = policy(rig, "export", str(made), "--format", "azure-widevine")
    assert (done.returncode, done.stdout) == (1, b"") and b"playready.security_level" in done.stderr


def test_without_a_processor_the_exit_code_is_3(rig: Rig) -> None:
    """The change stays in the log; the message says so, and a repeat with the same key finds its policy."""
    key = ("--idempotency-key", "patient", "--json")
    with paused(rig.processor):
        done = policy(rig, "import", "-", *key, "--wait", "1", stdin=b'{"can_play": true}')
    assert done.returncode == 3 and b"does a processor run?" in done.stderr
    assert told(policy(rig, "import", "-", *key, stdin=b'{"can_play": true}'))["version"] == 1


def test_org_set(rig: Rig) -> None:
    """Entitlements and provider change one by one; what is not given stays."""

    def body() -> OrganizationCreated:
        held = access.organizations(rig.bootstrap)[ORGANIZATION].body
        assert isinstance(held, OrganizationCreated)
        return held

    before = body()
    assert (before.entitlements_required, before.provider) == (False, None)
    done = run(rig, "org", "set", ORGANIZATION, "--entitlements", "required", "--json")
    assert told(done) == {"organization": ORGANIZATION, "entitlements": "required", "provider": None}
    assert told(run(rig, "org", "set", ORGANIZATION, "--provider", "acme_tv", "--json"))["entitlements"] == "required"
    assert (body().entitlements_required, body().provider) == (True, "acme_tv")
    assert body().display_name == before.display_name
    told(run(rig, "org", "set", ORGANIZATION, "--entitlements", "optional", "--provider", "", "--json"))
    assert body() == before
    listed = told(run(rig, "org", "list", "--json"))
    assert {each["organization"]: each["entitlements"] for each in listed} == {
        ORGANIZATION: "optional",
        "other": "optional",
    }
    assert run(rig, "org", "set", ORGANIZATION).returncode == 2
    assert run(rig, "org", "set", "nobody", "--entitlements", "required").returncode == 1
    assert run(rig, "org", "set", ORGANIZATION, "--entitlements", "maybe").returncode == 2
    key = {"authorization": f"Bearer {rig.key.secrets['api_key']}"}
    assert rig.client.get(POLICIES, headers=key).status_code == 200
