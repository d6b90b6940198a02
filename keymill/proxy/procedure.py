"""The license procedure: one request from its bytes to its answer (ARCHITECTURE.md, step 8)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import Counter

from keymill import telemetry
from keymill.drm import widevine
from keymill.proxy import audit, named_keys, steps
from keymill.proxy.auth import Tokens
from keymill.proxy.keys import ProxyKeys
from keymill.proxy.request import Answer, Dialect, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.single_use import UsedTokens
from keymill.proxy.terms import Caller, Terms
from keymill.proxy.upstream.contract import Asked, Granted, Upstream, Upstreams
from keymill.proxy.upstream.hls import ClearHls
from keymill.proxy.waiting import Waiting
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import ViewState
from keymill.trail.recorder import Recorder
from schemas.values import DrmSystem

_CLEAR_HLS: Final = ClearHls()
_AWAITED: Final = frozenset({Reason.UNKNOWN_ASSET, Reason.UNKNOWN_KID})
"""What the view may be about to learn; whatever else it lacks is not waited for."""
_USED: Final = Refusal(reason=Reason.TOKEN_USED, message="the token was used already: it is good for one license")


def wall_clock_ms() -> int:
    """Now, epoch ms."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a worker answers with. Nothing in it but a license server asks another machine."""

    reader: SnapshotReader
    tokens: Tokens
    keys: ProxyKeys
    upstreams: Upstreams
    used: UsedTokens
    audit: Recorder
    waiting: Waiting
    terms: Terms
    max_staleness_s: int = 0
    now_ms: Callable[[], int] = field(default=wall_clock_ms)


class Certificate(NamedTuple):
    """What a service-certificate request comes to: no asset, no key, and no use of the token."""

    upstream: Upstream


class License(NamedTuple):
    """What a license request comes to, and who makes the license."""

    granted: Granted
    upstream: Upstream


Decided = License | Certificate | Refusal


async def answer(dialect: Dialect, raw: RawRequest, state: ViewState, means: Means) -> Response:
    """
    Answer one license request; *state* is the view's as the request arrived.

    1. The dialect parses path, query and body, whose sizes the route has limited; a service configuration stands
       for organization and DRM system.
    2. Authenticate the player's token, whose organization the path's or the service's must be. A Widevine player's
       first request, for the license server's certificate, needs no more: (9).
    3. Find the asset by id or KID, in the token's organization alone.
    4. Business rules: the token's claims, asset state, availability window, entitlement where one is required.
    5. Policy: the asset's (0 is the organization's default), with a server-side caller's overrides, tightened by
       service, token and player.
    6. Which tracks' keys: those asked for that policy and token allow; live, of the current and the next period, and of
       what has no clock the periods that the request names, or the newest. No other key record is read.
    7. Unwrap.
    8. Build the license server's request, or the ClearKey license.
    9. Forward it where there is a license server; a single-use token is used up by the license that comes of it.
    10. Return the license unmodified.
    11. Audit, without secrets.
    """
    # (1)
    request = dialect.parse(raw)
    if isinstance(request, Refusal):
        means.audit.note(audit.unread(request, raw.client, means.now_ms()))
        return dialect.respond(request)
    # (2) to (7)
    decided = await _decide_in_time(request, state, means)
    # (8) (9)
    outcome = decided if isinstance(decided, Refusal) else await _forward(request, decided, means)
    # (11) stands before (10), since nothing follows a return
    granted = decided.granted if isinstance(decided, License) else None
    line = audit.licensed(request, granted, outcome, means.tokens.verified(request.token), means.now_ms())
    means.audit.note(line)
    _counter(line.drm_system, line.reason).inc()
    # (10)
    return dialect.respond(outcome)


def decide(  # noqa: PLR0911, PLR0912 every step may refuse
    request: LicenseRequest, means: Means
) -> Decided:
    """Steps (2) to (7) of `answer`, on one state of the view."""
    now_ms = means.now_ms()
    with means.reader.at_once() as view:
        # (1)
        found = steps.services(request, view)
        if isinstance(found, Refusal):
            return found
        # (2)
        if not request.token:
            return steps.token_missing(request.token_name)
        claims = means.tokens.authenticate(request.token, find=view.credential, now_ms=now_ms, client=request.client)
        if isinstance(claims, Refusal):
            return claims
        if claims.jti is not None and means.used.was_used(claims.organization, claims.jti):
            return _USED
        aim = steps.aim(request, claims, found)
        if isinstance(aim, Refusal):
            return aim
        organization = steps.organization_of(claims, view)
        if isinstance(organization, Refusal):
            return organization
        drm_system = aim.drm_system
        find = means.upstreams.find
        upstream = _CLEAR_HLS if request.hls else find(claims.organization, drm_system, aim.upstream)
        if drm_system is DrmSystem.WIDEVINE and widevine.asks_certificate(request.challenge):
            return Certificate(upstream) if upstream else steps.no_license_server(drm_system)
        # (3)
        asset = steps.find_asset(request, claims.organization, view)
        if isinstance(asset, Refusal):
            return asset
        # (4) (5)
        caller = Caller(claims, organization, aim.limits)
        terms = means.terms.grant(request, asset, caller, view, now_ms)
        if isinstance(terms, Refusal):
            return terms
        # (6)
        grant, version = terms
        if upstream is None:
            return steps.no_license_server(drm_system)
        asked = upstream.read(request.challenge)
        if isinstance(asked, Refusal):
            return asked
        if request.kid is not None:
            asked = Asked(kids=None, persistent=asked.persistent)
        named = steps.named_periods(request, asset, view) if asked.kids is None else ()
        chosen = steps.choose(asset, asked, grant, view, clear=request.hls, named=named)
        if isinstance(chosen, Refusal):
            return chosen
        # (7)
        keys = steps.unwrap(chosen, means.keys)
        if request.message is not None and not isinstance(keys, Refusal):
            injected = request.message.injected
            keys = named_keys.strange_key(injected, claims, asset, view, means.keys, now_ms) or keys
    if isinstance(keys, Refusal):
        return keys
    granted = Granted(
        drm_system=drm_system, claims=claims, asset=asset, policy=grant.policy, policy_version=version, keys=keys,
        challenge=request.challenge, persistent=asked.persistent, upstream=aim.upstream,
        parse_only=request.parse_only, provider=organization.provider or claims.organization,
    )  # fmt: skip
    return License(granted, upstream)


async def _decide_in_time(request: LicenseRequest, state: ViewState, means: Means) -> Decided:
    """
    `decide`, again at each change of a caught-up view that lacks the asset: its tail may be about to bring it.

    What the view lacks at last does not exist only if its follower has said since that the view is live.
    """
    decided = _decide_now(request, state, means)
    if not isinstance(decided, Refusal) or not decided.absent:
        return decided
    began, deadline = time.monotonic(), means.waiting.deadline()
    while True:
        since, now = means.reader.txn_id(), means.reader.state()
        decided = _decide_now(request, now, means)
        if not isinstance(decided, Refusal) or not decided.absent:
            return decided
        if now.live and decided.reason in _AWAITED and await means.waiting.changed(since, deadline):
            continue
        if decided.reason is Reason.TOKEN_INVALID:  # no wait: how long a refusal takes must not tell which keys exist
            return decided if now.live else steps.BEHIND
        return decided if await means.waiting.confirmed(began) else steps.BEHIND


def _decide_now(request: LicenseRequest, state: ViewState, means: Means) -> Decided:
    return steps.readiness(state, means.max_staleness_s) or decide(request, means)


@lru_cache(maxsize=256)
def _counter(drm_system: str, outcome: str) -> Counter:
    return telemetry.LICENSES.labels(drm_system or "unknown", outcome)


async def _forward(request: LicenseRequest, decided: License | Certificate, means: Means) -> Answer | Refusal:
    """The license or the certificate; a single-use token is used up by a license alone."""
    if isinstance(decided, Certificate):
        return await decided.upstream.certificate(request.challenge)
    outcome = await decided.upstream.license(decided.granted)
    claims = decided.granted.claims
    if claims.jti is None or request.parse_only or isinstance(outcome, Refusal):
        return outcome
    return outcome if await means.used.use(claims.organization, claims.jti, claims.exp_ms) else _USED
