"""`anabranch demo`: what there is to see. Nothing heavy is imported before a demo runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from anabranch_cli.addresses import ClusterOption, NatsOption
from anabranch_cli.output import ExitCode, Format, FormatOption, Problem, emit_one

from anabranch_standalone.demo.plan import (
    EVENT_LENGTH_DEFAULT,
    EVENT_LENGTH_MAX,
    EVENT_LENGTH_MIN,
    PEAK_RATE_DEFAULT,
    PEAK_RATE_MAX,
    SECONDS_DEFAULT,
    SECONDS_MAX,
    SECONDS_MIN,
)

READERS_MAX = 16

demo_app = typer.Typer(
    help="Demonstrations that run a whole cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@demo_app.callback()
def demo() -> None:
    """Demonstrations that run a whole cluster."""


@demo_app.command()
def taxi(
    controller: Annotated[
        str | None,
        typer.Option(
            help="Use this cluster (tcp://HOST:PORT) instead of starting one for the demo.",
            show_default=False,
        ),
    ] = None,
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    trips: Annotated[
        Path | None,
        typer.Option(
            help="Trips from a CSV of the city's taxi commission instead of generated ones.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the heat map goes, PNG and HTML.")] = Path(),
    seconds: Annotated[
        float, typer.Option(min=SECONDS_MIN, max=SECONDS_MAX, help="How long the night takes.")
    ] = SECONDS_DEFAULT,
    rate: Annotated[
        int,
        typer.Option(min=1, max=PEAK_RATE_MAX, help="Trips per second in the busiest half hour."),
    ] = PEAK_RATE_DEFAULT,
    event_length: Annotated[
        int, typer.Option(min=EVENT_LENGTH_MIN, max=EVENT_LENGTH_MAX, help="Bytes of a trip.")
    ] = EVENT_LENGTH_DEFAULT,
    readers: Annotated[int, typer.Option(min=1, max=READERS_MAX, help="Reader processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the generated trips.")] = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replay a night of taxi trips in New York, watch the stream scale, draw its heat map.

    Starts a cluster of its own, which is gone afterwards. Ends with status 1 when a check fails.
    """
    import asyncio
    import sys

    import msgspec
    import structlog

    from anabranch_standalone.demo.screen import Screen
    from anabranch_standalone.demo.taxi import TaxiOptions
    from anabranch_standalone.demo.taxi import taxi as run

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if not out.is_dir():
        raise Problem(
            f"--out {out}: there is no such folder", hint="create it first", code=ExitCode.USAGE
        )
    options = TaxiOptions(
        out=out,
        seconds=seconds,
        peak_rate=rate,
        event_length_bytes=event_length,
        readers_count=readers,
        seed=seed,
        trips=trips,
        controller=controller,
        nats=nats,
        cluster=cluster,
    )
    screen = Screen()
    try:
        summary = asyncio.run(run(options, screen))
    finally:
        screen.close()
    row = msgspec.to_builtins(summary)
    if output is Format.TABLE:
        row["checks"] = ", ".join(f"{name}: {end}" for name, end in summary.checks.items())
    emit_one(row, output)
    if not summary.passed:
        raise SystemExit(int(ExitCode.FAILED))
