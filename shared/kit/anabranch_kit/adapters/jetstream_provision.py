"""Making JetStream streams and consumers be as they are declared, any number of times.

Each service provisions what it uses at start; several may do it at once. An existing stream
is changed where it differs in a declared setting, and never deleted or recreated: what the
server refuses to change is reported with both values, for an operator to decide.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig

from anabranch_kit.ports.clock import Clock

API_TIMEOUT_S: Final = 2.0
READY_WAIT_S: Final = 10.0
RETRY_PAUSE_S: Final = 0.1

log = structlog.stdlib.get_logger("anabranch.jetstream")


class ProvisionFailed(Exception):
    """A stream or consumer cannot be made as declared."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"JetStream: {name}: {reason}")
        self.name, self.reason = name, reason


async def ensure_stream(client: Client, wanted: StreamConfig, *, clock: Clock) -> None:
    """Create the stream or bring it to the declared settings. Raises ProvisionFailed."""
    assert wanted.name is not None
    jetstream = client.jetstream(timeout=API_TIMEOUT_S)
    deadline = clock.monotonic() + READY_WAIT_S
    while True:
        try:
            await _ensure_stream_once(jetstream, wanted)
        except (TimeoutError, nats.errors.Error) as error:
            if not passes_by_itself(error) or clock.monotonic() > deadline:
                raise ProvisionFailed(wanted.name, describe(error)) from error
            await clock.sleep(RETRY_PAUSE_S)
        else:
            return


async def _ensure_stream_once(jetstream: JetStreamContext, wanted: StreamConfig) -> None:
    assert wanted.name is not None
    try:
        present = (await jetstream.stream_info(wanted.name)).config
    except nats.js.errors.NotFoundError:
        # Another service may be as far as this one: an identical creation succeeds twice.
        await jetstream.add_stream(wanted)
        log.info("jetstream.stream_created", stream=wanted.name)
        return
    differing = _declared_differences(wanted, present)
    if differing:
        for name in differing:
            setattr(present, name, getattr(wanted, name))
        await jetstream.update_stream(present)
        log.info("jetstream.stream_changed", stream=wanted.name, settings=sorted(differing))


async def ensure_consumer(
    client: Client, stream: str, wanted: ConsumerConfig, *, clock: Clock
) -> None:
    """Create the durable consumer or bring it to the declared settings. Raises ProvisionFailed."""
    assert wanted.durable_name is not None
    jetstream = client.jetstream(timeout=API_TIMEOUT_S)
    deadline = clock.monotonic() + READY_WAIT_S
    while True:
        try:
            await jetstream.add_consumer(stream, wanted)  # also updates one that is there
        except (TimeoutError, nats.errors.Error) as error:
            if not passes_by_itself(error) or clock.monotonic() > deadline:
                name = f"{stream}/{wanted.durable_name}"
                raise ProvisionFailed(name, describe(error)) from error
            await clock.sleep(RETRY_PAUSE_S)
        else:
            return


def passes_by_itself(error: BaseException) -> bool:
    """Whether waiting can help: a server that is starting, electing or away."""
    if isinstance(error, nats.js.errors.APIError):
        return error.code == 503
    return not isinstance(error, nats.errors.ConnectionClosedError)


def describe(error: BaseException) -> str:
    if isinstance(error, nats.js.errors.APIError):
        return f"{error.description} (error {error.err_code})"
    return str(error) or f"no answer ({type(error).__name__})"


def _declared_differences(wanted: StreamConfig, present: StreamConfig) -> list[str]:
    """Settings that the declaration names and the server has otherwise."""
    defaults = StreamConfig()
    return [
        one.name
        for one in fields(StreamConfig)
        if getattr(wanted, one.name) != getattr(defaults, one.name)
        and getattr(wanted, one.name) != getattr(present, one.name)
    ]
