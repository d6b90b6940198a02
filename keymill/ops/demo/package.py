"""Shaka Packager against the gateway: it fetches the keys, encrypts the film and writes DASH and HLS manifests."""

import base64
import binascii
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from keymill.errors import Corrupt, Misconfigured, Unavailable
from keymill.ops.demo import tools
from keymill.ops.demo.media import SEGMENT_S, Film
from keymill.ops.demo.stack import Up

SYSTEMS = "Widevine,PlayReady,CommonSystem"  # without CommonSystem no ClearKey player finds the KIDs
ATTEMPTS = 4  # the packager's own retry is broken (3.8.0), so a hurried answer is final for the process
PAUSES_S = (1.0, 2.0, 4.0)
PROCESS_TIMEOUT_S = 180.0  # two rounds of its own 60 s timeout, and the encryption

_CONNECTION_TROUBLE = ("Could not connect to server", "Timeout was reached", "Server returned nothing")
_MPD = "{urn:mpeg:dash:schema:mpd:2011}"
_CENC = "{urn:mpeg:cenc:2013}"


@dataclass(frozen=True, slots=True)
class Packaged:
    """An encrypted film on disk; *files* and *kids* by track label."""

    asset: str
    scheme: str
    folder: Path
    files: dict[str, Path]
    kids: dict[str, bytes]

    @property
    def manifest(self) -> Path:
        """The DASH manifest."""
        return self.folder / "stream.mpd"


def package(up: Up, film: Film, *, asset: str, scheme: str, into: Path, policy: str = "") -> Packaged:
    """
    Encrypt *film* with the keys of *asset*, replacing the folder *into*.

    The packager runs again when the gateway was away or asked for time. Its stderr may hold keys: nothing of it is
    printed, kept or raised, only a reason out of a closed list.

    Raises:
        Misconfigured: the gateway refused (signature, policy, asset).
        Unavailable: the gateway did not answer with keys in all attempts.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=into.parent, prefix=f"{into.name}-"))
    try:
        options = [*_streams(film, unfinished), *_outputs(unfinished), "--protection_scheme", scheme]
        _run_until_done(options, _key_server_flags(up, asset=asset, policy=policy))
        shutil.rmtree(into, ignore_errors=True)
        unfinished.rename(into)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    kids = read_kids(into / "stream.mpd")
    return Packaged(asset, scheme, into, {label: into / path.name for label, path in film.tracks.items()}, kids)


def read_kids(manifest: Path) -> dict[str, bytes]:
    """The KID of each file that the manifest names, by track label (the file's stem in upper case)."""
    kids: dict[str, bytes] = {}
    for adaptation in ElementTree.parse(manifest).iter(f"{_MPD}AdaptationSet"):  # noqa: S314 our packager wrote it
        named = [protection.get(f"{_CENC}default_KID") for protection in adaptation.iter(f"{_MPD}ContentProtection")]
        for kid in filter(None, named):
            for url in adaptation.iter(f"{_MPD}BaseURL"):
                kids[Path(url.text or "").stem.upper()] = bytes.fromhex(kid.replace("-", ""))
    if not kids:
        raise Corrupt(f"{manifest} names no KID: the packager has not encrypted anything")
    return kids


def redacted_reason(stderr: str, returncode: int) -> tuple[str, bool]:
    """
    Why the packager failed, and whether another attempt can help.

    The packager prints whole key responses, so the reason is put together from what is known to be harmless: an
    HTTP status of three digits, the answer's status word, or a fixed phrase.
    """
    if answered := re.search(r"response code: (\d{3})\b", stderr):
        status = int(answered[1])
        return f"the key server answered HTTP {status}", status >= 500 or status == 429
    for phrase in _CONNECTION_TROUBLE:
        if phrase in stderr:
            return f"the key server could not be asked ({phrase})", True
    if word := _status_word(stderr):
        return f"the key server answered {word}", word == "INTERNAL_ERROR"
    return f"the packager ended with exit code {returncode}", False


def _status_word(stderr: str) -> str:
    """The `status` member of a Widevine answer that the packager printed; capitals and underscores or nothing."""
    if found := re.search(r'\{"response":\s*"([A-Za-z0-9+/=]+)"', stderr):
        with contextlib.suppress(binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            answer = msgspec.json.decode(base64.b64decode(found[1]))
            if isinstance(answer, dict) and re.fullmatch(r"[A-Z_]{2,40}", str(answer.get("status"))):
                return str(answer["status"])
    return ""


def _streams(film: Film, folder: Path) -> list[str]:
    kinds = {label: "audio" if label == "AUDIO" else "video" for label in film.tracks}
    return [f"in={path},stream={kinds[label]},output={folder / path.name}" for label, path in film.tracks.items()]


def _outputs(folder: Path) -> list[str]:
    manifests = [
        "--mpd_output",
        str(folder / "stream.mpd"),
        "--hls_master_playlist_output",
        str(folder / "master.m3u8"),
    ]
    # The packager leaves the first 5 s clear if it is not told otherwise; nothing of this film plays without a license.
    return ["--clear_lead", "0", "--segment_duration", str(SEGMENT_S), "--protection_systems", SYSTEMS, *manifests]


def _key_server_flags(up: Up, *, asset: str, policy: str) -> list[str]:
    """The flags that hold the signer's key. They go into a file: a command line can be read by the whole machine."""
    given = up.credentials
    flags = {
        "key_server_url": f"{up.gateway}/widevine/{given.organization}",
        "content_id": asset.encode().hex(),
        "signer": given.widevine_signer,
        "aes_signing_key": given.widevine_key_hex,
        "aes_signing_iv": given.widevine_iv_hex,
        "policy": policy,
    }
    return ["--enable_widevine_encryption", *(f"--{name}={value}" for name, value in flags.items() if value)]


def _run_until_done(options: list[str], flags: list[str]) -> None:
    for pause_s in (*PAUSES_S[: ATTEMPTS - 1], None):
        done = _run(options, flags)
        if not done.returncode:
            return
        reason, passing = redacted_reason(done.stderr, done.returncode)
        if not passing:
            raise Misconfigured(f"Shaka Packager got no keys: {reason}")
        if pause_s is None:
            raise Unavailable(f"Shaka Packager got no keys in {ATTEMPTS} attempts: {reason}")
        time.sleep(pause_s)


def _run(options: list[str], flags: list[str]) -> "subprocess.CompletedProcess[str]":
    with tempfile.NamedTemporaryFile("w", prefix="keymill-packager-") as flagfile:  # 0600
        flagfile.write("\n".join(flags) + "\n")
        flagfile.flush()
        command = [str(tools.packager()), "--quiet", *options, f"--flagfile={flagfile.name}"]
        # The gateway is on this machine; a proxy of the environment could not reach it, and the packager would ask it.
        direct = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=PROCESS_TIMEOUT_S, check=False, env=direct,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # Raised anew without a cause: the original carries the stderr.
            return subprocess.CompletedProcess(command, 1, "", _CONNECTION_TROUBLE[1])
