"""
Who may ask for what: entitlements, service configurations, credentials.

The `sequence` of each only goes up, so that nobody can bring back what was revoked by writing an old record again.
"""

from schemas import ids
from schemas.policy import Policy
from schemas.values import HASH_SIZE, MAX_COUNT, MAX_TIME_MS, DrmSystem, Record, check_range, check_size


class Entitlement(Record, frozen=True, kw_only=True):
    """A user may play a product, for ever or until `valid_until` (epoch ms); no longer once it is `deleted`."""

    organization: str
    user: str
    product: str
    valid_until: int | None = None
    sequence: int = 0
    deleted: bool = False

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        ids.check_name(self.user, "user")
        ids.check_name(self.product, "product")
        check_range(self.valid_until, 0, MAX_TIME_MS, "valid_until")
        check_range(self.sequence, 0, MAX_COUNT, "sequence")


class Service(Record, frozen=True, kw_only=True):
    """A service configuration that `/getlicense` names. `limits` tightens what its licenses allow."""

    organization: str
    service: str
    version: str
    drm_system: DrmSystem
    upstream: str | None = None
    retired: bool = False
    limits: Policy | None = None
    sequence: int = 0

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        ids.check_name(self.service, "service")
        ids.check_name(self.version, "version")
        check_range(self.sequence, 0, MAX_COUNT, "sequence")


class OrganizationCreated(Record, frozen=True, kw_only=True, tag=True):
    """The organization itself; its credential id is `self`. `provider` is its name at Widevine's license server."""

    display_name: str
    entitlements_required: bool = False
    provider: str | None = None


class ApiKey(Record, frozen=True, kw_only=True, tag=True):
    """Bearer token of the gateway, kept as its SHA-256."""

    token_sha256: bytes

    def __post_init__(self) -> None:
        check_size(self.token_sha256, HASH_SIZE, "token_sha256")


class NcpKey(Record, frozen=True, kw_only=True, tag=True):
    """Access key of the NAVER policy API; the secret key is wrapped."""

    kek_epoch: int
    wrapped: bytes


class WidevineSigner(Record, frozen=True, kw_only=True, tag=True):
    """Signer of the Widevine key API; AES key (32 bytes) and IV (16) are wrapped together."""

    kek_epoch: int
    wrapped: bytes


class TokenKey(Record, frozen=True, kw_only=True, tag=True):
    """Verifies player tokens; the algorithm is pinned. HS256 secrets are wrapped."""

    algorithm: str
    public_pem: str | None = None
    kek_epoch: int | None = None
    wrapped: bytes | None = None


class Credential(Record, frozen=True, kw_only=True):
    """Something that proves who asks; `credential` is its id within the organization."""

    organization: str
    credential: str
    revoked: bool
    created: int
    label: str
    body: OrganizationCreated | ApiKey | NcpKey | WidevineSigner | TokenKey
    sequence: int = 0

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        ids.check_name(self.credential, "credential")
        check_range(self.created, 0, MAX_TIME_MS, "created")
        check_range(self.sequence, 0, MAX_COUNT, "sequence")
