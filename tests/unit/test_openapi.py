"""The OpenAPI documents: the proxy's says what routes, dialects and refusals are, the gateway's what it was told."""

import json
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from keymill.gateway import openapi as gateway_openapi
from keymill.gateway import openapi_policies
from keymill.http.openapi import page
from keymill.proxy import openapi
from keymill.proxy.dialects import firstlight
from keymill.proxy.request import STATUS, Reason
from keymill.proxy.routes import ROUTES, LicenseRoute
from tests.proxy_rig import ProxyRig, challenge

DOCUMENT = openapi.document()
HEALTH = {"/healthz", "/readyz"}
by_path = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """A proxy in process."""
    made = ProxyRig(tmp_path_factory.mktemp("proxy"))
    yield made
    made.close()


def statuses(route: LicenseRoute) -> dict[Reason, int]:
    """The status of each reason, from the tables and not from the document's maker."""
    if route.dialect is firstlight:
        return {reason: firstlight.ERRORS.get(reason, firstlight.FORBIDDEN)[2] for reason in Reason}
    return STATUS


def test_every_route_is_in_the_document() -> None:
    """Path and method of the table, the health endpoints, and nothing besides."""
    told = {(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert {(route.path, route.method.lower()) for route in ROUTES} | {(path, "get") for path in HEALTH} == told


@by_path
def test_every_reasons_status_is_documented(route: LicenseRoute) -> None:
    """Each reason stands at its status, in words and with a body; beside them only a license and the head's limit."""
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    for reason, status in statuses(route).items():
        assert reason.value in responses[str(status)]["description"].split(", ")
        assert responses[str(status)]["content"]
    assert {"200", "431", *map(str, statuses(route).values())} == set(responses)


@by_path
def test_path_query_and_token_are_described(route: LicenseRoute) -> None:
    """Every named part is a parameter, no parameter stands twice, the token is a security scheme of query or header."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    named = [(each["in"], each["name"]) for each in operation["parameters"]]
    assert {("path", name) for name in re.findall(r"{(\w+)}", route.path)} <= set(named) and len(set(named)) == len(
        named
    )
    (scheme,), (bearer,) = operation["security"]
    assert {"type": "http", "scheme": "bearer"} == DOCUMENT["components"]["securitySchemes"][bearer]
    assert {"type": "apiKey", "in": "query", "name": scheme} == DOCUMENT["components"]["securitySchemes"][scheme]
    assert (route.method == "POST") == ("requestBody" in operation)


def test_references_lead_somewhere() -> None:
    """Every schema that is named is there, and none is there that nobody names."""
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT)))
    assert named == set(DOCUMENT["components"]["schemas"])


def test_document_and_page_are_served(rig: ProxyRig) -> None:
    """Both for any origin; the page names every path and fetches nothing."""
    answer = rig.request("GET", "/openapi.json")
    assert (200, "application/json", "*") == (
        answer.status_code, answer.headers["content-type"], answer.headers["access-control-allow-origin"]
    )  # fmt: skip
    assert DOCUMENT == answer.json()
    shown = rig.request("GET", "/docs")
    assert (200, page(DOCUMENT)) == (shown.status_code, shown.text)
    assert all(route.path in shown.text for route in ROUTES)
    assert "<script" not in shown.text and "http" not in shown.text
    assert 405 == rig.request("POST", "/openapi.json").status_code


def test_documented_query_is_the_one_that_is_read(rig: ProxyRig) -> None:
    """A ClearKey license over every POST route, asked with the documented names alone."""
    rig.ingest("film", "SD")
    rig.put_service()
    values = {"organization": "demo", "asset": "film", "drm": "clearkey", "drm_type": "clearkey", "service": "demo"}
    values |= {"version": "1.0", "kid": rig.kid("film", "SD").hex()}
    clearkey = [route for route in ROUTES if route.method == "POST" and not re.match("/(wide|play|fair)", route.path)]
    for route in clearkey:
        told = DOCUMENT["paths"][route.path]["post"]
        query = {each["name"]: values[each["name"]] for each in told["parameters"] if each["in"] == "query"}
        (token,), _bearer = told["security"]
        answer = rig.request(
            "POST", route.path.format_map(values), params={**query, token: rig.token("film")},
            content=challenge(rig.kid("film", "SD")),
        )  # fmt: skip
        assert rig.kid("film", "SD") in rig.keys_of(answer)
        assert {answer.headers["content-type"], "*/*"} & set(told["responses"]["200"]["content"])
    assert 4 == len(clearkey)


def test_answer_without_a_body_stays_in_the_gateways_document() -> None:
    """What FastAPI adds by itself goes, and nothing that we say: neither 204 without content, nor our own 422."""

    async def handler(organization: str) -> Response:
        raise NotImplementedError

    for extra in (openapi_policies.disentitling(), openapi_policies.deleting(), gateway_openapi.packaging()):
        app, wanted = FastAPI(), set(extra["responses"])
        app.add_api_route(
            "/{organization}", handler, methods=["DELETE"], response_class=Response, response_model=None,
            openapi_extra=extra, summary="",
        )  # fmt: skip
        told = gateway_openapi.completed(app.openapi)()["paths"]["/{organization}"]["delete"]["responses"]
        assert wanted | {"431"} == set(told)
        assert "HTTPValidationError" not in str(told)
