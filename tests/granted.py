"""What an upstream is handed, with defaults that a test may change."""

from typing import Any

from keymill.core.envelope import ClearKey
from keymill.proxy.auth import Claims
from keymill.proxy.upstream.contract import Granted, GrantedKey
from keymill.secret import Secret
from schemas.policy import Policy
from schemas.values import DrmSystem, Scheme
from tests import builders


def key(label: str = "HD", number: int = 1) -> GrantedKey:
    """A granted key; KID, CEK and IV are told apart by their bytes."""
    clear = ClearKey(cek=Secret(bytes([number, 1]) * 8), iv=Secret(bytes([number, 2]) * 8))
    return GrantedKey(
        kid=bytes([number, 3]) * 8, label=label, labels=(label,), scheme=Scheme.CBCS, clear=clear, key_version=1
    )


def granted(
    policy: Policy | None = None, *keys: GrantedKey, system: DrmSystem = DrmSystem.WIDEVINE, **more: Any
) -> Granted:
    """One key for HD under a policy that only plays."""
    given: dict[str, Any] = {
        "drm_system": system,
        "claims": Claims(organization="demo", asset="bbb", exp=1),
        "asset": builders.folded(builders.ingest()),
        "policy": policy or Policy(can_play=True),
        "policy_version": 1,
        "keys": keys or (key(),),
        "challenge": b"\x08\x01challenge\xff",
        "persistent": False,
        "provider": "widevine_test",
    }
    return Granted(**given | more)
