"""`anabranch demo taxi`: the whole night, from the cluster to the heat map.

The writer and the readers are processes of their own and speak in lines of JSON; scaling
events and rates are taken from the bus, as any operator could. What the demo claims at the end
it has checked: every trip read exactly once and in order per key, and a stream that shrank and
grew with the traffic.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
from anabranch_cli.addresses import address
from anabranch_cli.output import ExitCode, Problem
from anabranch_events import feed, subjects
from anabranch_events.bus import StreamRates
from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from anabranch_standalone.demo import heatmap, heatmap_html, heatmap_png, stream
from anabranch_standalone.demo.messages import Message, ReaderOrder, WriterOrder
from anabranch_standalone.demo.night import DemoFailed, Night
from anabranch_standalone.demo.nightclock import NIGHT_S, label
from anabranch_standalone.demo.plan import Policy, policy_for
from anabranch_standalone.demo.screen import Screen
from anabranch_standalone.demo.story import Check, Story, tell
from anabranch_standalone.demo.throwaway import end_with_parent, throwaway_cluster
from anabranch_standalone.demo.tripfiles import NoTrips, read_trips
from anabranch_standalone.demo.trips import (
    TRIPS_MAX,
    Trip,
    busiest,
    generate,
    peak_to_mean,
    repeat,
)
from anabranch_standalone.demo.verify import Verdict, verify

SCOPE: Final = "taxi"
PNG_NAME: Final = "taxi-heatmap.png"
HTML_NAME: Final = "taxi-heatmap.html"

READY_LIMIT_S: Final = 60.0
# The writer may fall behind its plan on a slow machine, and catches up.
WRITE_SLACK_S: Final = 120.0
READ_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 10.0
LINE_LENGTH_MAX: Final = 16 * 1024 * 1024
SAID_SHOWN_LENGTH: Final = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxiOptions:
    """`peak_rate` is events per real second in the busiest half hour."""

    out: Path
    seconds: float
    peak_rate: int
    event_length_bytes: int
    readers_count: int
    seed: int
    trips: Path | None = None
    controller: str | None = None
    nats: str | None = None
    cluster: Path | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else's cluster is to be used."""
        return self.controller is not None or self.cluster is not None


class Summary(msgspec.Struct, frozen=True):
    """What is printed in the end; the members are the keys of `-o json`."""

    stream: str
    trips: str
    events: int
    megabytes: float
    seconds: float
    target_kb_per_s: int
    splits: int
    merges: int
    segments_max: int
    segments_min: int
    splits_in_a_row: int
    reaction_median_s: float | None
    reaction_max_s: float | None
    verdict: str
    checks: dict[str, str]
    passed: bool
    png: str
    html: str


class _Plan(msgspec.Struct, frozen=True):
    trips: list[Trip]
    policy: Policy
    origin: str


async def taxi(options: TaxiOptions, screen: Screen) -> Summary:
    """Run the demo. Raises Problem; a failed check is no Problem but told in the summary."""
    plan = _plan(options, screen)
    async with AsyncExitStack() as stack:
        if options.is_foreign:
            controller = address("controller", flag=options.controller, cluster=options.cluster)
            nats_url = address("nats", flag=options.nats, cluster=options.cluster)
        else:
            screen.say("starting a cluster …")
            cluster = await stack.enter_async_context(throwaway_cluster())
            controller, nats_url = cluster.controller, cluster.nats
        name = f"trips-{time.time_ns() // 1_000_000_000}" if options.is_foreign else "trips"
        night = Night(options.seconds, options.readers_count, screen)
        bus = await _connect(nats_url)
        stack.push_async_callback(bus.close)
        await _listen(bus, name, night)
        order = stream.StreamOrder(controller, SCOPE, name, plan.policy)
        await asyncio.to_thread(stream.check_controller, controller)
        await stream.create(order)
        await asyncio.to_thread(stream.lower_minimum, order)
        screen.say(_opening(name, plan, options))
        await _Processes(options, controller, name, night).run(plan)
        screen.close()
        return _finish(options, plan, name, night, screen)


# --- the plan ----------------------------------------------------------------------------


def _plan(options: TaxiOptions, screen: Screen) -> _Plan:
    rng = random.Random(options.seed)
    if options.trips is None:
        count = round(options.peak_rate * options.seconds / peak_to_mean())
        trips, origin = generate(_checked(count), rng), f"generated from seed {options.seed}"
    else:
        try:
            reading = read_trips(options.trips, rng)
        except NoTrips as error:
            raise Problem(str(error), hint="see --help for --trips", code=ExitCode.USAGE) from error
        screen.say(f"{options.trips}: {reading.summary()}")
        speed = NIGHT_S / options.seconds
        peak = busiest(reading.trips)[1] * speed
        count = round(len(reading.trips) * options.peak_rate / peak)
        trips = repeat(reading.trips, _checked(count), rng)
        origin = f"{options.trips.name}, repeated {count / len(reading.trips):.1f} times"
    peak_rate = busiest(trips)[1] * NIGHT_S / options.seconds
    policy = policy_for(
        peak_rate=peak_rate,
        event_length_bytes=options.event_length_bytes,
        seconds=options.seconds,
    )
    return _Plan(trips, policy, origin)


def _checked(count: int) -> int:
    if count > TRIPS_MAX:
        raise Problem(
            f"that would be {count:,} trips, at most {TRIPS_MAX:,} are possible",
            hint="lower --rate or --seconds",
            code=ExitCode.USAGE,
        )
    return count


def _opening(name: str, plan: _Plan, options: TaxiOptions) -> str:
    at_s, _ = busiest(plan.trips)
    return (
        f"{len(plan.trips):,} trips ({plan.origin}) on {SCOPE}/{name}, 23:00 to 11:00 in"
        f" {options.seconds:g} s, busiest at {label(at_s)};"
        f" target {plan.policy.target_kb_per_s} KB/s per segment, {', '.join(plan.policy.tags)}"
    )


# --- the bus -----------------------------------------------------------------------------


async def _connect(url: str) -> Client:
    try:
        return await connect_nats(url, name="anabranch demo taxi", clock=SystemClock(), wait_s=2)
    except NatsUnreachable as error:
        raise Problem(
            str(error), hint="name the NATS of the cluster with --nats", code=ExitCode.UNREACHABLE
        ) from error


async def _listen(bus: Client, name: str, night: Night) -> None:
    """Scaling events from the public feed, rates from their own subject."""
    rates_decoder = msgspec.json.Decoder(StreamRates)

    async def rates_came(message: Msg) -> None:
        night.hear_rates(rates_decoder.decode(message.data))

    async def event_came(message: Msg) -> None:
        event = msgspec.json.decode(message.data, type=feed.CloudEvent)
        night.hear_scaled(msgspec.json.decode(event.data, type=feed.StreamScaled))

    scaled = subjects.feed(feed.KINDS[feed.StreamScaled], SCOPE, name)
    try:
        await bus.subscribe(subjects.rates(SCOPE, name), cb=rates_came)
        # From the feed's stream, so that a moment without NATS hides nothing.
        await bus.jetstream().subscribe(
            scaled,
            stream=subjects.FEED_STREAM,
            cb=event_came,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
        )
    except (TimeoutError, nats.errors.Error) as error:
        raise Problem(
            f"the public feed cannot be followed: {str(error) or type(error).__name__}",
            hint="is this the NATS of the cluster?",
            code=ExitCode.UNREACHABLE,
        ) from error


# --- the processes -----------------------------------------------------------------------


class _Processes:
    """The writer and the readers: started, listened to, stopped."""

    def __init__(self, options: TaxiOptions, controller: str, name: str, night: Night) -> None:
        self._options, self._controller, self._name = options, controller, name
        self._night = night
        self._processes: list[asyncio.subprocess.Process] = []

    async def run(self, plan: _Plan) -> None:
        """Until all that was written is read, or it took too long. Raises Problem."""
        with tempfile.TemporaryDirectory(prefix="anabranch-taxi-plan-") as folder:
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._start_readers(tasks, Path(folder))
                    await self._limited(self._night.all_ready, READY_LIMIT_S, "readers to join")
                    await self._start_writer(tasks, Path(folder), plan)
                    limit_s = self._options.seconds + WRITE_SLACK_S
                    await self._limited(self._night.all_written, limit_s, "writer to end")
                    await self._until_read()
                    await self._stop()
            except* DemoFailed as failures:
                raise Problem(str(failures.exceptions[0])) from None
            except* Problem as problems:
                raise problems.exceptions[0] from None
            finally:
                await self._kill()

    async def _start_readers(self, tasks: asyncio.TaskGroup, folder: Path) -> None:
        for number in range(self._options.readers_count):
            order = ReaderOrder(
                self._controller, SCOPE, self._name, f"{self._name}-readers", f"reader-{number}"
            )
            await self._start(tasks, "reader", order, folder)

    async def _start_writer(self, tasks: asyncio.TaskGroup, folder: Path, plan: _Plan) -> None:
        path = folder / "plan.msgpack"
        path.write_bytes(msgspec.msgpack.encode(plan.trips))
        options = self._options
        order = WriterOrder(
            self._controller,
            SCOPE,
            self._name,
            str(path),
            options.seconds,
            options.event_length_bytes,
            options.seed,
        )
        await self._start(tasks, "writer", order, folder)

    async def _start(
        self,
        tasks: asyncio.TaskGroup,
        module: str,
        order: ReaderOrder | WriterOrder,
        folder: Path,
    ) -> None:
        log = folder / f"{module}-{len(self._processes)}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"anabranch_standalone.demo.{module}",
                msgspec.json.encode(order).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=LINE_LENGTH_MAX,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        self._processes.append(process)
        tasks.create_task(self._hear(process, module, log))

    async def _hear(self, process: asyncio.subprocess.Process, who: str, log: Path) -> None:
        """Everything that a process says. Raises DemoFailed when it ended badly."""
        assert process.stdout is not None
        decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
        async for line in process.stdout:
            self._night.hear(decoder.decode(line))
        status = await process.wait()
        if status != 0:
            said = log.read_text(errors="replace").strip()[-SAID_SHOWN_LENGTH:]
            raise DemoFailed(f"the {who} ended with status {status}: {said or 'without a word'}")

    async def _limited(self, event: asyncio.Event, limit_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await event.wait()
        except TimeoutError:
            raise Problem(
                f"waited {limit_s:g} s in vain for the {what}",
                hint="look at the logs of the cluster; a slow machine may need a lower --rate",
                code=ExitCode.TIMED_OUT,
            ) from None

    async def _until_read(self) -> None:
        """What is not read by then is missing, and the verdict says so."""
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                await self._night.all_read.wait()
        except TimeoutError:
            self._night.screen.say(f"the readers did not catch up within {READ_LIMIT_S:g} s")

    async def _stop(self) -> None:
        """Closing their standard input ends the readers."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                for process in self._processes:
                    await process.wait()
        except TimeoutError:
            raise Problem(f"a reader did not end within {STOP_LIMIT_S:g} s") from None

    async def _kill(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


# --- the end -----------------------------------------------------------------------------


def _finish(options: TaxiOptions, plan: _Plan, name: str, night: Night, screen: Screen) -> Summary:
    assert night.clock is not None
    assert night.done is not None
    story = tell(night.clock, night.initial, list(night.scaled.values()), night.samples)
    verdict = verify(night.done.counts, night.runs)
    checks = [_verdict_check(verdict, night.garbled_count), *story.checks]
    for check in checks:
        screen.say(f"{'ok    ' if check.is_good else 'FAILED'}  {check.name}: {check.detail}")
    png, html = _draw(options, plan, night, story)
    reaction = story.reaction
    return Summary(
        stream=f"{SCOPE}/{name}",
        trips=plan.origin,
        events=verdict.events_count,
        megabytes=round(night.done.length_bytes / 1e6, 1),
        seconds=options.seconds,
        target_kb_per_s=plan.policy.target_kb_per_s,
        splits=story.splits,
        merges=story.merges,
        segments_max=story.segments_max,
        segments_min=story.segments_min,
        splits_in_a_row=story.splits_in_a_row,
        reaction_median_s=reaction.median_s if reaction else None,
        reaction_max_s=reaction.max_s if reaction else None,
        verdict=verdict.sentence(),
        checks={check.name: "ok" if check.is_good else "failed" for check in checks},
        passed=all(check.is_good for check in checks),
        png=str(png),
        html=str(html),
    )


def _verdict_check(verdict: Verdict, garbled_count: int) -> Check:
    detail = verdict.sentence()
    if garbled_count:
        detail += f", {garbled_count:,} garbled"
    name = "every trip is read exactly once and in order per key"
    return Check(name, verdict.is_good and not garbled_count, detail)


def _draw(options: TaxiOptions, plan: _Plan, night: Night, story: Story) -> tuple[Path, Path]:
    assert night.clock is not None
    assert night.done is not None
    megabytes = night.done.length_bytes / 1e6
    picture = heatmap.compose(
        title="A night of New York taxi trips on one stream",
        subtitle=(
            f"{len(plan.trips):,} trips, {megabytes:,.1f} MB, 23:00 to 11:00 in"
            f" {options.seconds:g} s; {story.splits} splits and {story.merges} merges,"
            f" {story.segments_min} to {story.segments_max} segments;"
            f" target {plan.policy.target_kb_per_s} KB/s per segment"
        ),
        unit="KB/s",
        target_rate=plan.policy.target_kb_per_s,
        clock=night.clock,
        initial=night.initial,
        samples=night.samples,
        scaled=list(night.scaled.values()),
    )
    png, html = options.out / PNG_NAME, options.out / HTML_NAME
    try:
        png.write_bytes(heatmap_png.draw(picture))
        html.write_text(heatmap_html.page(picture), encoding="utf-8")
    except OSError as error:
        raise Problem(f"the heat map cannot be written: {error}", hint="choose --out") from error
    return png, html
