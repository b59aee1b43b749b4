"""The gRPC server: the service, health and reflection behind the edge, within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc.aio
from anabranch_kit.ports.clock import Clock
from anabranch_kit.run import CannotStart
from anabranch_rpc import controller_pb2, controller_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from anabranch_controller.entrypoints.grpc_edge import HOLD_S, GrpcEdge
from anabranch_controller.entrypoints.grpc_service import GrpcService

SERVICE_NAME: Final = controller_pb2.DESCRIPTOR.services_by_name["ControllerService"].full_name

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024  # gRPC's own default, which clients apply to replies
CALLS_MAX: Final = 4_096  # in work at once, held ones too; further ones get RESOURCE_EXHAUSTED
CALLS_PER_CONNECTION_MAX: Final = 1_024
STOP_GRACE_S: Final = 2.0  # calls in work may end; the clients of the rest ask another instance

# Java sends a ping every six minutes; gRPC's default punishes more than one in five. Clients
# are never punished here, and dead connections are found after two minutes and a half.
PING_INTERVAL_MIN_MS: Final = 10_000
KEEPALIVE_MS: Final = 120_000
KEEPALIVE_TIMEOUT_MS: Final = 30_000

OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
)


class GrpcServer:
    """Bound early, so that a taken port is said at once; serves from `start` until `stop`."""

    def __init__(
        self, *, clock: Clock, instance: str, hold_s: float = HOLD_S, share_port: bool = False
    ) -> None:
        """With `share_port` a supervisor can hold the port open over a restart; without it a
        second server on the port is an error, not a coin toss."""
        self._server = grpc.aio.server(
            interceptors=[GrpcEdge(clock=clock, instance=instance, hold_s=hold_s)],
            options=(*OPTIONS, ("grpc.so_reuseport", int(share_port))),
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        self._health = health_aio.HealthServicer()
        self._stopped = False

    def bind(self, host: str, port: int) -> int:
        """Take the port, 0 for a free one; clients wait until `start`. Raises CannotStart."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise CannotStart(
                f"cannot listen on {address} for gRPC: the port is taken or the address is not"
                " of this machine. Choose another one with --grpc-port or --grpc-host."
            ) from error

    async def start(self, service: GrpcService) -> None:
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new calls, let those in work end for STOP_GRACE_S, then cut them off."""
        if self._stopped:
            return
        self._stopped = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(STOP_GRACE_S)
