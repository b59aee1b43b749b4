"""Which processes make a standalone cluster, and how each is told where the others are.

The services get their settings as flags, which win over the environment and show in `ps`;
what the supervisor does not set can still be given by the environment of each service
(`ANABRANCH_SEGMENTSTORE__…`), which the children inherit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from anabranch_cli.addresses import ClusterFile
from anabranch_cli.output import ExitCode, Problem
from anabranch_kit.ports.registry import Registry
from anabranch_kit.server_binaries import (
    BinaryNotFound,
    find_nats_server,
    find_valkey_server,
    nats_command,
    valkey_command,
    write_nats_config,
)

from anabranch_standalone.children import ChildSpec
from anabranch_standalone.data_directory import DataDirectory
from anabranch_standalone.options import HOST, Options, Ports
from anabranch_standalone.readiness import grpc_lacks, registry_lacks, rest_lacks

NATS: Final = "nats"
REDIS: Final = "redis"
CONTROLLER: Final = "controller"
SEGMENTSTORE: Final = "segmentstore"  # the first is segmentstore-0
AUTOSCALER: Final = "autoscaler"
TIERER: Final = "tierer"

# The order of stopping, highest first: who uses a process stops before it.
WAVES: Final = {TIERER: 3, AUTOSCALER: 3, SEGMENTSTORE: 2, CONTROLLER: 1, REDIS: 0, NATS: 0}
SINGLE: Final = (CONTROLLER, AUTOSCALER, TIERER)  # their members have a number, the children not

CACHE_MIB: Final = 128  # of all segment stores together: what one store takes by default
CACHE_MIB_MIN: Final = 32
CACHE_VARIABLE: Final = "ANABRANCH_SEGMENTSTORE__CACHE_MIB"

NATS_BINARY_VARIABLE: Final = "ANABRANCH_NATS_SERVER"
REDIS_BINARY_VARIABLE: Final = "ANABRANCH_VALKEY_SERVER"

# glibc gives each thread an arena of its own, which costs the idle cluster some 60 MB.
MALLOC: Final = {"MALLOC_ARENA_MAX": "2"}


class Cluster:
    """The children of one cluster and its addresses."""

    def __init__(self, options: Options, ports: Ports, data: DataDirectory) -> None:
        self.options, self.ports, self.data = options, ports, data
        self.nats_url = options.external_nats or f"nats://{HOST}:{ports['nats-port']}"
        self.redis_url = options.external_redis or f"redis://{HOST}:{ports['redis-port']}"

    def servers(self) -> list[ChildSpec]:
        """NATS and Valkey, unless others take their place. Raises Problem without a binary."""
        specs = []
        if self.options.external_nats is None:
            specs.append(self._nats())
        if self.options.external_redis is None:
            specs.append(self._redis())
        return specs

    def services(self) -> list[ChildSpec]:
        url = self.options.tier2
        tier2 = {"tier2-dir": self.data.tier2} if url is None else {"tier2-url": url}
        stores = range(self.options.segmentstores_count)
        return [
            self._service(
                CONTROLLER,
                "anabranch_controller",
                {
                    "grpc-host": HOST,
                    "grpc-port": self.ports["controller-port"],
                    "grpc-share-port": "true",
                    "rest-host": HOST,
                    "rest-port": self.ports["rest-port"],
                    "containers": self.options.containers_count,
                },
            )._replace(held_port=self.ports["controller-port"]),
            *(self._segment_store(index, tier2) for index in stores),
            self._service(AUTOSCALER, "anabranch_autoscaler", {}),
            self._service(TIERER, "anabranch_tierer", tier2),
        ]

    def _segment_store(self, index: int, tier2: Mapping[str, object]) -> ChildSpec:
        settings = {
            "host": HOST,
            "port": self.ports.segmentstore(index),
            "share-port": "true",
            "wal-dir": self.data.wal,
            **tier2,
        }
        count = self.options.segmentstores_count
        if count > 1 and CACHE_VARIABLE not in os.environ:
            settings["cache-mib"] = max(CACHE_MIB // count, CACHE_MIB_MIN)
        spec = self._service(f"{SEGMENTSTORE}-{index}", "anabranch_segmentstore", settings)
        return spec._replace(held_port=self.ports.segmentstore(index))

    def listeners(self) -> dict[str, int]:
        """The port that tells that a server has come up, by child."""
        own = {NATS: self.ports.get("nats-port"), REDIS: self.ports.get("redis-port")}
        return {name: port for name, port in own.items() if port is not None}

    async def lacks(self, registry: Registry, pids: Mapping[str, int]) -> list[str]:
        """What is missing until it is ready, asked in the order of the start.

        The first kind of lack is enough: the next ones follow from it.
        """
        expected = {
            _member_id(name): pid for name, pid in pids.items() if name not in (NATS, REDIS)
        }
        return (
            await registry_lacks(registry, expected, self.options.containers_count)
            or await grpc_lacks(self.ports["controller-port"])
            or await rest_lacks(self.ports["rest-port"])
        )

    def addresses(self, pids: Mapping[str, int]) -> ClusterFile:
        return ClusterFile(
            controller=f"tcp://{HOST}:{self.ports['controller-port']}",
            rest=f"http://{HOST}:{self.ports['rest-port']}",
            segmentstores=tuple(
                f"{HOST}:{self.ports.segmentstore(index)}"
                for index in range(self.options.segmentstores_count)
            ),
            nats=self.nats_url,
            redis=self.redis_url,
            data=str(self.data.path),
            pids=dict(pids),
        )

    def _service(self, name: str, module: str, settings: Mapping[str, object]) -> ChildSpec:
        flags = {
            "nats-url": self.nats_url,
            "redis-url": self.redis_url,
            "member": _member_id(name),
            **settings,
        }
        command = [sys.executable, "-m", module]
        for flag, value in flags.items():
            command += [f"--{flag}", str(value)]
        wave = WAVES[name if name in SINGLE else SEGMENTSTORE]
        return ChildSpec(name, tuple(command), MALLOC, wave, is_member=True)

    def _nats(self) -> ChildSpec:
        port = self.ports["nats-port"]
        write_nats_config(self.data.nats_config, port=port, store=self.data.nats, host=HOST)
        try:
            binary = find_nats_server(os.environ.get(NATS_BINARY_VARIABLE))
        except BinaryNotFound as error:
            raise _no_binary(error, NATS_BINARY_VARIABLE) from error
        command = nats_command(binary.path, self.data.nats_config)
        return ChildSpec(NATS, tuple(command), {}, WAVES[NATS], is_member=False)

    def _redis(self) -> ChildSpec:
        try:
            binary = find_valkey_server(os.environ.get(REDIS_BINARY_VARIABLE))
        except BinaryNotFound as error:
            raise _no_binary(error, REDIS_BINARY_VARIABLE) from error
        command = valkey_command(
            binary.path, port=self.ports["redis-port"], folder=self.data.path / "redis", host=HOST
        )
        return ChildSpec(REDIS, tuple(command), {}, WAVES[REDIS], is_member=False)


def _member_id(child: str) -> str:
    return f"{child}-0" if child in SINGLE else child


def _no_binary(error: BinaryNotFound, variable: str) -> Problem:
    return Problem(
        str(error),
        hint=f"`make setup` installs it; {variable}=PATH names another one",
        code=ExitCode.NOT_FOUND,
    )
