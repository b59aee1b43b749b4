"""The gRPC server over a controller that answers as told, reached through a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from anabranch_controller import errors
from anabranch_controller.api import Endpoint, Page, ScaleReply
from anabranch_controller.entrypoints.grpc_edge import trouble_of
from anabranch_controller.entrypoints.grpc_server import SERVICE_NAME, GrpcServer
from anabranch_controller.entrypoints.grpc_service import GrpcService
from anabranch_events.model import SegmentRange
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.run import CannotStart
from anabranch_rpc import controller_pb2 as pb
from anabranch_rpc import controller_pb2_grpc
from anabranch_rpc.statuses import Trouble
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

STREAM = pb.StreamInfo(scope="s", stream="x")


async def _endpoints() -> list[Endpoint]:
    return [Endpoint("127.0.0.1", 9090), Endpoint("127.0.0.2", 9091)]


@pytest.fixture
async def channel(controller: Any) -> AsyncIterator[grpc.aio.Channel]:
    service = GrpcService(controller, _endpoints)
    server = GrpcServer(clock=SystemClock(), instance="here", hold_s=1.0)
    port = server.bind("127.0.0.1", 0)
    await server.start(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop()


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return controller_pb2_grpc.ControllerServiceStub(channel)


async def _code(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_outcome_travels_in_band(controller: Any, stub: Any) -> None:
    """A scope that exists is an answer, not an error: clients return False for it."""
    controller.answers["create_scope"] = "SCOPE_EXISTS"
    reply = await stub.createScope(pb.ScopeInfo(scope="s"))
    assert reply.status == pb.CreateScopeStatus.SCOPE_EXISTS
    assert controller.calls == [("create_scope", ("s",), {})]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("stream", "s/x"), grpc.StatusCode.NOT_FOUND),
        (errors.InvalidArgument("epoch", "is negative"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.IllegalState("s/x", "sealed", "no more"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.IllegalState("s/x", "creating", "wait"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Conflict("s/x", 5), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Timeout("scale of s/x", 120), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_each_error_has_its_code(
    controller: Any, stub: Any, error: Exception, code: grpc.StatusCode
) -> None:
    """The code alone decides whether a client gives up at once or retries for a minute."""
    controller.answers["current_segments"] = error
    assert await _code(stub.getCurrentSegments(STREAM)) == (code, str(error))


async def test_a_bug_is_internal_and_keeps_its_text_here(controller: Any, stub: Any) -> None:
    """A client must not learn our insides, and the server must go on."""
    controller.answers["current_segments"] = KeyError("secret")
    code, text = await _code(stub.getCurrentSegments(STREAM))
    assert (code, text) == (grpc.StatusCode.INTERNAL, "internal error")
    controller.answers["current_segments"] = ()
    assert not (await stub.getCurrentSegments(STREAM)).segmentRanges


async def test_call_is_held_while_a_dependency_restarts(controller: Any, stub: Any) -> None:
    """A client that is refused comes back after eleven seconds; one that is held, at once."""
    away = errors.Unavailable("event log", "connecting")
    controller.answers["scope_exists"] = [away, away, True]
    assert (await stub.checkScopeExists(pb.ScopeInfo(scope="s"))).exists
    assert len(controller.calls) == 3


async def test_holding_ends(controller: Any, stub: Any) -> None:
    """A dependency that stays away must not hang a client for ever."""
    controller.answers["scope_exists"] = errors.Unavailable("event log", "connecting")
    code, _ = await _code(stub.checkScopeExists(pb.ScopeInfo(scope="s")))
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_logs_of_a_call_carry_its_request_id(controller: Any, stub: Any) -> None:
    """Java sends an id with each call; without it nobody finds the call in the server's log."""
    bound: list[dict[str, Any]] = []

    async def note() -> bool:
        bound.append(structlog.contextvars.get_contextvars())
        return True

    controller.answers["scope_exists"] = note
    request = pb.ScopeInfo(scope="s")
    await stub.checkScopeExists(request, metadata=[("requestid", "-42")])
    await stub.checkScopeExists(request)
    await stub.checkScopeExists(request)
    assert [one["rpc"] for one in bound] == ["checkScopeExists"] * 3
    given, first, second = (one["request_id"] for one in bound)
    assert given == "-42"
    assert first.startswith("here-")
    assert first != second


EMPTY_IS_FINE = {"getDelegationToken", "listScopes", "getControllerServerList"}
NOT_OFFERED = {"getControllerToBucketMapping"}
RPCS = pb.DESCRIPTOR.services_by_name["ControllerService"].methods


@pytest.mark.parametrize("name", [m.name for m in RPCS if m.name not in EMPTY_IS_FINE])
async def test_request_without_names_is_a_bad_argument(stub: Any, name: str) -> None:
    """A request with every field left out must be refused, and never retried for a minute."""
    method = next(method for method in RPCS if method.name == name)
    request = getattr(pb, method.input_type.name)()
    code, _ = await _code(getattr(stub, name)(request))
    offered = name not in NOT_OFFERED
    expected = grpc.StatusCode.INVALID_ARGUMENT if offered else grpc.StatusCode.UNIMPLEMENTED
    assert code is expected


async def test_listing_ends_with_an_empty_page_that_has_a_token(controller: Any, stub: Any) -> None:
    """Without the token message the Python client drops the page and shows an empty list."""
    controller.answers["list_streams"] = [
        Page("SUCCESS", ("a", "b"), "b"),
        Page("SUCCESS", (), "b"),
    ]
    request = pb.StreamsInScopeRequest(scope=pb.ScopeInfo(scope="s"))
    first = await stub.listStreamsInScope(request)
    assert [info.stream for info in first.streams] == ["a", "b"]
    request.continuationToken.token = first.continuationToken.token
    second = await stub.listStreamsInScope(request)
    assert not second.streams
    assert second.HasField("continuationToken")
    assert controller.calls[-1] == ("list_streams", ("s", "b"), {})


async def test_token_is_left_out_when_there_is_no_scope(controller: Any, stub: Any) -> None:
    """As recorded: the status says it all."""
    controller.answers["list_tables"] = Page("SCOPE_NOT_FOUND", (), "")
    request = pb.KVTablesInScopeRequest(scope=pb.ScopeInfo(scope="s"))
    reply = await stub.listKeyValueTablesInScope(request)
    assert reply.status == pb.KVTablesInScopeResponse.SCOPE_NOT_FOUND
    assert not reply.HasField("continuationToken")


async def test_scale_translates_ranges_and_names_the_epoch_before(
    controller: Any, stub: Any
) -> None:
    """checkScale is asked with this epoch; another one never reports success."""
    created = SegmentRange(1 << 32 | 1, 0.0, 1.0)
    controller.answers["scale"] = ScaleReply("STARTED", 0, (created,))
    request = pb.ScaleRequest(streamInfo=STREAM, sealedSegments=[0], scaleTimestamp=7)
    request.newKeyRanges.add(start=0.0, end=1.0)
    reply = await stub.scale(request)
    assert (reply.status, reply.epoch) == (pb.ScaleResponse.STARTED, 0)
    assert reply.segments[0].segmentId.segmentId == 1 << 32 | 1
    _, _, named = controller.calls[0]
    assert named["seal"] == (0,)
    assert [(one.low, one.high) for one in named["ranges"]] == [(0.0, 1.0)]


async def test_both_spellings_of_successors_answer(controller: Any, stub: Any) -> None:
    """Older clients call the misspelled rpc."""
    controller.answers["successors"] = ()
    request = pb.SegmentId(streamInfo=STREAM, segmentId=1)
    assert not (await stub.getSegmentsImmediatlyFollowing(request)).segments
    assert not (await stub.getSegmentsImmediatelyFollowing(request)).segments


async def test_server_list_names_all_controllers(stub: Any) -> None:
    """Java with pravega:// talks only to the controllers that it finds here."""
    reply = await stub.getControllerServerList(pb.ServerRequest())
    assert [(uri.endpoint, uri.port) for uri in reply.nodeURI] == [
        ("127.0.0.1", 9090),
        ("127.0.0.2", 9091),
    ]


async def test_delegation_token_is_empty_without_authorisation(stub: Any) -> None:
    """A token that is neither empty nor a JWT makes the Rust client panic."""
    assert (await stub.getDelegationToken(STREAM)).delegationToken == ""


async def test_health_and_reflection_answer(channel: grpc.aio.Channel) -> None:
    """Probes and grpcurl find the service without a copy of the contract."""
    health = health_pb2_grpc.HealthStub(channel)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    code, _ = await _code(health.Check(health_pb2.HealthCheckRequest(service="none")))
    assert code is grpc.StatusCode.NOT_FOUND
    reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for answer in reflected.ServerReflectionInfo(asked):
        names = {service.name for service in answer.list_services_response.service}
        assert SERVICE_NAME in names


async def test_taken_port_is_named() -> None:
    """Two servers on one port would answer in turns from different clusters."""
    first = GrpcServer(clock=SystemClock(), instance="a")
    port = first.bind("127.0.0.1", 0)
    second = GrpcServer(clock=SystemClock(), instance="b")
    with pytest.raises(CannotStart, match=f"127.0.0.1:{port}.*--grpc-port"):
        second.bind("127.0.0.1", port)
    await second.stop()
    await first.stop()


async def test_client_that_hangs_up_ends_its_call(controller: Any, stub: Any) -> None:
    """Held calls of clients that are gone would pile up to the limit of calls."""
    entered, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    controller.answers["get_uri"] = wait
    call = stub.getURI(pb.SegmentId(streamInfo=STREAM, segmentId=0))
    waiting = asyncio.ensure_future(call)
    async with asyncio.timeout(5):
        await entered.wait()
        call.cancel()
        await ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_every_error_of_the_controller_has_a_trouble() -> None:
    """A new error class without a line in the table would be reported as our bug."""
    known = {
        errors.NotFound: errors.NotFound("stream", "s"),
        errors.InvalidArgument: errors.InvalidArgument("a", "b"),
        errors.IllegalState: errors.IllegalState("a", "b", "c"),
        errors.Conflict: errors.Conflict("a", 1),
        errors.Unavailable: errors.Unavailable("a", "b"),
        errors.Timeout: errors.Timeout("a", 1.0),
    }
    assert set(errors.ControllerError.__subclasses__()) == set(known)
    assert all(trouble_of(error) is not Trouble.BUG for error in known.values())
