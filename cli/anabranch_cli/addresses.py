"""Where the cluster is: a flag, else the environment, else a ready file, else the default.

A standalone cluster writes its addresses into `cluster.json` in its data directory (and where
`--ready-file` says). The commands take the one named by `--cluster` or ANABRANCH_CLUSTER; with
neither they look for `anabranch-data/cluster.json` below the current folder, so that the
commands beside a plain `anabranch standalone` need no flags at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import typer

from anabranch_cli.output import ExitCode, Problem

Service = Literal["controller", "rest", "nats", "redis"]

DEFAULTS: Final[dict[Service, str]] = {
    "controller": "tcp://127.0.0.1:9090",
    "rest": "http://127.0.0.1:10080",
    "nats": "nats://127.0.0.1:4222",
    "redis": "redis://127.0.0.1:6379",
}
CLUSTER_VARIABLE: Final = "ANABRANCH_CLUSTER"
DATA_DIRECTORY: Final = "anabranch-data"
CLUSTER_FILE: Final = "cluster.json"

ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", help="A ready file of `anabranch standalone`.", show_default=False),
]
ControllerOption = Annotated[
    str | None, typer.Option("--controller", help="tcp://HOST:PORT", show_default=False)
]
RedisOption = Annotated[
    str | None, typer.Option("--redis", help="redis://HOST:PORT", show_default=False)
]
NatsOption = Annotated[
    str | None, typer.Option("--nats", help="nats://HOST:PORT", show_default=False)
]


class ClusterFile(msgspec.Struct, frozen=True):
    """What `anabranch standalone --ready-file` writes once everything answers."""

    controller: str
    rest: str
    segmentstores: tuple[str, ...]
    nats: str
    redis: str
    data: str
    pids: dict[str, int]


def address(
    service: Service,
    *,
    flag: str | None,
    cluster: Path | None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The address of one service. Raises Problem for a ready file that cannot be read."""
    variables = os.environ if environment is None else environment
    if flag:
        return flag
    named = cluster or _path(variables.get(CLUSTER_VARIABLE))
    variable = variables.get(f"ANABRANCH_{service.upper()}")
    if cluster is None and variable:
        return variable
    found = named or _standing_cluster_file()
    if found is None:
        return DEFAULTS[service]
    file = read_cluster_file(found)
    found_address: str = getattr(file, service)
    return found_address


def read_cluster_file(path: Path) -> ClusterFile:
    """Raises Problem."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterFile)
    except FileNotFoundError:
        raise Problem(
            f"there is no cluster file {path}",
            hint="start a cluster with `anabranch standalone --ready-file FILE` and name that file",
            code=ExitCode.NOT_FOUND,
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise Problem(
            f"{path} is no cluster file: {error}",
            hint="give the file that `anabranch standalone --ready-file FILE` wrote",
            code=ExitCode.USAGE,
        ) from error


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _standing_cluster_file() -> Path | None:
    path = Path(DATA_DIRECTORY) / CLUSTER_FILE
    return path if path.is_file() else None
