"""`anabranch events tail`: the public feed, as it happens. Plain NATS, nothing of ours between."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

import typer

from anabranch_cli.addresses import ClusterOption, NatsOption, address
from anabranch_cli.output import ExitCode, Format, FormatOption, Problem, emit

FEED_ALL: Final = "anabranch.feed.>"
CONNECT_WAIT_S: Final = 1.0

events_app = typer.Typer(
    help="Follow what the cluster does.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@events_app.callback()
def events() -> None:
    """Follow what the cluster does."""


@events_app.command()
def tail(
    subject: Annotated[str, typer.Option(help="A NATS subject, wildcards allowed.")] = FEED_ALL,
    history: Annotated[
        bool, typer.Option("--all", help="Begin with the oldest event that is still kept.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after this many events; 0: never.")] = 0,
    nats: NatsOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print the events of the public feed (CloudEvents) as they arrive. Ctrl-C ends it."""
    url = address("nats", flag=nats, cluster=cluster)
    asyncio.run(_tail(url, subject, history=history, count=count, output=output))


async def _tail(url: str, subject: str, *, history: bool, count: int, output: Format) -> None:
    import nats.js.errors
    import structlog
    from anabranch_events.subjects import FEED_STREAM
    from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
    from anabranch_kit.adapters.system_clock import SystemClock
    from nats.js.api import ConsumerConfig, DeliverPolicy

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        connection = await connect_nats(
            url, name="anabranch events tail", clock=SystemClock(), wait_s=CONNECT_WAIT_S
        )
    except NatsUnreachable as error:
        raise Problem(
            f"NATS at {url} does not answer: {error.reason}",
            hint="is the cluster running? name its NATS with --nats or its ready file "
            "with --cluster",
            code=ExitCode.UNREACHABLE,
        ) from error
    try:
        policy = DeliverPolicy.ALL if history else DeliverPolicy.NEW
        subscription = await connection.jetstream().subscribe(
            subject,
            stream=FEED_STREAM,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=policy),
        )
        seen = 0
        async for message in subscription.messages:
            _print(message.subject, message.data, output)
            seen += 1
            if seen == count:
                return
    except nats.js.errors.NotFoundError as error:
        raise Problem(
            f"NATS at {url} keeps no public feed (stream {FEED_STREAM})",
            hint="is this the NATS of the cluster?",
            code=ExitCode.NOT_FOUND,
        ) from error
    finally:
        await connection.close()


def _print(subject: str, payload: bytes, output: Format) -> None:
    import msgspec

    event = msgspec.json.decode(payload)
    if output is Format.TABLE:
        data = event.get("data", {})
        told = {
            key: value
            for key, value in data.items()
            if key not in ("scope", "stream") and not isinstance(value, list | dict)
        }
        words = " ".join(f"{key}={value}" for key, value in told.items())
        print(f"{event['time']}  {event['type']}  {event.get('subject', '')}  {words}", flush=True)
    else:
        # One event a line in both JSON forms: a stream has no end to close an array at.
        emit([{"nats_subject": subject, **event}], Format.JSONL)
