"""What `anabranch standalone` was asked for, checked before anything is started."""

from __future__ import annotations

import errno
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anabranch_cli.output import ExitCode, Problem

HOST: Final = "127.0.0.1"
CONTAINERS_DEFAULT: Final = 4
CONTAINERS_MAX: Final = 1024  # one store holds all of them; each has a log and its files
SEGMENTSTORES_MAX: Final = 64  # more than that have no cores of their own
PORT_MAX: Final = 65535
# Free ports are drawn below the range that Linux gives to outgoing connections: between a
# child's death and its restart, its port must not become some connection's own.
FREE_PORT_FIRST: Final = 18_000
FREE_PORT_LAST: Final = 32_000
FREE_PORT_TRIES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Port 0 means any free port. An external server takes the place of a child.

    Several segment stores listen on consecutive ports, or on any free ones.
    """

    data: Path
    controller_port: int = 9090
    rest_port: int = 10080
    segmentstore_port: int = 12345
    nats_port: int = 0
    redis_port: int = 0
    segmentstores_count: int = 1
    containers_count: int = CONTAINERS_DEFAULT
    ready_file: Path | None = None
    log_dir: Path | None = None
    external_nats: str | None = None
    external_redis: str | None = None
    tier2: str | None = None  # a URL; None: a folder of the data directory


class Ports(dict[str, int]):
    """The port of each listener, by the name of its flag without dashes in front.

    The second segment store and those after it have a number behind the name of the flag.
    """

    def segmentstore(self, index: int) -> int:
        return self[_segmentstore_port(index)]


def check(options: Options) -> None:
    """Raises Problem for what cannot work, naming the flag."""
    if not 1 <= options.containers_count <= CONTAINERS_MAX:
        raise Problem(
            f"--containers {options.containers_count}: give 1 to {CONTAINERS_MAX}",
            code=ExitCode.USAGE,
        )
    if not 1 <= options.segmentstores_count <= SEGMENTSTORES_MAX:
        raise Problem(
            f"--segmentstores {options.segmentstores_count}: give 1 to {SEGMENTSTORES_MAX}",
            code=ExitCode.USAGE,
        )
    for flag, port in _wanted(options).items():
        if not 0 <= port <= PORT_MAX:
            raise Problem(
                f"--{flag} {port}: give 0 (any free port) to {PORT_MAX}", code=ExitCode.USAGE
            )
    if options.ready_file is not None and not options.ready_file.absolute().parent.is_dir():
        raise Problem(
            f"--ready-file {options.ready_file}: its folder does not exist", code=ExitCode.USAGE
        )
    for flag, url, scheme in (
        ("external-nats", options.external_nats, "nats://"),
        ("external-redis", options.external_redis, "redis"),
    ):
        if url is not None and not (url.startswith(scheme) and "://" in url):
            raise Problem(f"--{flag} {url}: give {scheme}…HOST:PORT", code=ExitCode.USAGE)
    if options.tier2 is not None and not options.tier2.startswith(("s3://", "file:///")):
        raise Problem(
            "--tier2: give s3://BUCKET/PREFIX?endpoint=URL or file:///FOLDER",
            code=ExitCode.USAGE,
        )


def choose_ports(options: Options, *, rng: random.Random) -> Ports:
    """A port for each listener. Raises Problem when one that was asked for is taken."""
    chosen = Ports()
    for flag, port in _wanted(options).items():
        if port in chosen.values() and port != 0:
            raise Problem(f"--{flag} {port}: another flag has this port", code=ExitCode.USAGE)
        if port == 0:
            chosen[flag] = _free_port(set(chosen.values()), rng)
        else:
            _check_free(flag, port)
            chosen[flag] = port
    return chosen


def _wanted(options: Options) -> dict[str, int]:
    wanted = {
        "controller-port": options.controller_port,
        "rest-port": options.rest_port,
    }
    first = options.segmentstore_port
    for index in range(options.segmentstores_count):
        wanted[_segmentstore_port(index)] = first + index if first else 0
    if options.external_nats is None:
        wanted["nats-port"] = options.nats_port
    if options.external_redis is None:
        wanted["redis-port"] = options.redis_port
    return wanted


def _segmentstore_port(index: int) -> str:
    return f"segmentstore-port +{index}" if index else "segmentstore-port"


def _check_free(flag: str, port: int) -> None:
    error = _bind(port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise Problem(
            f"port {port} of {HOST} (--{flag}) is in use",
            hint=f"stop what listens there (`ss -ltnp 'sport = :{port}'` names it), "
            f"or give --{flag} another port; 0 takes any free one",
            code=ExitCode.REFUSED,
        )
    raise Problem(
        f"cannot listen on port {port} of {HOST} (--{flag}): {error.strerror}",
        hint=f"give --{flag} another port; 0 takes any free one",
        code=ExitCode.REFUSED,
    )


def _free_port(taken: set[int], rng: random.Random) -> int:
    for _ in range(FREE_PORT_TRIES):
        port = rng.randint(FREE_PORT_FIRST, FREE_PORT_LAST)
        if port not in taken and _bind(port) is None:
            return port
    raise Problem(
        f"found no free port in {FREE_PORT_FIRST} to {FREE_PORT_LAST} of {HOST}",
        hint="name the ports by flags",
        code=ExitCode.REFUSED,
    )


def _bind(port: int) -> OSError | None:
    """Try to listen, as a server would; what stood in the way."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None
