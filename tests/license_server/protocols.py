"""Three ways to ask: who asks is checked, keys are decrypted, the policy is obeyed. None of it is the proxy's code."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from tests.license_server.licenses import Key, license_of, read_challenge

CERTIFICATE_REQUEST = b"\x08\x04"
CERTIFICATE = b"\x0a\x05service certificate of the double" + bytes(range(256))
SESSION_SECRET = base64.b64encode(b"signing key of a session, a secret").decode()
LEVELS = ["", "SW_SECURE_CRYPTO", "SW_SECURE_DECODE", "HW_SECURE_CRYPTO", "HW_SECURE_DECODE", "HW_SECURE_ALL"]


class Known(msgspec.Struct, forbid_unknown_fields=True):
    """What the license server knows: who may ask, and with what it makes licenses."""

    license_key: str
    fingerprint_key: str
    signers: dict[str, tuple[str, str]] = {}
    communication_keys: dict[str, str] = {}
    headers: dict[str, str] = {}
    keys: dict[str, str] = {}


class Request(msgspec.Struct):
    """A license request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


class Answered(msgspec.Struct):
    """An answer, and what a test may know of the request: fingerprints instead of keys."""

    status: int
    content_type: str
    body: bytes
    seen: dict[str, Any]


def answer(request: Request, known: Known) -> Answered:
    """The license server's answer."""
    kind, _, system = request.path.strip("/").partition("/")
    if kind == "widevine":
        return widevine(request, known)
    if kind == "AcquireLicense":
        return entitlement(request, known, system)
    return forward(request, known, system)


def fingerprint(known: Known, key: Key) -> str:
    """As on the key topic (design 3), so that the two can be compared."""
    return hmac.digest(bytes.fromhex(known.fingerprint_key), key.kid + key.cek, "sha256")[:16].hex()


def seen_of(kind: str, challenge: bytes, known: Known, keys: Iterable[Key] = (), **more: Any) -> dict[str, Any]:
    held = list(keys)
    return {
        "kind": kind,
        "challenge": base64.b64encode(challenge).decode(),
        "fingerprints": {key.kid.hex(): fingerprint(known, key) for key in held},
        "labels": {key.kid.hex(): key.label for key in held},
        "ivs": {key.kid.hex(): hashlib.sha256(key.iv).hexdigest() for key in held if key.iv},
        **more,
    }


# -- Widevine's GetLicense


def widevine(request: Request, known: Known) -> Answered:
    body = json.loads(request.body)
    message = base64.b64decode(body["request"], validate=True)
    if not signed_by(body["signer"], message, base64.b64decode(body["signature"]), known):
        return widevine_status("SIGNATURE_FAILED", {"kind": "widevine", "problem": "signature"})
    asked = json.loads(message)
    challenge = base64.b64decode(asked["payload"], validate=True)
    device = read_challenge(challenge)
    specs = asked.get("content_key_specs", [])
    keys = [spec_key(spec) for spec in specs if "key" in spec]
    seen = seen_of("widevine", challenge, known, keys, message=without_keys(asked), signer=body["signer"])
    if challenge == CERTIFICATE_REQUEST:
        return widevine_ok({"license": base64.b64encode(CERTIFICATE).decode()}, seen)
    if device.get("unreadable"):
        return widevine_status("INVALID_LICENSE_CHALLENGE", seen)
    parsed = parsed_values(asked, device)
    if asked.get("parse_only"):
        return widevine_ok(parsed, seen)
    overrides = asked.get("policy_overrides", {})
    if not overrides.get("can_play") or (device.get("persistent") and not overrides.get("can_persist")):
        return widevine_status("ACCESS_DENIED", seen)
    fit = [
        spec_key(spec) for spec in specs if "key" in spec and spec.get("security_level", 1) <= device.get("level", 5)
    ]
    given = [key for key in fit if not device.get("kids") or key.kid.hex() in device["kids"]]
    if not given:
        return widevine_status("ACCESS_DENIED", seen)
    token = client_token(asked.get("session_init", {}), device)
    made = license_of(bytes.fromhex(known.license_key), "widevine", challenge, given, token)
    return widevine_ok({**parsed, "license": base64.b64encode(made).decode()}, seen | {"license": digest(made)})


def signed_by(signer: str, message: bytes, signature: bytes, known: Known) -> bool:
    """Decrypts the signature, where the proxy encrypts it."""
    if signer not in known.signers:
        return False
    key, iv = map(bytes.fromhex, known.signers[signer])
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    try:
        padded = decryptor.update(signature) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize() == hashlib.sha1(message).digest()
    except ValueError:
        return False


def spec_key(spec: dict[str, Any]) -> Key:
    kid, cek = (base64.b64decode(spec[name], validate=True) for name in ("key_id", "key"))
    return Key(kid=kid, cek=cek, label=spec.get("track_type", ""))


def client_token(session: dict[str, Any], device: dict[str, Any]) -> str | None:
    """The truth table: the device's own token goes before the message's, unless the message overrides it."""
    mine, own = session.get("provider_client_token"), device.get("client_token")
    return mine if own is None or (session.get("override_provider_client_token") and mine is not None) else own


def parsed_values(asked: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    tracks = [
        {"type": spec.get("track_type"), "key_id": spec.get("key_id")} for spec in asked.get("content_key_specs", [])
    ]
    return {
        "license_metadata": {"content_id": asked.get("content_id"), "license_type": "STREAMING", "request_type": "NEW"},
        "supported_tracks": [{**track, "key": SESSION_SECRET} for track in tracks],
        "make": "keymill",
        "model": "double",
        "security_level": device.get("level", 5),
        "client_max_hdcp_version": "HDCP_V2_2",
        "session_state": {"license_id": {"session_id": "s"}, "signing_key": SESSION_SECRET},
        "client_info": [{"name": "device_name", "value": "double"}],
        "something_new": SESSION_SECRET,
    }


def widevine_ok(members: dict[str, Any], seen: dict[str, Any]) -> Answered:
    return Answered(200, "application/json", json.dumps({"status": "OK", **members}).encode(), seen)


def widevine_status(status: str, seen: dict[str, Any]) -> Answered:
    return Answered(200, "application/json", json.dumps({"status": status}).encode(), seen | {"status": status})


def without_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: without_keys(within) for name, within in value.items() if name not in ("key", "encrypted_key", "iv")
        }
    return [without_keys(each) for each in value] if isinstance(value, list) else value


# -- a license service with entitlement messages


def entitlement(request: Request, known: Known, system: str) -> Answered:
    seen: dict[str, Any] = seen_of("entitlement", request.body, known, headers=shown(request.headers))
    denied = Answered(500 if system == "playready" else 403, "text/plain", b"License denied", seen)
    try:
        envelope, secret = verified(request.headers.get("x-axdrm-message", ""), known)
        keys = inline_keys(envelope["message"], secret)
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        seen["problem"] = type(error).__name__
        return Answered(400, "text/plain", b"Invalid license request", seen)
    seen |= seen_of("entitlement", request.body, known, keys, message=without_keys(envelope), headers=seen["headers"])
    if request.body == CERTIFICATE_REQUEST:
        return Answered(200, "application/octet-stream", CERTIFICATE, seen)
    device, terms = read_challenge(request.body), envelope["message"]["license"]
    asked = device.get("kids") or [key.kid.hex() for key in keys]
    if not set(asked) <= {key.kid.hex() for key in keys} or (
        device.get("persistent") and not terms["allow_persistence"]
    ):
        return denied
    policies = {policy["name"]: policy for policy in envelope["message"]["content_key_usage_policies"]}
    given = [key for key in keys if key.kid.hex() in asked and fits(policies[key.label], device)]
    if not given or (system == "fairplay" and not all(len(key.iv) == 16 for key in given)):
        return denied
    return licensed(system, request.body, given, known, seen)


def verified(token: str, known: Known) -> tuple[dict[str, Any], bytes]:
    """The message, if it is signed under the key that it names and has not expired."""
    unverified = jwt.decode(token, options={"verify_signature": False})
    secret = base64.b64decode(known.communication_keys[unverified["com_key_id"]])
    envelope: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"])
    message = envelope["message"]
    if (envelope["version"], message["version"], message["type"]) != (1, 2, "entitlement_message"):
        raise ValueError("another version")
    if datetime.fromisoformat(envelope["expiration_date"]) < datetime.now().astimezone():
        raise jwt.ExpiredSignatureError
    return envelope, secret


def inline_keys(message: dict[str, Any], secret: bytes) -> list[Key]:
    found = []
    for each in message["content_keys_source"]["inline"]:
        kid = UUID(each["id"]).bytes
        decryptor = Cipher(algorithms.AES(secret), modes.CBC(kid)).decryptor()
        cek = decryptor.update(base64.b64decode(each["encrypted_key"], validate=True)) + decryptor.finalize()
        iv = base64.b64decode(each.get("iv", ""), validate=True)
        found.append(Key(kid=kid, cek=cek, iv=iv, label=each["usage_policy"]))
    return found


def fits(policy: dict[str, Any], device: dict[str, Any]) -> bool:
    demanded = policy.get("widevine", {}).get("device_security_level", "SW_SECURE_CRYPTO")
    return LEVELS.index(demanded) <= int(device.get("level", 5))


# -- a license server that has the keys itself


def forward(request: Request, known: Known, system: str) -> Answered:
    keys = [Key(kid=bytes.fromhex(kid), cek=bytes.fromhex(cek)) for kid, cek in known.keys.items()]
    seen = seen_of("forward", request.body, known, headers=shown(request.headers))
    if any(request.headers.get(name.lower()) != value for name, value in known.headers.items()):
        return Answered(401, "text/plain", b"who are you", seen | {"problem": "headers"})
    if request.body == CERTIFICATE_REQUEST:
        return Answered(200, "application/octet-stream", CERTIFICATE, seen)
    asked = read_challenge(request.body).get("kids", [])
    return licensed(system, request.body, [key for key in keys if key.kid.hex() in asked], known, seen)


def licensed(system: str, challenge: bytes, keys: list[Key], known: Known, seen: dict[str, Any]) -> Answered:
    made = license_of(bytes.fromhex(known.license_key), system, challenge, keys)
    kind = "text/xml; charset=utf-8" if system == "playready" else "application/octet-stream"
    return Answered(200, kind, made, seen | {"license": digest(made)})


def digest(made: bytes) -> str:
    return hashlib.sha256(made).hexdigest()


def shown(headers: dict[str, str]) -> dict[str, str]:
    """Headers for the inspection: messages and credentials as digests."""
    plain = ("content-type", "content-length", "host", "user-agent", "accept", "soapaction", "accept-encoding")
    return {name: value if name in plain else digest(value.encode()) for name, value in headers.items()}
