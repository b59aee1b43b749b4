"""One NATS connection per process, opened so that its failures are quick and readable.

Two habits of nats-py are worked around here. A refused *first* attempt sleeps the whole
reconnect wait before it says anything, so the TCP port is probed first. And the default
reconnect wait of two seconds is longer than a restarted server needs, so it is short here,
and the attempts never end: a service that has lost its bus goes on trying.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Final
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from anabranch_kit.ports.clock import Clock

RECONNECT_WAIT_S: Final = 0.1
# A message published while the server is away waits here; a full buffer refuses at once.
PENDING_BYTES_MAX: Final = 16 * 1024 * 1024
PROBE_TIMEOUT_S: Final = 1.0
PROBE_PAUSE_S: Final = 0.05
CONNECT_TIMEOUT_S: Final = 2
PING_INTERVAL_S: Final = 5
PINGS_MISSED_MAX: Final = 2
NATS_PORT_DEFAULT: Final = 4222


class NatsUnreachable(Exception):
    """No NATS server answers at this address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"NATS at {url}: {reason}. "
            "Is the server running, and is this its address? Set it with --nats-url."
        )
        self.url, self.reason = url, reason


async def connect_nats(url: str, *, name: str, clock: Clock, wait_s: float = 10.0) -> Client:
    """Connect, waiting up to `wait_s` for a server that is still starting.

    `url` may name several servers of one cluster, separated by commas; one has to answer.

    Raises NatsUnreachable. The caller owns the client and closes it; `name` is shown in the
    server's list of connections.
    """
    log = structlog.stdlib.get_logger("anabranch.nats").bind(url=url, client=name)
    deadline = clock.monotonic() + wait_s
    await _probe_until_open(url, clock, deadline)

    client = Client()

    async def disconnected() -> None:
        if not client.is_closed:
            log.warning("nats.disconnected")

    async def reconnected() -> None:
        log.info("nats.reconnected")

    async def failed(error: Exception) -> None:
        # Refused attempts repeat ten times a second; the disconnect above has said it already.
        if isinstance(error, OSError | nats.errors.UnexpectedEOF):
            return
        log.warning("nats.error", error=str(error) or type(error).__name__)

    try:
        async with asyncio.timeout(max(wait_s, CONNECT_TIMEOUT_S)):
            await client.connect(
                [one.strip() for one in url.split(",")],
                name=name,
                connect_timeout=CONNECT_TIMEOUT_S,
                # Typed as an integer there, used as the seconds of a sleep.
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=PINGS_MISSED_MAX,
                pending_size=PENDING_BYTES_MAX,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                error_cb=failed,
            )
    except TimeoutError:
        raise NatsUnreachable(url, "the port is open but no NATS server greets there") from None
    except nats.errors.Error as error:
        raise NatsUnreachable(url, str(error)) from error
    return client


async def _probe_until_open(url: str, clock: Clock, deadline: float) -> None:
    addresses = [_address(one.strip()) for one in url.split(",")]
    for attempt in itertools.count():
        host, port = addresses[attempt % len(addresses)]
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except (OSError, TimeoutError) as error:
            if clock.monotonic() >= deadline:
                reason = str(error) or f"no answer within {PROBE_TIMEOUT_S:g} s"
                raise NatsUnreachable(url, reason) from error
            await clock.sleep(PROBE_PAUSE_S)
        else:
            return


def _address(url: str) -> tuple[str, int]:
    """Host and port of one server; raises NatsUnreachable for what is no address."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise NatsUnreachable(url, f"not an address ({error})") from error
    if not host:
        raise NatsUnreachable(url, "not an address, expected nats://host:port")
    return host, port or NATS_PORT_DEFAULT
