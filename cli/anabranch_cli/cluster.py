"""`anabranch cluster …`: what the registry knows. Redis alone is asked.

A segment is located as every store and controller does it: the hash of its primary name gives
the container, the registry says who serves that container, or, when nobody does at this
moment, who should.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from anabranch_cli.addresses import ClusterOption, RedisOption, address, read_cluster_file
from anabranch_cli.output import ExitCode, Format, FormatOption, Problem, emit, emit_one

if TYPE_CHECKING:
    from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, Registry, Serving

HASH_NAME: Final = "murmur3_128/guava-consistent"

Result = TypeVar("Result")

cluster_app = typer.Typer(
    help="Look at the members and containers of a cluster, as Redis has them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@cluster_app.command()
def where(
    segment: Annotated[str, typer.Argument(help="scope/stream/NUMBER.#epoch.EPOCH")],
    redis: RedisOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say which container a segment lives in and which segment store serves it."""
    from anabranch_wire.names import InvalidName, parse_segment_name, segment_name

    try:
        parsed = parse_segment_name(segment)
    except InvalidName as error:
        raise Problem(
            str(error), hint="anabranch cluster where shop/orders/0.#epoch.0", code=ExitCode.USAGE
        ) from error
    name = segment_name(parsed.scope, parsed.stream, parsed.segment_id)
    emit_one(_ask(redis, cluster, lambda registry: _locate(registry, name)), output)


@cluster_app.command()
def members(
    redis: RedisOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the processes that hold a lease."""
    found = _ask(redis, cluster, lambda registry: registry.members())
    emit([_member_row(member) for member in sorted(found, key=lambda one: one.id)], output)


@cluster_app.command()
def containers(
    redis: RedisOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the segment containers: who should hold each, and who serves it."""
    emit(_ask(redis, cluster, _containers), output)


@cluster_app.command()
def memory(
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the proportional set size (PSS) of each process of a standalone cluster."""
    path = cluster or Path(os.environ.get("ANABRANCH_CLUSTER", "anabranch-data/cluster.json"))
    file = read_cluster_file(path)
    pids = {"supervisor": _supervisor(Path(file.data)), **file.pids}
    rows = [
        {"process": name, "pid": pid, "pss_mb": round(pss_bytes(pid) / 1e6, 1)}
        for name, pid in pids.items()
    ]
    total = round(sum(float(str(row["pss_mb"])) for row in rows), 1)
    emit([*rows, {"process": "total", "pid": None, "pss_mb": total}], output)


def _supervisor(data: Path) -> int:
    """The lock of the data directory names the process that holds it."""
    try:
        return int((data / "LOCK").read_text())
    except (OSError, ValueError) as error:
        raise Problem(
            f"{data} names no running cluster: {error}",
            hint="this works for a standalone cluster of this machine",
            code=ExitCode.NOT_FOUND,
        ) from error


def pss_bytes(pid: int) -> int:
    """The memory of a process with shared pages divided among their users. Raises Problem."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError as error:
        raise Problem(
            f"cannot read the memory of process {pid}: {error.strerror}",
            hint="is the cluster still running, and is it yours?",
            code=ExitCode.NOT_FOUND,
        ) from error
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024


async def _locate(registry: Registry, segment: str) -> dict[str, object]:
    from anabranch_wire.hashing import container_of

    info = await _cluster_info(registry)
    container = container_of(segment, info.containers_count)
    serving = (await registry.serving()).get(container)
    assigned = (await registry.assignments()).get(container)
    return {"segment": segment, **_container_row(container, serving, assigned)}


async def _containers(registry: Registry) -> list[dict[str, object]]:
    info = await _cluster_info(registry)
    serving, assigned = await registry.serving(), await registry.assignments()
    return [
        _container_row(container, serving.get(container), assigned.get(container))
        for container in range(info.containers_count)
    ]


async def _cluster_info(registry: Registry) -> ClusterInfo:
    info = await registry.cluster()
    if info is None:
        raise Problem(
            "this Redis knows no cluster",
            hint="name the Redis of the cluster with --redis, or its ready file with --cluster",
            code=ExitCode.NOT_FOUND,
        )
    if info.hash_name != HASH_NAME:
        raise Problem(
            f"the cluster places segments by {info.hash_name}, this command knows {HASH_NAME}",
            hint="use the command of the cluster's own version",
        )
    return info


def _container_row(
    container: int, serving: Serving | None, assigned: Assignment | None
) -> dict[str, object]:
    return {
        "container": container,
        "segmentstore": serving.member if serving else None,
        "address": f"{serving.host}:{serving.port}" if serving else None,
        "epoch": serving.epoch if serving else None,
        "assigned_to": assigned.member if assigned else None,
        "state": "serving" if serving else "not served",
    }


def _member_row(member: Member) -> dict[str, object]:
    return {
        "id": member.id,
        "role": member.role,
        "address": f"{member.host}:{member.port}" if member.port else None,
        "pid": member.pid or None,
        "incarnation": member.incarnation,
        "started_ms": member.started_ms,
    }


def _ask(
    redis: str | None,
    cluster: Path | None,
    question: Callable[[Registry], Coroutine[Any, Any, Result]],
) -> Result:
    """Run one question against the registry. Raises Problem when Redis does not answer."""
    from anabranch_kit.adapters.redis_registry import RedisRegistry
    from anabranch_kit.adapters.system_clock import SystemClock
    from anabranch_kit.ports.registry import RegistryUnavailable

    url = address("redis", flag=redis, cluster=cluster)

    async def ask() -> Result:
        registry = RedisRegistry(url, clock=SystemClock())
        try:
            return await question(registry)
        finally:
            await registry.close()

    try:
        return asyncio.run(ask())
    except ValueError as error:
        raise Problem(str(error), hint="--redis redis://HOST:PORT", code=ExitCode.USAGE) from error
    except RegistryUnavailable as error:
        raise Problem(
            f"Redis at {url} does not answer: {error.reason}",
            hint="is the cluster running? name its Redis with --redis or its ready file "
            "with --cluster",
            code=ExitCode.UNREACHABLE,
        ) from error
