"""The edge of a gRPC call: where it is logged, held, and where its exceptions end.

**One place for errors.** `trouble_of` maps an exception to a `Trouble`, whose table in
`anabranch_rpc.statuses` has the code. What is in neither is our bug: INTERNAL, logged once
with its traceback. A failing call ends here; the server goes on.

**Hold, don't refuse.** While NATS restarts, the controller's parts say Unavailable within a
few seconds. A client that is told so waits up to eleven seconds before it asks again, so the
edge asks again itself for HOLD_S. A repeated call means the same as the client's own
repetition: every rpc may arrive twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from anabranch_kit.ports.clock import Clock
from anabranch_rpc.statuses import CODES, Trouble
from prometheus_client import Counter, Histogram

from anabranch_controller import errors
from anabranch_controller.entrypoints.grpc_service import NotOffered

HOLD_S: Final = 20.0  # counted from the call's start, so that getURI's own wait is not doubled
HOLD_PAUSE_S: Final = 0.25
DETAILS_LENGTH_MAX: Final = 1_000  # status texts travel in a header, and nobody parses them

Handler = Callable[[Any, Any], Awaitable[Any]]  # any request message, grpcio's context, any reply
AnyHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

RPCS = Counter("anabranch_controller_rpcs", "Calls answered, by rpc and gRPC code", ["rpc", "code"])
RPC_SECONDS = Histogram(
    "anabranch_controller_rpc_seconds",
    "Time from a call's arrival to its answer, holding included",
    buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0),
)

log = structlog.stdlib.get_logger("anabranch.grpc")


def trouble_of(error: Exception) -> Trouble:
    match error:
        case errors.NotFound():
            return Trouble.MISSING
        case errors.InvalidArgument():
            return Trouble.BAD_ARGUMENT
        case errors.IllegalState():
            # "creating" ends by itself, so a client may come back; "sealed" and the like do not.
            return Trouble.CONFLICT if error.state.lower() == "creating" else Trouble.REFUSED
        case errors.Conflict():
            return Trouble.CONFLICT
        case errors.Unavailable():
            return Trouble.UNAVAILABLE
        case errors.Timeout():
            return Trouble.OUTCOME_UNKNOWN
        case NotOffered():
            return Trouble.NOT_IMPLEMENTED
        case _:
            return Trouble.BUG


class GrpcEdge(grpc.aio.ServerInterceptor):
    """Wraps every unary call. `instance` marks the request ids that are invented here."""

    def __init__(self, *, clock: Clock, instance: str, hold_s: float = HOLD_S) -> None:
        self._clock, self._instance, self._hold_s = clock, instance, hold_s
        self._numbers = itertools.count(1)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[AnyHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> AnyHandler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler_call_details.method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, method: str, behaviour: Handler) -> Handler:
        rpc = method.rpartition("/")[2]

        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = self._clock.monotonic()
            request_id = self._request_id(context.invocation_metadata())
            with structlog.contextvars.bound_contextvars(rpc=rpc, request_id=request_id):
                try:
                    reply = await self._held(behaviour, request, context, started)
                except grpc.aio.AbortError:
                    raise  # the health service states its own codes
                except Exception as error:  # noqa: BLE001 - the edge of the call
                    trouble = trouble_of(error)
                    self._count(rpc, CODES[trouble], started)
                    _log_trouble(trouble, error, self._milliseconds(started))
                    text = "internal error" if trouble is Trouble.BUG else str(error)
                    await context.abort(CODES[trouble], text[:DETAILS_LENGTH_MAX])
                self._count(rpc, grpc.StatusCode.OK, started)
                log.debug("rpc.answered", duration_ms=self._milliseconds(started))
                return reply

        return guarded

    async def _held(
        self,
        behaviour: Handler,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        started: float,
    ) -> Any:
        while True:
            try:
                return await behaviour(request, context)
            except errors.Unavailable as error:
                if self._clock.monotonic() + HOLD_PAUSE_S >= started + self._hold_s:
                    raise
                log.debug("rpc.held", reason=str(error))
            await self._clock.sleep(HOLD_PAUSE_S)

    def _request_id(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """The client's own id when it sends one (Java does), else one of ours."""
        for key, value in metadata or ():
            if key == "requestid":
                return str(value)
        return f"{self._instance}-{next(self._numbers)}"

    def _count(self, rpc: str, code: grpc.StatusCode, started: float) -> None:
        RPCS.labels(rpc, code.name).inc()
        RPC_SECONDS.observe(self._clock.monotonic() - started)

    def _milliseconds(self, since: float) -> int:
        return round((self._clock.monotonic() - since) * 1000)


def _log_trouble(trouble: Trouble, error: Exception, duration_ms: int) -> None:
    match trouble:
        case Trouble.BUG:
            log.error("rpc.failed", duration_ms=duration_ms, exc_info=error)
        case Trouble.UNAVAILABLE | Trouble.OUTCOME_UNKNOWN:
            log.warning(
                "rpc.gave_up", trouble=trouble.value, reason=str(error), duration_ms=duration_ms
            )
        case _:
            # A refusal is an answer like others; the client knows what to do with it.
            log.debug("rpc.refused", trouble=trouble.value, reason=str(error))
