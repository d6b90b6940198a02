"""The organization `demo` that `keymill up` brings: keys, one credential of each kind, a token key, a service."""

import json
from pathlib import Path
from typing import Final

import msgspec

from keymill.config import Settings
from keymill.durable import replace_own
from keymill.ops.credentials import Kind, create_credential, create_organization, existing
from keymill.ops.tokens import ensure_token_key, put_service

ORGANIZATION: Final = "demo"
FILE: Final = "credentials.json"
"""The clear credentials of the demo organization, mode 0600: they are printed at every start."""
_KINDS: Final = {Kind.API_KEY: "", Kind.NCP: "", Kind.WIDEVINE_SIGNER: ORGANIZATION}


def ensure_demo(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Make what is missing; returns the credentials as `keymill up` prints them."""
    create_organization(bootstrap, settings.keys_path, ORGANIZATION, "Demo")
    ensure_token_key(settings.data, bootstrap, ORGANIZATION)
    put_service(bootstrap, ORGANIZATION)
    path = settings.data / FILE
    known = _read(path)
    held = existing(bootstrap, ORGANIZATION)
    for kind, name in _KINDS.items():
        credential = known.get(kind.value, {}).get("credential", "")
        if credential not in held or held[credential].revoked:
            unused = f"{name}-{len(held)}" if name in held else name  # an id stays taken after a revocation
            created = create_credential(bootstrap, settings.keys_path, ORGANIZATION, kind, unused)
            known[kind.value] = {"credential": created.credential, **created.secrets}
            _write(path, known)
    shown = {key: value for each in known.values() for key, value in each.items() if key != "credential"}
    return {"organization": ORGANIZATION, **shown}


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, str]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}  # a new folder, or a file that somebody damaged: fresh credentials do no harm


def _write(path: Path, known: dict[str, dict[str, str]]) -> None:
    replace_own(path, json.dumps(known, indent=1).encode())
