"""The commands that this distribution adds to `anabranch`: `standalone` and `demo`.

Imported for every help page, so nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anabranch_standalone.cluster import Cluster
    from anabranch_standalone.options import Options

standalone_app = typer.Typer(add_completion=False, rich_markup_mode=None)


def __getattr__(name: str) -> typer.Typer:
    """`demo_app` comes from its own package, and a fault there must not hide `standalone`."""
    if name == "demo_app":
        from anabranch_standalone.demo.commands import demo_app

        return demo_app
    raise AttributeError(name)


@standalone_app.command()
def standalone(
    data: Annotated[Path, typer.Option(help="Where the data is kept, over restarts too.")] = Path(
        "anabranch-data"
    ),
    controller_port: Annotated[int, typer.Option(help="gRPC; 0: any free port.")] = 9090,
    rest_port: Annotated[int, typer.Option(help="0: any free port.")] = 10080,
    segmentstore_port: Annotated[
        int, typer.Option(help="Of the first store, the others follow; 0: any free ports.")
    ] = 12345,
    nats_port: Annotated[int, typer.Option(help="0: any free port.")] = 0,
    redis_port: Annotated[int, typer.Option(help="0: any free port.")] = 0,
    segmentstores: Annotated[
        int, typer.Option(help="Segment store processes; one per core that may be busy.")
    ] = 1,
    containers: Annotated[
        int, typer.Option(help="Segment containers; fixed when the cluster is created.")
    ] = 4,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write addresses and pids here (JSON) when all is ready."),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Logs of the processes; default: DATA/log.")
    ] = None,
    external_nats: Annotated[
        str | None, typer.Option(help="Use this NATS (nats://…) instead of starting one.")
    ] = None,
    external_redis: Annotated[
        str | None, typer.Option(help="Use this Redis (redis://…) instead of starting one.")
    ] = None,
    tier2: Annotated[
        str | None,
        typer.Option(
            help="Tier 2 by its URL (s3://BUCKET/PREFIX?endpoint=URL); default: DATA/tier2."
        ),
    ] = None,
) -> None:
    """Start a whole cluster on this machine. Ctrl-C stops it; the data stays."""
    from anabranch_standalone.options import Options

    run(
        Options(
            data=data,
            controller_port=controller_port,
            rest_port=rest_port,
            segmentstore_port=segmentstore_port,
            nats_port=nats_port,
            redis_port=redis_port,
            segmentstores_count=segmentstores,
            containers_count=containers,
            ready_file=ready_file,
            log_dir=log_dir,
            external_nats=external_nats,
            external_redis=external_redis,
            tier2=tier2,
        )
    )


def run(options: Options) -> None:
    """Run a cluster until a signal ends it. Raises Problem."""
    import asyncio
    import os
    import random
    import time

    from anabranch_standalone.cluster import Cluster
    from anabranch_standalone.data_directory import DataDirectory
    from anabranch_standalone.options import check, choose_ports

    check(options)
    data = DataDirectory(options.data, pid=os.getpid(), monotonic=time.monotonic, sleep=time.sleep)
    try:
        # A ready file of an earlier run that was killed would tell of processes long gone.
        for stale in (options.ready_file, data.cluster_file):
            if stale is not None:
                stale.unlink(missing_ok=True)
        cluster = Cluster(options, choose_ports(options, rng=random.Random()), data)
        asyncio.run(_supervise(cluster))
    finally:
        data.close()


async def _supervise(cluster: Cluster) -> None:
    from anabranch_kit.adapters.redis_registry import RedisRegistry
    from anabranch_kit.adapters.system_clock import SystemClock
    from anabranch_kit.logging import configure_logging

    from anabranch_standalone.supervisor import Supervisor

    configure_logging(service="standalone", member="supervisor", level="error")
    clock = SystemClock()
    registry = RedisRegistry(cluster.redis_url, clock=clock)
    try:
        await Supervisor(cluster, registry, clock=clock).run()
    finally:
        await registry.close()
