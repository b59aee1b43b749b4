"""The REST interface over a controller that answers as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from anabranch_controller import errors
from anabranch_controller.api import GroupReply, Page, ScaleHistory, SegmentHistory
from anabranch_controller.entrypoints.rest import rest_app
from anabranch_controller.entrypoints.rest_server import RestServer
from anabranch_events.model import RetentionPolicy, ScalingPolicy, StreamConfig
from anabranch_kit.run import CannotStart

FIXED = {"type": "FIXED_NUM_SEGMENTS", "minSegments": 1}
STREAM = "/v1/scopes/s/streams/x"


def _health() -> dict[str, bool]:
    return {"GRPCServer": True, "eventProcessor": False}


@pytest.fixture
async def client(controller: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(rest_app(controller, _health))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def _answer(response: httpx.Response) -> tuple[int, Any]:
    is_json = response.headers.get("content-type") == "application/json"
    return response.status_code, response.json() if is_json else response.text


async def test_ping_has_no_body(client: httpx.AsyncClient) -> None:
    """Load balancers ask this path."""
    assert _answer(await client.get("/ping")) == (200, "")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("SUCCESS", (201, {"scopeName": "s"})), ("SCOPE_EXISTS", (409, "")), ("FAILURE", (500, ""))],
)
async def test_scope_is_created(
    controller: Any, client: httpx.AsyncClient, outcome: str, expected: tuple[int, Any]
) -> None:
    """Scripts tell a new scope from an old one by the code alone."""
    controller.answers["create_scope"] = outcome
    body = {"scopeName": "s", "other": 1}
    assert _answer(await client.post("/v1/scopes", json=body)) == expected


@pytest.mark.parametrize("name", ["_x", "a_b", "a b", "", None, "_system", "a" * 256])
async def test_names_that_users_may_not_give_are_refused(
    client: httpx.AsyncClient, name: str | None
) -> None:
    """Internal names through REST would collide with the system's own streams."""
    response = await client.post("/v1/scopes", json={"scopeName": name})
    assert response.status_code == 400
    body = {"streamName": name, "scalingPolicy": FIXED}
    assert (await client.post("/v1/scopes/s/streams", json=body)).status_code == 400


@pytest.mark.parametrize("body", [b'{"scopeName": ', b"[]", b"", b'{"scopeName": 5}'])
async def test_broken_body_is_the_callers_mistake(client: httpx.AsyncClient, body: bytes) -> None:
    """A 500 would send an operator looking for a fault in the server."""
    response = await client.post("/v1/scopes", content=body)
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert "request body" in response.text


async def test_only_json_goes_in_and_out(client: httpx.AsyncClient) -> None:
    """As recorded: 415 for another body, 406 for another answer."""
    text = await client.post("/v1/scopes", content="x", headers={"Content-Type": "text/plain"})
    assert _answer(text) == (415, "")
    xml = await client.get("/v1/scopes", headers={"Accept": "application/xml"})
    assert _answer(xml) == (406, "")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/scopes/s/nonsense", 404),
        ("PUT", "/v1/scopes", 405),
        ("PATCH", "/v1/scopes/s", 405),
        ("GET", "/v1/scopes/s/streams/x/state", 405),
        ("POST", "/ping", 405),
    ],
)
async def test_odd_paths_and_methods_have_no_body(
    client: httpx.AsyncClient, method: str, path: str, code: int
) -> None:
    """A framework's own error page would be taken for an answer."""
    assert _answer(await client.request(method, path)) == (code, "")


async def test_slash_at_the_end_is_accepted(controller: Any, client: httpx.AsyncClient) -> None:
    """As recorded; scripts paste paths together."""
    controller.answers["list_scopes"] = [Page("SUCCESS", ("s",), "s"), Page("SUCCESS", (), "s")]
    expected = (200, {"scopes": [{"scopeName": "s"}]})
    assert _answer(await client.get("/v1/scopes/")) == expected


async def test_stream_is_created_and_shown_as_recorded(
    controller: Any, client: httpx.AsyncClient
) -> None:
    """What has no value is left out of the reply, and numbers may come as text."""
    controller.answers["create_stream"] = "SUCCESS"
    body = {
        "streamName": "x",
        "scalingPolicy": {"type": "FIXED_NUM_SEGMENTS", "minSegments": "2"},
        "streamTags": ["b", "a"],
        "nonsense": 1,
    }
    expected = {
        "scopeName": "s",
        "streamName": "x",
        "scalingPolicy": {"type": "FIXED_NUM_SEGMENTS", "minSegments": 2},
        "tags": ["b", "a"],
        "timestampAggregationTimeout": 0,
        "rolloverSizeBytes": 0,
    }
    assert _answer(await client.post("/v1/scopes/s/streams", json=body)) == (201, expected)
    config = StreamConfig(scaling=ScalingPolicy(min_segments=2), tags=("b", "a"))
    assert controller.calls == [("create_stream", ("s", "x", config), {})]


@pytest.mark.parametrize(
    ("asked", "policy", "shown"),
    [
        (
            {"type": "LIMITED_DAYS", "value": 3},
            RetentionPolicy("time", 259_200_000),
            {
                "type": "LIMITED_DAYS",
                "value": 3,
                "timeBasedRetention": {"days": 3, "hours": 0, "minutes": 0},
            },
        ),
        (
            {
                "type": "LIMITED_DAYS",
                "value": 0,
                "timeBasedRetention": {"days": 1, "hours": 2, "minutes": 3},
            },
            RetentionPolicy("time", 93_780_000),
            {
                "type": "LIMITED_DAYS",
                "value": 0,
                "timeBasedRetention": {"days": 1, "hours": 2, "minutes": 3},
            },
        ),
        (
            {"type": "LIMITED_SIZE_MB", "value": 7, "maxValue": 9},
            RetentionPolicy("size", 7_340_032, 9_437_184),
            {"type": "LIMITED_SIZE_MB", "value": 7},
        ),
    ],
)
async def test_retention_is_translated_both_ways(
    controller: Any,
    client: httpx.AsyncClient,
    asked: dict[str, Any],
    policy: RetentionPolicy,
    shown: dict[str, Any],
) -> None:
    """A unit off by a factor would delete a stream's data years too early."""
    controller.answers["update_stream"] = "SUCCESS"
    body = {"scalingPolicy": FIXED, "retentionPolicy": asked}
    _, reply = _answer(await client.put(STREAM, json=body))
    assert reply["retentionPolicy"] == shown
    assert controller.calls[0][1][2].retention == policy


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scalingPolicy": None}, "scalingPolicy"),
        ({"scalingPolicy": {}}, "scalingPolicy.type"),
        ({"scalingPolicy": {"type": "NONSENSE", "minSegments": 1}}, "FIXED_NUM_SEGMENTS"),
        ({"scalingPolicy": {"type": "FIXED_NUM_SEGMENTS"}}, "minSegments"),
        ({"scalingPolicy": {"type": "FIXED_NUM_SEGMENTS", "minSegments": 0}}, "minSegments"),
        (
            {"scalingPolicy": {"type": "BY_RATE_IN_EVENTS_PER_SEC", "minSegments": 1}},
            "targetRate",
        ),
        ({"retentionPolicy": {}}, "retentionPolicy.type"),
        ({"retentionPolicy": {"type": "LIMITED_DAYS"}}, "retentionPolicy.value"),
    ],
)
async def test_bad_policy_is_named(
    client: httpx.AsyncClient, change: dict[str, Any], named: str
) -> None:
    """The reply says which member is wrong, so that the caller can mend it."""
    response = await client.put(STREAM, json={"scalingPolicy": FIXED} | change)
    assert response.status_code == 400
    assert named in response.text


async def test_list_shows_users_streams_and_internal_ones_on_request(
    controller: Any, client: httpx.AsyncClient
) -> None:
    """The companions of every stream would double the list."""

    async def page() -> Page:
        token = controller.calls[-1][1][-1]
        return Page("SUCCESS", () if token else ("_MARKx", "x"), "x")

    controller.answers |= {"scope_exists": True, "list_streams": page}
    controller.answers["stream_configuration"] = StreamConfig()
    _, shown = _answer(await client.get("/v1/scopes/s/streams"))
    assert [one["streamName"] for one in shown["streams"]] == ["x"]
    _, shown = _answer(await client.get("/v1/scopes/s/streams?filter_type=showInternalStreams"))
    assert [one["streamName"] for one in shown["streams"]] == ["_MARKx"]
    _, shown = _answer(await client.get("/v1/scopes/s/streams?filter_type=nonsense"))
    assert [one["streamName"] for one in shown["streams"]] == ["x"]


async def test_stream_that_vanishes_while_it_is_listed_is_left_out(
    controller: Any, client: httpx.AsyncClient
) -> None:
    """Deleting one stream must not fail the list of all others."""
    controller.answers |= {
        "scope_exists": True,
        "list_streams": [Page("SUCCESS", ("gone", "x"), "x"), Page("SUCCESS", (), "x")],
        "stream_configuration": [errors.NotFound("stream", "s/gone"), StreamConfig()],
    }
    _, shown = _answer(await client.get("/v1/scopes/s/streams"))
    assert len(shown["streams"]) == 1


async def test_state_can_only_be_sealed(controller: Any, client: httpx.AsyncClient) -> None:
    """Any other state is not a user's to set."""
    controller.answers["seal_stream"] = "SUCCESS"
    sealed = {"streamState": "SEALED"}
    assert _answer(await client.put(f"{STREAM}/state", json=sealed)) == (200, sealed)
    assert _answer(await client.put(f"{STREAM}/state", json={"streamState": "ACTIVE"}))[0] == 400
    assert _answer(await client.put(f"{STREAM}/state", json={}))[0] == 400


async def test_scaling_events_are_a_bare_array(controller: Any, client: httpx.AsyncClient) -> None:
    """As recorded, whatever Pravega's own description promises."""
    segment = SegmentHistory(number=1, epoch=0, created_ms=7, low=0.5, high=1.0)
    controller.answers["scaling_events"] = (ScaleHistory(7, (segment,), 0, 0),)
    expected = [
        {
            "timestamp": 7,
            "segments": [{"number": 1, "epoch": 0, "start": 7, "keyStart": 0.5, "keyEnd": 1.0}],
            "splits": 0,
            "merges": 0,
        }
    ]
    assert _answer(await client.get(f"{STREAM}/scaling-events?from=0&to=9")) == (200, expected)
    assert controller.calls == [("scaling_events", ("s", "x", 0, 9), {})]


@pytest.mark.parametrize(
    ("query", "code"),
    [("from=5&to=1", 400), ("from=-5&to=1", 400), ("from=0", 400), ("", 400), ("from=a&to=b", 404)],
)
async def test_senseless_times_are_refused(
    client: httpx.AsyncClient, query: str, code: int
) -> None:
    """As recorded."""
    assert _answer(await client.get(f"{STREAM}/scaling-events?{query}")) == (code, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("stream", "s/x"), 404),
        (errors.IllegalState("s/x", "creating", "wait"), 412),
        (errors.Conflict("s/x", 3), 409),
        (errors.Unavailable("event log", "away"), 503),
        (errors.Timeout("update of s/x", 120), 504),
        (KeyError("secret"), 500),
    ],
)
async def test_each_error_has_its_code_and_keeps_insides_here(
    controller: Any, client: httpx.AsyncClient, error: Exception, code: int
) -> None:
    """A client must be able to tell its own mistake from a passing trouble and from our bug."""
    controller.answers["stream_configuration"] = error
    response = await client.get(STREAM)
    assert response.status_code == code
    assert "secret" not in response.text


async def test_reader_groups_are_listed_without_their_prefix(
    controller: Any, client: httpx.AsyncClient
) -> None:
    """The member is missing when there is none, as recorded."""
    controller.answers |= {
        "scope_exists": True,
        "list_streams": [Page("SUCCESS", ("_RGg", "x"), "x"), Page("SUCCESS", (), "x")],
        "reader_group": GroupReply("RG_NOT_FOUND", None),
    }
    path = "/v1/scopes/s/readergroups"
    assert _answer(await client.get(path)) == (200, {"readerGroups": [{"readerGroupName": "g"}]})
    assert _answer(await client.get(path)) == (200, {})
    assert _answer(await client.get(f"{path}/none")) == (404, "")
    assert _answer(await client.delete(f"{path}/none")) == (404, "")


async def test_health_names_the_part_that_does_not_work(client: httpx.AsyncClient) -> None:
    """A probe on the whole must fail when one part does, and say which."""
    _, whole = _answer(await client.get("/v1/health"))
    assert (whole["name"], whole["status"], whole["readiness"]) == ("", "DOWN", False)
    assert whole["children"]["eventProcessor"]["status"] == "DOWN"
    assert _answer(await client.get("/v1/health/GRPCServer"))[1]["status"] == "UP"
    assert _answer(await client.get("/v1/health/status/GRPCServer")) == (200, "UP")
    assert _answer(await client.get("/v1/health/readiness/eventProcessor")) == (200, False)
    assert _answer(await client.get("/v1/health/liveness/")) == (200, True)
    assert _answer(await client.get("/v1/health/details")) == (200, {})
    assert _answer(await client.get("/v1/health/none")) == (404, "")


async def test_server_listens_stops_and_names_a_taken_port(controller: Any) -> None:
    """Two clusters on one port would answer in turns."""
    controller.answers["scope_exists"] = True
    server = RestServer()
    port = server.bind("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(rest_app(controller, _health)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        response = await client.get("/v1/scopes/s")
    assert json.loads(response.content) == {"scopeName": "s"}
    second = RestServer()
    with pytest.raises(CannotStart, match=f"127.0.0.1:{port}.*--rest-port"):
        second.bind("127.0.0.1", port)
    await second.stop()
    await server.stop()
    await serving
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/ping")
