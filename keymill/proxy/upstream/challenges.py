"""How a challenge travels over HTTP, per DRM system: the headers that a license server expects beside it."""

from collections.abc import Mapping
from typing import Final

from schemas.values import DrmSystem

OCTETS: Final = "application/octet-stream"
CHALLENGE_HEADERS: Final[Mapping[DrmSystem, Mapping[str, str]]] = {
    DrmSystem.WIDEVINE: {"Content-Type": OCTETS},
    DrmSystem.FAIRPLAY: {"Content-Type": OCTETS},
    DrmSystem.PLAYREADY: {
        "Content-Type": "text/xml; charset=utf-8",
        "SOAPAction": '"http://schemas.microsoft.com/DRM/2007/03/protocols/AcquireLicense"',
    },
}
"""PlayReady's challenge is a SOAP request."""
