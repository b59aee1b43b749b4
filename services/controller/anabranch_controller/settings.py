"""What a controller can be told."""

from __future__ import annotations

from typing import ClassVar, Final

from anabranch_kit.settings import ServiceSettings
from pydantic import Field

CONTAINERS_MAX: Final = 10_000  # far above what a registry's map and one poll a second bear
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class ControllerSettings(ServiceSettings):
    """Streams, scopes, scaling, transactions, reader groups and tables, for Pravega's clients.

    Serves gRPC to clients and REST to people. Any number of controllers can run side by side:
    all of them serve all requests, and each finishes what another left behind.
    """

    service: ClassVar[str] = "controller"

    grpc_host: str = Field("127.0.0.1", description="address to listen on for gRPC")
    grpc_port: int = Field(9090, ge=0, le=65535, description="port for gRPC; 0 for a free one")
    grpc_share_port: bool = Field(
        False,
        description="listen with SO_REUSEPORT, for a supervisor that holds the port meanwhile",
    )
    rest_host: str = Field("127.0.0.1", description="address to listen on for REST")
    rest_port: int = Field(10080, ge=0, le=65535, description="port for REST; 0 for a free one")
    advertised_host: str = Field(
        "", description="host that clients reach this controller by; empty for grpc-host"
    )
    advertised_port: int = Field(
        0, ge=0, le=65535, description="port that clients reach it by; 0 for grpc-port"
    )
    containers: int = Field(
        4,
        ge=1,
        le=CONTAINERS_MAX,
        description="segment containers; fixed when the cluster is created",
    )
    retention_period_s: float = Field(
        1800.0,
        gt=0,
        description="how often retention policies are applied to streams, seconds",
    )
    feed_snapshot_s: float = Field(
        3600.0, gt=0, description="how often each stream is told wholly on the feed, seconds"
    )
    watermark_period_s: float = Field(
        10.0,
        gt=0,
        description="how often the times that writers note become watermarks, seconds",
    )
    replicas: int = Field(
        1, ge=1, le=5, description="copies that NATS keeps of the event log and the feed"
    )
