"""The proof that needs no browser: with the proxy's license the encrypted film is the clear one, frame by frame."""

import base64
import binascii
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from keymill.errors import Misconfigured, Unavailable
from keymill.ops.demo import loopback, tools
from keymill.ops.demo.media import Film
from keymill.ops.demo.package import Packaged

PATIENCE_S = 10.0  # a proxy follows the key topic within milliseconds; this is for one that has just started
STALENESS_HEADER = "X-Keymill-Staleness"  # seconds
STALENESS_METRIC = "keymill_view_staleness_seconds"


@dataclass(frozen=True, slots=True)
class License:
    """
    A ClearKey license: content keys by KID, never shown.

    Args:
        took_ms: the one request that was answered with it.
        staleness_s: how old the proxy said its copy is; None if it said nothing.
        waited_ms: from the first request to the answer, more than `took_ms` only if the proxy had to catch up.
    """

    keys: dict[bytes, bytes] = field(repr=False)
    took_ms: float
    staleness_s: float | None
    waited_ms: float


@dataclass(frozen=True, slots=True)
class TrackProof:
    """One track: how many frames there are, whether all are the source's, and whether a wrong key gives other ones."""

    label: str
    frames: int
    equal: bool
    wrong_key_differs: bool


def license_url(proxy: str, *, organization: str, asset: str, token: str) -> str:
    """The proxy's ClearKey door for *asset*."""
    return f"{proxy}/clearkey/{organization}/{asset}?token={token}"


def fetch_license(url: str, kids: list[bytes]) -> License:
    """
    Ask the proxy for the keys of *kids* (W3C EME ClearKey).

    Raises:
        Misconfigured: the proxy refused; the message holds its status and code.
        Unavailable: it was not ready, or knew no such asset, for 10 s.
    """
    body = msgspec.json.encode({"kids": [base64url(kid) for kid in kids], "type": "temporary"})
    started = time.monotonic()
    while True:
        answer = loopback.call(url, body=body)
        waited_s = time.monotonic() - started
        if answer.status == 200:
            keys = {_from_base64url(key.kid): _from_base64url(key.k) for key in _parse(answer.body).keys}
            return License(keys, answer.took_ms, _staleness(answer), round(waited_s * 1000, 1))
        if answer.status not in (404, 503):
            raise Misconfigured(f"the proxy refused the license: HTTP {answer.status} {_code(answer.body)}")
        if waited_s > PATIENCE_S:
            raise Unavailable(f"no license within {PATIENCE_S:.0f} s: HTTP {answer.status} {_code(answer.body)}")
        time.sleep(0.1)


def staleness_from_metrics(admin: str) -> float | None:
    """How old the proxy's copy is by its metrics; for a proxy that does not say so with the license."""
    text = loopback.call(f"{admin}/metrics").body.decode(errors="replace")
    found = re.findall(rf"^{STALENESS_METRIC}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return max(map(float, found), default=None)


def prove(film: Film, packaged: Packaged, granted: License) -> list[TrackProof]:
    """Compare every frame of every track with the clear film's, once with its key and once with a wrong one."""
    proofs = []
    for label, clear in film.tracks.items():
        key = granted.keys.get(packaged.kids[label])
        if key is None:
            raise Misconfigured(f"the license holds no key for the {label} track, KID {packaged.kids[label].hex()}")
        source = frames(clear)
        wrong = bytes([key[0] ^ 1]) + key[1:]
        encrypted = packaged.files[label]
        equal = bool(source) and frames(encrypted, key=key) == source
        proofs.append(TrackProof(label, len(source), equal, frames(encrypted, key=wrong) != source))
    return proofs


def decrypted(proofs: list[TrackProof]) -> bool:
    """Whether every track came back whole with its key, and not with another."""
    return bool(proofs) and all(proof.equal and proof.wrong_key_differs for proof in proofs)


def frames(path: Path, *, key: bytes | None = None) -> list[str]:
    """
    MD5 of every decoded frame of the file's first stream, in order.

    A wrong key does not make ffmpeg fail, it gives other frames or none: compare them, not exit codes. The key goes
    to ffmpeg through a pipe, as an option in a concat script, because its command line can be read by every user.
    """
    quoted = str(path.resolve()).replace("'", r"'\''")
    script = f"ffconcat version 1.0\nfile 'file:{quoted}'\n"
    if key is not None:
        script += f"option decryption_key {key.hex()}\n"
    source = ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe", "-i", "pipe:0"]
    command = [str(tools.ffmpeg()), "-v", "quiet", *source, "-map", "0:0", "-f", "framemd5", "-"]
    done = subprocess.run(
        command, input=script.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return [line.rsplit(",", 1)[-1].strip() for line in done.stdout.decode().splitlines() if not line.startswith("#")]


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str
    k: str


class _JwkSet(msgspec.Struct, frozen=True):
    keys: list[_Jwk]


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""


def _parse(body: bytes) -> _JwkSet:
    try:
        return msgspec.json.decode(body, type=_JwkSet)
    except msgspec.DecodeError:
        raise Misconfigured("the proxy answered 200 with something that is no ClearKey license") from None


def _code(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Problem).code
    except msgspec.DecodeError:
        return "(no problem document)"


def _staleness(answer: loopback.Answer) -> float | None:
    try:
        return float(answer.headers.get(STALENESS_HEADER, ""))
    except ValueError:
        return None


def base64url(value: bytes) -> str:
    """Base64url without padding, as EME spells KIDs and keys."""
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _from_base64url(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise Misconfigured("the proxy's license holds a value that is not base64url") from None
