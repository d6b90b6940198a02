"""The DRM systems by their system ids (16 bytes), as DASH-IF registers them."""

from typing import Final

COMMON: Final = bytes.fromhex("1077efecc0b24d02ace33c1e52e2fb4b")
"""The common PSSH system of W3C EME: KIDs and nothing else. Source: W3C "cenc" Initialization Data Format."""
WIDEVINE: Final = bytes.fromhex("edef8ba979d64acea3c827dcd51d21ed")
PLAYREADY: Final = bytes.fromhex("9a04f07998404286ab92e65be0885f95")
FAIRPLAY: Final = bytes.fromhex("94ce86fb07ff4f43adb893d2fa968ca2")
