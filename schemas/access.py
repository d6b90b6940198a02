"""Who may ask for what: entitlements, service configurations, credentials."""

from schemas.values import DrmSystem, Record


class Entitlement(Record, kw_only=True):
    """A user may play a product, for ever or until `valid_until` (epoch ms)."""

    organization: str
    user: str
    product: str
    valid_until: int | None = None


class Service(Record, kw_only=True):
    """A service configuration that `/getlicense` names."""

    organization: str
    service: str
    version: str
    drm_system: DrmSystem
    upstream: str | None = None
    retired: bool = False


class OrganizationCreated(Record, kw_only=True, tag=True):
    """The organization itself; its credential id is `self`."""

    display_name: str


class ApiKey(Record, kw_only=True, tag=True):
    """Bearer token of the gateway, kept as its SHA-256."""

    token_sha256: bytes


class NcpKey(Record, kw_only=True, tag=True):
    """Access key of the NAVER policy API; the secret key is wrapped."""

    kek_epoch: int
    wrapped: bytes


class WidevineSigner(Record, kw_only=True, tag=True):
    """Signer of the Widevine key API; AES key (32 bytes) and IV (16) are wrapped together."""

    kek_epoch: int
    wrapped: bytes


class TokenKey(Record, kw_only=True, tag=True):
    """Verifies player tokens; the algorithm is pinned. HS256 secrets are wrapped."""

    algorithm: str
    public_pem: str | None = None
    kek_epoch: int | None = None
    wrapped: bytes | None = None


class Credential(Record, kw_only=True):
    """Something that proves who asks; `credential` is its id within the organization."""

    organization: str
    credential: str
    revoked: bool
    created: int
    label: str
    body: OrganizationCreated | ApiKey | NcpKey | WidevineSigner | TokenKey
