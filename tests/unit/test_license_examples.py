"""Every example of docs/licenses.md, run as it stands against a proxy that listens, with license servers in process."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.values import DrmSystem
from tests.fakes import LicenseServer, license_of
from tests.proxy_rig import ProxyRig, b64, listening

PAGE = (Path(__file__).parents[2] / "docs" / "licenses.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
CHALLENGE = b"\x08\x01" + b"\xfe\x00challenge " * 8


@pytest.fixture(scope="module")
def servers() -> dict[DrmSystem, LicenseServer]:
    """Filled by `environment`."""
    return {}


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, servers: dict[DrmSystem, LicenseServer]
) -> Iterator[dict[str, str]]:
    """What the page says is set, over a proxy with the asset `film` and its services."""
    rig = ProxyRig(tmp_path_factory.mktemp("examples"))
    try:
        rig.ingest("film", "SD", "HD", "AUDIO", "HLS_AES128")
        rig.put_service()
        rig.put_service("widevine", drm_system=DrmSystem.WIDEVINE)
        for system in (DrmSystem.WIDEVINE, DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY):
            servers[system] = rig.put_license_server(system)
        told = {
            "TOKEN": rig.token("film"),
            "SERVER_TOKEN": rig.token("film", server_side=True),
            "HLS_TOKEN": rig.token("film", tracks=["HLS_AES128"]),
            "KID": rig.kid("film", "HD").hex(),
            "KID_B64URL": b64(rig.kid("film", "HD")),
            "HLS_KID": rig.kid("film", "HLS_AES128").hex(),
        }
        with listening(rig) as proxy:
            yield {**os.environ, **told, "PROXY": proxy, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    finally:
        rig.close()


def test_there_are_examples_of_every_endpoint() -> None:
    """In curl and in Python; the page did not lose them to a change of form."""
    assert ["bash", "python"] * 6 == [language for language, _ in EXAMPLES]
    for path in (
        "/widevine/",
        "/playready/",
        "/fairplay/",
        "/clearkey/",
        "/license?",
        "/drm_license/",
        "/getlicense?",
        "/hls/",
    ):
        assert any(path in source for _, source in EXAMPLES), path


@pytest.mark.parametrize(("language", "source"), EXAMPLES)
def test_example_runs(
    language: str, source: str, environment: dict[str, str], servers: dict[DrmSystem, LicenseServer], tmp_path: Path
) -> None:
    """It exits with 0, and a license that it keeps is one that a license server gave."""
    (tmp_path / "challenge.bin").write_bytes(CHALLENGE)
    command = ["bash", "-euo", "pipefail", "-c", source] if language == "bash" else [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"
    given = {license_of(granted) for server in servers.values() for granted in server.asked}
    for name in ("license.bin", "license.xml", "ckc.bin"):
        if (path := tmp_path / name).exists():
            assert path.read_bytes() in given
    if "/hls/" in source and language == "bash":
        assert 16 == (tmp_path / "key.bin").stat().st_size
