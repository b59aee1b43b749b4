"""Carries news to the rules and their effects to the cluster.

One autoscaler acts, the others know just as much and stand by. Two that act at once would do
no harm: a command carries the epoch that it was decided on, and the controller refuses the
second. So the lease in the registry only saves work, and while the registry is away everyone
goes on as before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec
import structlog
from anabranch_events import subjects
from anabranch_events.bus import LoadReport, ScaleAnswer
from anabranch_events.domain import StreamBatch
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStore, Record
from anabranch_kit.ports.registry import Registry, RegistryUnavailable
from prometheus_client import Counter, Gauge

from anabranch_autoscaler.domain.scaler import Ask, Autoscaler, Outcome, ShowRates, Warn
from anabranch_autoscaler.ports import Cluster, Unanswered, Untold

LEASE_NAME: Final = "autoscaler"
LEASE_MS: Final = 3_000
LEASE_REFRESH_S: Final = 1.0
assert LEASE_MS >= 3 * LEASE_REFRESH_S * 1000, "two lost refreshes must not change the actor"

# News is looked at this often; it adds at most this much to the reaction time.
TICK_S: Final = 0.2
ASKED_AT_ONCE_MAX: Final = 16  # commands on their way, over all streams

log = structlog.stdlib.get_logger("anabranch.autoscaler")

COMMANDS = Counter("anabranch_autoscaler_commands", "Scale commands by outcome", ["outcome"])
REPORTS = Counter("anabranch_autoscaler_reports", "Load reports taken")
STREAMS = Gauge("anabranch_autoscaler_streams", "Streams known")
ACTS = Gauge("anabranch_autoscaler_acts", "1 while this instance acts, 0 while it stands by")


@dataclass(slots=True)
class Handlers:
    """The running autoscaler; `holder` names this process in the lease."""

    autoscaler: Autoscaler
    cluster: Cluster
    events: EventStore
    registry: Registry
    clock: Clock
    holder: str
    acts: bool = False
    followed: int = 0
    _decoder: msgspec.json.Decoder[StreamBatch] = field(
        default_factory=lambda: msgspec.json.Decoder(StreamBatch)
    )
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASKED_AT_ONCE_MAX))

    # --- news ----------------------------------------------------------------------------

    def take_report(self, report: LoadReport) -> None:
        REPORTS.inc()
        self.autoscaler.report(report, now_s=self.clock.monotonic())

    async def follow_events(self) -> None:
        """Fold the event log of all streams, for ever."""
        async for record in self.events.follow(subject=subjects.STREAM_EVENTS_ALL):
            self._take_record(record)
            self.followed = record.sequence
            STREAMS.set(len(self.autoscaler.streams))

    def _take_record(self, record: Record) -> None:
        scope, stream = (subjects.name_of(token) for token in record.subject.split(".")[3:5])
        try:
            batch = self._decoder.decode(record.payload)
        except msgspec.DecodeError as error:
            # Better not to scale a stream than to scale what is only half known.
            log.error(  # noqa: TRY400
                "autoscaler.events_unreadable",
                scope=scope,
                stream=stream,
                sequence=record.sequence,
                error=str(error),
            )
            self.autoscaler.forget(scope, stream)
        else:
            self.autoscaler.fold(scope, stream, batch, now_s=self.clock.monotonic())

    # --- the lease -----------------------------------------------------------------------

    async def hold_lease(self) -> None:
        """Act while the lease is ours, and while nobody can say whose it is."""
        away = False
        try:
            while True:
                try:
                    is_ours = await self.registry.acquire_lease(
                        LEASE_NAME, self.holder, lease_ms=LEASE_MS
                    )
                except RegistryUnavailable as error:
                    if not away:
                        log.warning("autoscaler.lease_unknown", error=str(error), acts=self.acts)
                    away = True
                else:
                    away = False
                    self._set_acts(is_ours)
                await self.clock.sleep(LEASE_REFRESH_S)
        finally:
            await self._release()

    def _set_acts(self, acts: bool) -> None:
        if acts != self.acts:
            log.info("autoscaler.acts" if acts else "autoscaler.stands_by", holder=self.holder)
        self.acts = acts
        ACTS.set(acts)

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(LEASE_REFRESH_S):
                await self.registry.release_lease(LEASE_NAME, self.holder)
        except (RegistryUnavailable, TimeoutError) as error:
            log.info("autoscaler.lease_left", error=str(error))  # it ends by itself

    # --- effects -------------------------------------------------------------------------

    async def act(self, tasks: asyncio.TaskGroup) -> None:
        """Look at the news and perform what follows, for ever."""
        while True:
            await self.clock.sleep(TICK_S)
            if not self.acts:
                continue
            now_s, now_ms = self.clock.monotonic(), self.clock.now_ms()
            for effect in self.autoscaler.tick(now_s=now_s, now_ms=now_ms):
                match effect:
                    case Ask():
                        tasks.create_task(self._ask(effect))
                    case ShowRates():
                        await self._show(effect)
                    case Warn():
                        await self._warn(effect, now_ms)
                    case _:
                        assert_never(effect)

    async def _ask(self, ask: Ask) -> None:
        command = ask.command
        bound = log.bind(scope=command.scope, stream=command.stream, epoch=command.epoch)
        for decision in ask.decisions:
            kind = type(decision).__name__.lower()
            bound.info("autoscaler.decided", decision=kind, reason=decision.reason)
        async with self._slots:
            outcome, detail = await self._outcome(ask)
        COMMANDS.labels(outcome).inc()
        self.autoscaler.answered(command, outcome, now_s=self.clock.monotonic())
        level = bound.info if outcome == "started" else bound.warning
        level("autoscaler.answered", outcome=outcome, detail=detail, seal=command.seal)

    async def _outcome(self, ask: Ask) -> tuple[Outcome, str]:
        try:
            answer: ScaleAnswer = await self.cluster.scale(ask.command)
        except Unanswered as error:
            return "unknown", str(error)
        return answer.outcome, answer.detail

    async def _show(self, effect: ShowRates) -> None:
        try:
            await self.cluster.show_rates(effect.rates)
        except Untold as error:  # the next ones follow in a second
            log.debug("autoscaler.rates_lost", error=str(error))

    async def _warn(self, effect: Warn, now_ms: int) -> None:
        warning = effect.warning
        log.warning(
            "autoscaler.warning", scope=warning.scope, stream=warning.stream, detail=warning.detail
        )
        try:
            await self.cluster.warn(warning, key=effect.key, at_ms=now_ms)
        except Untold as error:  # the log above has it
            log.warning("autoscaler.warning_untold", error=str(error))
