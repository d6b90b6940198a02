"""Hypothesis strategies for everything that the schemas can say, and for identities and logs of events."""

from hypothesis import strategies as st

from keymill.core.identity import KeyIdentity
from schemas import ids
from schemas.access import (
    ApiKey,
    Credential,
    Entitlement,
    NcpKey,
    OrganizationCreated,
    Service,
    TokenKey,
    WidevineSigner,
)
from schemas.audit import AuditEvent, EventPlace
from schemas.events import (
    AssetEvent,
    AssetIngested,
    AssetRestored,
    AssetRevoked,
    ImportedKey,
    KeysRotated,
    PeriodRange,
    PolicyAssigned,
    PolicyChange,
    PolicyCreated,
    PolicyDeleted,
    PolicyUpdated,
    TrackWish,
)
from schemas.operations import (
    AuditSummary,
    KekEpochs,
    OwnerRequest,
    PartitionPosition,
    ProgramReport,
    RepairRequest,
    RequestKind,
    TopicProgress,
)
from schemas.policy import (
    ANALOG_VIDEO_LEVELS,
    DIGITAL_AUDIO_LEVELS,
    DIGITAL_VIDEO_LEVELS,
    HDCP_ENFORCEMENTS,
    MAX_LONG,
    PLAYREADY_LEVELS,
    Cgms,
    FairPlayTerms,
    Hdcp,
    PlayReadyTerms,
    Policy,
    PolicySource,
    Renewal,
    SessionInit,
    SrmRule,
    TrackTerms,
    WidevineRequest,
    WidevineTerms,
)
from schemas.records import (
    AcceptedEvent,
    AcceptedRequest,
    AssetRecord,
    AssetState,
    Claim,
    CryptoPeriod,
    DeadLetter,
    KeyOrigin,
    KeyRecord,
    KeySet,
    KeyVersion,
    LivePeriods,
    PeriodSpan,
    PolicyRecord,
    PolicyState,
    TrackIdentity,
    TrackKey,
)
from schemas.values import LABELS, MAX_COUNT, MAX_INT, MAX_TIME_MS, DrmSystem, LogPosition, Scheme

ORGANIZATIONS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9._~:@-]{1,128}", fullmatch=True)
ASSETS = st.one_of(
    NAMES.filter(lambda name: not name.startswith("hex:")),
    st.binary(min_size=1, max_size=62).map(ids.asset_of_content_id),
)
LABEL = st.one_of(
    st.sampled_from(sorted(LABELS)),
    st.lists(st.sampled_from(sorted(LABELS - {"ALL"})), min_size=2, max_size=4, unique=True).map("+".join),
)
SCHEMES = st.sampled_from(Scheme)
INTS = st.one_of(st.integers(1, 200), st.integers(1, MAX_INT))
LONGS = st.one_of(st.integers(0, 200), st.integers(0, MAX_COUNT))
SIGNED = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, MAX_TIME_MS)
TEXT = st.text(min_size=1, max_size=40)
KIDS = st.binary(min_size=16, max_size=16)
HASHES = st.binary(min_size=32, max_size=32)
SALTS = st.binary(min_size=16, max_size=64)
BLOBS = st.binary(max_size=300)
POSITIONS = st.builds(LogPosition, generation=st.integers(0, MAX_INT), offset=LONGS)
WINDOWS = st.one_of(
    st.just((None, None)), st.tuples(TIMES, st.none()), st.tuples(st.just(5), st.integers(6, MAX_TIME_MS))
)


def optional(strategy):
    """Or None."""
    return st.none() | strategy


def tuples(strategy, least=0, most=4):
    """A tuple of several."""
    return st.lists(strategy, min_size=least, max_size=most).map(tuple)


IMPORTED = st.builds(ImportedKey, intake_epoch=INTS, wrapped=st.binary(min_size=48, max_size=48), fp=KIDS)
WISHES = st.builds(TrackWish, label=LABEL, scheme=optional(SCHEMES), kid=optional(KIDS), imported=optional(IMPORTED))
PERIODS = st.builds(PeriodRange, first_index=LONGS, count=st.integers(1, 1000), period_s=INTS, start=optional(TIMES))
INGESTED = WINDOWS.flatmap(
    lambda window: st.builds(
        AssetIngested,
        tracks=optional(tuples(WISHES, 1)),
        schemes=optional(tuples(SCHEMES, 1)),
        single_key=optional(st.booleans()),
        key_version=optional(INTS),
        policy_id=optional(LONGS),
        product_id=optional(NAMES),
        available_from=st.just(window[0]),
        available_until=st.just(window[1]),
        salt=optional(SALTS),
        periods=optional(PERIODS),
    )
)
BODIES = st.one_of(
    INGESTED,
    st.builds(KeysRotated, to_version=INTS, salt=optional(SALTS)),
    st.builds(PolicyAssigned, policy_id=LONGS),
    st.builds(AssetRevoked, reason=optional(TEXT)),
    st.builds(AssetRestored, reason=optional(TEXT)),
)
EVENTS = st.builds(
    AssetEvent,
    organization=ORGANIZATIONS,
    asset=ASSETS,
    event_id=optional(NAMES),
    request_hash=optional(HASHES),
    event_time=TIMES,
    body=BODIES,
)
TRACK_IDENTITIES = st.builds(TrackIdentity, label=LABEL, scheme=SCHEMES, declared=st.booleans(), kid=optional(KIDS))
KEY_SETS = st.builds(KeySet, digest=KIDS, at=POSITIONS, tracks=tuples(TRACK_IDENTITIES))
LIVE = st.builds(
    LivePeriods,
    period_s=INTS,
    start=optional(TIMES),
    from_index=LONGS,
    through_index=LONGS,
    at=POSITIONS,
    tracks=tuples(TRACK_IDENTITIES),
    earlier=tuples(st.builds(PeriodSpan, from_index=LONGS, through_index=LONGS)),
)
VERSIONS = st.builds(
    KeyVersion,
    key_version=INTS,
    root_version=INTS,
    salt=optional(SALTS),
    single_key=st.booleans(),
    schemes=tuples(SCHEMES),
    created=POSITIONS,
    key_sets=tuples(KEY_SETS),
    live=optional(LIVE),
)
ACCEPTED = st.builds(AcceptedEvent, event_id=NAMES, request_hash=HASHES, at=POSITIONS, timestamp=SIGNED)
ASSET_RECORDS = st.builds(
    AssetRecord,
    organization=ORGANIZATIONS,
    asset=ASSETS,
    state=st.sampled_from(AssetState),
    applied=POSITIONS,
    policy_id=LONGS,
    product_id=optional(NAMES),
    available_from=optional(TIMES),
    available_until=optional(TIMES),
    versions=tuples(VERSIONS, most=3),
    recent=tuples(ACCEPTED, most=3),
)
TRACK_KEYS = st.builds(TrackKey, kid=KIDS, fp=KIDS, label=LABEL, scheme=SCHEMES, origin=st.sampled_from(KeyOrigin))
KEY_RECORDS = st.builds(
    KeyRecord,
    kek_epoch=INTS,
    tracks=tuples(TRACK_KEYS, most=6),
    wrapped=BLOBS,
    organization=ORGANIZATIONS,
    asset=ASSETS,
    key_version=INTS,
    root_version=INTS,
    period=optional(st.builds(CryptoPeriod, index=SIGNED, start=optional(SIGNED), end=optional(SIGNED))),
    event=POSITIONS,
)
SECONDS = optional(st.integers(0, 3) | st.integers(0, MAX_LONG))
FLAGS = optional(st.booleans())
WIDEVINE = st.builds(
    WidevineTerms,
    security_level=optional(st.integers(1, 5)),
    hdcp=optional(st.sampled_from(Hdcp)),
    cgms=optional(st.sampled_from(Cgms)),
    disable_analog_output=FLAGS,
    hdcp_srm_rule=optional(st.sampled_from(SrmRule)),
    override_device_revocation=FLAGS,
)
PLAYREADY = st.builds(
    PlayReadyTerms,
    security_level=optional(st.sampled_from(PLAYREADY_LEVELS)),
    digital_video_level=optional(st.sampled_from(DIGITAL_VIDEO_LEVELS)),
    analog_video_level=optional(st.sampled_from(ANALOG_VIDEO_LEVELS)),
    digital_audio_level=optional(st.sampled_from(DIGITAL_AUDIO_LEVELS)),
    hdcp_type1=FLAGS,
)
FAIRPLAY = st.builds(
    FairPlayTerms,
    hdcp_enforcement=optional(st.sampled_from(HDCP_ENFORCEMENTS)),
    allow_airplay=FLAGS,
    allow_av_adapter=FLAGS,
)
DEMANDS = {"widevine": optional(WIDEVINE), "playready": optional(PLAYREADY), "fairplay": optional(FAIRPLAY)}
TRACK_TERMS = st.builds(TrackTerms, label=LABEL, kid=optional(KIDS), **DEMANDS)
POLICIES = st.builds(
    Policy,
    can_play=FLAGS,
    can_persist=FLAGS,
    can_renew=FLAGS,
    license_duration_s=SECONDS,
    rental_duration_s=SECONDS,
    playback_duration_s=SECONDS,
    renewal=optional(
        st.builds(
            Renewal,
            server_url=optional(TEXT),
            delay_s=SECONDS,
            retry_interval_s=SECONDS,
            recovery_duration_s=SECONDS,
            with_usage=FLAGS,
        )
    ),
    allowed_tracks=optional(tuples(LABEL)),
    tracks=optional(st.lists(TRACK_TERMS, max_size=4, unique_by=lambda track: track.label).map(tuple)),
    **DEMANDS,
    session_init=optional(
        st.builds(
            SessionInit,
            provider_session_token=optional(st.binary(max_size=20)),
            provider_client_token=optional(st.binary(max_size=20)),
            override_provider_client_token=FLAGS,
        )
    ),
    widevine_request=optional(
        st.builds(
            WidevineRequest,
            content_id=optional(st.binary(max_size=20)),
            provider=optional(TEXT),
            policy_name=optional(TEXT),
            use_policy_overrides_exclusively=FLAGS,
        )
    ),
    source=optional(st.builds(PolicySource, format=TEXT, document=TEXT)),
)
REQUESTS = st.builds(AcceptedRequest, request_id=NAMES, request_hash=optional(HASHES))
CHANGES = st.builds(
    PolicyChange,
    organization=ORGANIZATIONS,
    request_id=optional(NAMES),
    request_hash=optional(HASHES),
    event_time=TIMES,
    body=st.one_of(
        st.builds(PolicyCreated, name=TEXT, policy=POLICIES),
        st.builds(PolicyUpdated, policy_id=LONGS, name=TEXT, policy=POLICIES),
        st.builds(PolicyDeleted, policy_id=INTS),
    ),
)
POLICY_RECORDS = st.builds(
    PolicyRecord,
    organization=ORGANIZATIONS,
    policy_id=LONGS,
    version=INTS,
    state=st.sampled_from(PolicyState),
    name=TEXT,
    policy=POLICIES,
    applied=POSITIONS,
    created_by=optional(REQUESTS),
    changed_by=optional(REQUESTS),
    created=TIMES,
    changed=TIMES,
)
CLAIMS = st.builds(
    Claim,
    organization=ORGANIZATIONS,
    kid=KIDS,
    asset=ASSETS,
    key_version=INTS,
    label=LABEL,
    scheme=SCHEMES,
    root_version=INTS,
    fp=optional(KIDS),
    event=POSITIONS,
)
ENTITLEMENTS = st.builds(
    Entitlement, organization=ORGANIZATIONS, user=NAMES, product=NAMES, valid_until=optional(TIMES)
)
SERVICES = st.builds(
    Service,
    organization=ORGANIZATIONS,
    service=NAMES,
    version=NAMES,
    drm_system=st.sampled_from(DrmSystem),
    upstream=optional(TEXT),
    retired=st.booleans(),
    limits=optional(POLICIES),
)
CREDENTIALS = st.builds(
    Credential,
    organization=ORGANIZATIONS,
    credential=NAMES,
    revoked=st.booleans(),
    created=TIMES,
    label=TEXT,
    body=st.one_of(
        st.builds(
            OrganizationCreated,
            display_name=TEXT,
            entitlements_required=st.booleans(),
            provider=optional(TEXT),
        ),
        st.builds(ApiKey, token_sha256=HASHES),
        st.builds(NcpKey, kek_epoch=INTS, wrapped=BLOBS),
        st.builds(WidevineSigner, kek_epoch=INTS, wrapped=BLOBS),
        st.builds(
            TokenKey,
            algorithm=st.sampled_from(["EdDSA", "ES256", "HS256"]),
            public_pem=optional(TEXT),
            kek_epoch=optional(INTS),
            wrapped=optional(BLOBS),
        ),
    ),
)
DEAD_LETTERS = st.builds(
    DeadLetter,
    topic=TEXT,
    partition=INTS,
    generation=INTS,
    offset=LONGS,
    timestamp=SIGNED,
    reason=TEXT,
    field=TEXT,
    message=TEXT,
    organization=optional(TEXT),
    asset=optional(TEXT),
    event_id=optional(TEXT),
    request_id=optional(TEXT),
    value_size=INTS,
    value_sha256=HASHES,
)
RECORDS = {
    "AssetEvent": EVENTS,
    "AssetRecord": ASSET_RECORDS,
    "KeyRecord": KEY_RECORDS,
    "PolicyChange": CHANGES,
    "PolicyRecord": POLICY_RECORDS,
    "Claim": CLAIMS,
    "Entitlement": ENTITLEMENTS,
    "Service": SERVICES,
    "Credential": CREDENTIALS,
    "DeadLetter": DEAD_LETTERS,
    "OwnerRequest": st.builds(
        OwnerRequest,
        organization=ORGANIZATIONS,
        asset=ASSETS,
        kind=st.sampled_from(RequestKind),
        kek_epoch=optional(INTS),
        generation=INTS,
        offsets=st.lists(LONGS, max_size=5).map(tuple),
        request_id=TEXT,
        requested=TIMES,
    ),
    "RepairRequest": st.builds(
        RepairRequest,
        topic=TEXT,
        partition=INTS,
        generation=INTS,
        offsets=st.lists(LONGS, max_size=5).map(tuple),
        refused=st.lists(LONGS, max_size=5).map(tuple),
        request_id=TEXT,
        requested=TIMES,
    ),
    "ProgramReport": st.builds(
        ProgramReport,
        program=TEXT,
        instance=TEXT,
        version=TEXT,
        started=TIMES,
        at=TIMES,
        stopped=optional(TIMES),
        waits_for=optional(TEXT),
        behind=LONGS,
        staleness_ms=LONGS,
        progress=st.lists(
            st.builds(
                TopicProgress,
                topic=TEXT,
                positions=st.lists(st.builds(PartitionPosition, partition=INTS, position=LONGS), max_size=3).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        keks=st.lists(
            st.builds(KekEpochs, organization=ORGANIZATIONS, epochs=st.lists(INTS, max_size=3).map(tuple)), max_size=2
        ).map(tuple),
    ),
    "AuditSummary": st.builds(
        AuditSummary,
        at=TIMES,
        took_ms=LONGS,
        clean=st.booleans(),
        differences=LONGS,
        events=LONGS,
        assets=LONGS,
        key_records=LONGS,
        policies=LONGS,
    ),
    "AuditEvent": st.builds(
        AuditEvent,
        at=TIMES,
        program=TEXT,
        instance=TEXT,
        sequence=LONGS,
        request_id=TEXT,
        what=TEXT,
        granted=st.booleans(),
        reason=TEXT,
        drm_system=TEXT,
        organization=ORGANIZATIONS,
        asset=ASSETS,
        kids=st.lists(KIDS, max_size=3).map(tuple),
        key_versions=st.lists(INTS, max_size=2).map(tuple),
        policy_id=optional(LONGS),
        policy_version=optional(st.integers(0, MAX_INT)),
        user=TEXT,
        caller=TEXT,
        client=TEXT,
        event=optional(st.builds(EventPlace, topic=TEXT, partition=INTS, generation=INTS, offset=LONGS)),
    ),
}
IDENTITIES = st.builds(
    KeyIdentity,
    organization=ORGANIZATIONS,
    asset=ASSETS,
    key_version=INTS,
    period=optional(LONGS),
    scheme=SCHEMES,
    label=LABEL | st.just("*"),
    root_version=INTS,
    salt=optional(SALTS),
)
