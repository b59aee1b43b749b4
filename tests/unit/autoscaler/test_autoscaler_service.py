"""The autoscaler as a process: reports in, a command out, with real NATS and Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from anabranch_events import subjects
from anabranch_events.bus import LoadReport, ScaleAnswer, ScaleCommand, SegmentLoad, StreamRates
from anabranch_events.domain import StreamActivated, StreamBatch, StreamCreated
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig
from anabranch_kit.adapters.jetstream_event_store import JetStreamEventStore
from anabranch_kit.adapters.nats_bus import NatsBus
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_testkit.servers import Server
from anabranch_testkit.waiting import eventually
from nats.aio.client import Client


@asynccontextmanager
async def autoscaler(nats: Server, valkey: Server, member: str) -> AsyncIterator[subprocess.Popen]:
    command = [
        sys.executable, "-m", "anabranch_autoscaler", "--nats-url", nats.url,
        "--redis-url", valkey.url, "--member", member, "--log-format", "json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: ASYNC220
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        print(process.stderr.read().decode(errors="replace"))


class Pretend:
    """A controller and a segment store, as far as the autoscaler can tell."""

    def __init__(self, client: Client, bus: NatsBus) -> None:
        self.bus = bus
        self.store = JetStreamEventStore(client, clock=SystemClock())
        self.commands: list[ScaleCommand] = []
        self.rates: list[StreamRates] = []
        self.sequence = 0

    async def start(self) -> None:
        await self.store.provision()
        config = StreamConfig(
            scaling=ScalingPolicy("events_per_sec", 10, 2, 1),
            tags=("anabranch.scale.window=2s", "anabranch.scale.cooldown=1s"),
        )
        created = StreamCreated("s.1", "t", "i", config, (SegmentRange(0, 0.0, 1.0),), 0)
        batch = StreamBatch("b1", "controller-0", 0, (created, StreamActivated()))
        subject = subjects.stream_events("s.1", "t")
        await self.store.append(
            subject, msgspec.json.encode(batch), expected_sequence=0, batch_id="b1"
        )
        await self.bus.serve(subjects.SCALE_COMMAND, self.answer, queue=subjects.CONTROLLERS_QUEUE)
        await self.bus.subscribe(subjects.RATES_ALL, self.shown)

    async def answer(self, payload: bytes) -> bytes:
        self.commands.append(msgspec.json.decode(payload, type=ScaleCommand))
        return msgspec.json.encode(ScaleAnswer("refused", "only pretending"))

    async def shown(self, subject: str, payload: bytes) -> None:
        self.rates.append(msgspec.json.decode(payload, type=StreamRates))

    async def report_until(self, done, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "nothing was decided"
            self.sequence += 1
            load = SegmentLoad("s.1/t/0.#epoch.0", 1e4, 100.0, 0, 60_000)
            report = LoadReport("store", "x", self.sequence, 0, 500, [load])
            await self.bus.publish(subjects.load_report("store"), msgspec.json.encode(report))
            await self.bus.publish(subjects.load_report("store"), b"what is this")
            await asyncio.sleep(0.5)


@pytest.fixture
async def pretend(nats_client: Client) -> Pretend:
    world = Pretend(nats_client, NatsBus(nats_client))
    await world.start()
    return world


async def test_a_loaded_stream_gets_a_command_and_its_rates_are_shown(
    nats_server: Server, valkey_server: Server, pretend: Pretend, redis_registry: RedisRegistry
):
    """No stream would ever scale by itself."""
    async with autoscaler(nats_server, valkey_server, "autoscaler-0") as process:
        await pretend.report_until(lambda: pretend.commands and pretend.rates)
        command = pretend.commands[0]
        assert (command.scope, command.stream, command.epoch) == ("s.1", "t", 0)
        assert command.seal == (0,)
        assert [(r.low, r.high) for r in command.ranges] == [(0.0, 0.5), (0.5, 1.0)]
        assert pretend.rates[-1].segments[0].rate == pytest.approx(100.0)
        [member] = await redis_registry.members("autoscaler")
        assert member.id == "autoscaler-0"
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert await redis_registry.members("autoscaler") == []


async def test_a_standby_takes_over_when_the_acting_one_is_killed(
    nats_server: Server, valkey_server: Server, pretend: Pretend
):
    """The death of one process would end all scaling."""
    async with autoscaler(nats_server, valkey_server, "autoscaler-0") as first:
        await pretend.report_until(lambda: pretend.commands)
        async with autoscaler(nats_server, valkey_server, "autoscaler-1"):
            os.kill(first.pid, signal.SIGKILL)
            await eventually(lambda: first.poll() is not None)
            count = len(pretend.commands)
            await pretend.report_until(lambda: len(pretend.commands) > count)


async def test_scaling_goes_on_while_the_registry_is_away(
    nats_server: Server, valkey_server: Server, pretend: Pretend
):
    """An outage of the registry would freeze every stream at its size."""
    async with autoscaler(nats_server, valkey_server, "autoscaler-0"):
        await pretend.report_until(lambda: pretend.commands)
        await valkey_server.kill()
        count = len(pretend.commands)
        await pretend.report_until(lambda: len(pretend.commands) > count + 1)


async def test_scaling_goes_on_after_nats_was_killed(
    nats_server: Server, valkey_server: Server, pretend: Pretend
):
    """A restart of the bus would need a restart of the autoscaler."""
    async with autoscaler(nats_server, valkey_server, "autoscaler-0") as process:
        await pretend.report_until(lambda: pretend.commands)
        await nats_server.restart()
        await eventually(lambda: pretend.bus._client.is_connected)
        count = len(pretend.commands)
        await pretend.report_until(lambda: len(pretend.commands) > count)
        assert process.poll() is None


def test_a_wrong_setting_is_named():
    """A negative window would be found out in production."""
    command = [sys.executable, "-m", "anabranch_autoscaler", "--window-s", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "--window-s" in done.stderr
