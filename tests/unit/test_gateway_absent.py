"""Whatever the gateway's view lacks is unknown only while the view is live; else it is 503, and asked again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from keymill.errors import KeymillError, NotReady
from keymill.gateway.assignment import policy_to_assign
from keymill.gateway.auth import admit
from keymill.gateway.dialects.naver import Signed
from keymill.gateway.dialects.naver_route import NaverApi
from keymill.gateway.dialects.widevine import Envelope, Refusal
from keymill.gateway.dialects.widevine_route import WidevineDoor
from keymill.gateway.policies import Policies
from keymill.gateway.service import Service
from keymill.gateway.waiting import Waiter
from keymill.http.health import Readiness
from keymill.snapshot.confirmation import Confirmation
from tests.followed_view import Followed


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    made.beat()
    made.reader.open(wait_s=0)
    yield made
    made.close()


def service_over(followed: Followed) -> Service:
    """A gateway's parts that only look at the view; it has published nothing."""
    nothing: Any = None
    intake: Any = SimpleNamespace(last=lambda *_: None)
    return Service(
        nothing, followed.reader, intake, intake, nothing, nothing, Waiter(followed.reader), nothing,
        Readiness(lambda: None), nothing, nothing, Confirmation(followed.reader),
    )  # fmt: skip


async def api_key(service: Service) -> None:
    """An API key that nobody has seen."""
    headers = [(b"authorization", b"Bearer km_" + b"k" * 43)]
    await admit(service, Request({"type": "http", "headers": headers}), "demo")


async def access_key(service: Service) -> None:
    """NAVER's, with a signature."""
    now = str(time.time_ns() // 1_000_000)
    NaverApi(service)._organization(Signed(method="GET", target=b"/", timestamp=now, access_key="later", signature="x"))


async def signer(service: Service) -> None:
    """A packager's."""
    WidevineDoor(service)._verify("demo", Envelope(request=b"{}", signature=b"x" * 20, signer="later"))


ABSENT: dict[str, tuple[Callable[[Service], Awaitable[object]], str, bool]] = {
    "asset": (lambda service: service.known("demo", "film"), "unknown_asset", True),
    "asset to rotate": (lambda service: service.next_version("demo", "film"), "unknown_asset", True),
    "policy": (lambda service: Policies(service).one("demo", 7), "policy_unknown", True),
    "policy to assign": (lambda service: policy_to_assign(service, "demo", 7), "policy_unknown", True),
    "API key": (api_key, "unauthorized", True),
    "access key": (access_key, "unauthorized", False),
    "signer": (signer, "SIGNATURE_FAILED", False),
}
"""What is asked for, the code of the final refusal, and whether the follower's next sign of life is waited for."""


@pytest.mark.parametrize("what", ABSENT)
def test_what_the_view_lacks_is_unknown_only_while_it_is_live(followed: Followed, what: str) -> None:
    """Live: the final refusal. Brokers away, or a follower that died a moment ago: not ready, which may be retried."""
    ask, code, waits = ABSENT[what]

    async def refusal(*, beating: bool) -> str:
        service, ended = service_over(followed), asyncio.Event()

        async def beat() -> None:
            while not ended.is_set():
                followed.beat()
                await asyncio.sleep(0.02)

        alive = asyncio.create_task(beat()) if beating else None
        try:
            await ask(service)
        except NotReady as error:
            return error.code
        except Refusal as error:
            return "not_ready" if "not ready" in str(error) else error.status
        except KeymillError as error:
            return error.code
        finally:
            ended.set()
            if alive:
                await alive
        return "answered"

    assert code == asyncio.run(refusal(beating=True))
    followed.beat()
    assert followed.reader.state().live
    assert ("not_ready" if waits else code) == asyncio.run(refusal(beating=False))
    followed.beat(live=False)
    assert "not_ready" == asyncio.run(refusal(beating=False))
