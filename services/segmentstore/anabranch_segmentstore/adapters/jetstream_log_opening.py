"""Taking a container's stream over: mint, fence, find the end.

*Mint*: publish an epoch record where the stream ends. Only one opener wins a place. Against an
owner that goes on writing, the end has moved before the record arrives; so later tries publish a
row of records for a row of places, the last place first: wherever the stream ends when they
arrive, one of them fits, and those behind it in the row do not any more.

*Fence*: fill the record's zone (theory in jetstream_log_format).

*Find the end*: read the last message of every epoch in the stream. Its stamp tells the newest
position, the newest snapshot, and from where on every message must be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import structlog
from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock

from anabranch_segmentstore.adapters.jetstream_log_format import (
    FENCE_MESSAGES,
    FRAMES,
    Broken,
    Kind,
    Region,
    Stamp,
    StreamDamaged,
    check,
    decode,
    decode_owner,
    encode,
    encode_owner,
    regions,
    trimmed,
)
from anabranch_segmentstore.adapters.jetstream_log_stream import (
    ContainerStream,
    Ends,
    StreamUnavailable,
    WrongLastSequence,
)
from anabranch_segmentstore.ports import LogFailed, LogFenced

OPEN_WAIT_S: Final = 30.0  # a server that restarts is back before; longer, and the host tries again
RETRY_PAUSE_S: Final = 0.1
MINT_ROWS: Final = (1, 8, 64, 256)  # places tried at once; the last one again and again
MINT_TRIES_MAX: Final = 20

Result = TypeVar("Result")
log = structlog.stdlib.get_logger("anabranch.log")


class Opened(NamedTuple):
    """`regions` are the trimmed ones of the earlier epochs; the new one begins at `begin`. The
    rest as in a Stamp. `is_released`: the last owner said that it had stopped. `minted_at`: when
    the epoch record was sent at the latest, monotonic."""

    epoch: int
    minted_at: float
    begin: int
    regions: list[Region]
    stored_bytes: int
    is_released: bool
    position: int = 0
    snapshot: int = 0
    snapshot_position: int = 0
    kept_from: int = 0


class Opening:
    """One attempt to open a container's log."""

    def __init__(self, stream: ContainerStream, *, owner: str, clock: Clock, new_id: NewId) -> None:
        self._stream, self._clock = stream, clock
        self._body = encode_owner(new_id().bytes, owner)
        self._deadline = clock.monotonic() + OPEN_WAIT_S

    async def open(self) -> Opened:
        """Raises LogFenced, LogDamaged, and LogFailed when the server stays away."""
        stream = self._stream
        await stream.provision()
        epoch = await self._mint()
        minted_at = self._clock.monotonic()
        await self._fence(epoch)
        ends = await self.retried(stream.ends)
        records = await self.retried(lambda: stream.epoch_records(ends.first))
        if not records or records[-1] != epoch:
            raise LogFenced(stream.container, epoch, records[-1] if records else 0)
        return await self._find_end(epoch, minted_at, ends, records)

    async def retried(self, action: Callable[[], Awaitable[Result]]) -> Result:
        """Until the server answers. Raises LogFailed after OPEN_WAIT_S."""
        while True:
            try:
                return await action()
            except StreamUnavailable as error:
                await self._pause_or_give_up(error)

    async def _pause_or_give_up(self, error: StreamUnavailable) -> None:
        if self._clock.monotonic() >= self._deadline:
            reason = f"NATS stream {self._stream.name}: {error}"
            raise LogFailed(self._stream.container, reason) from error
        await self._clock.sleep(RETRY_PAUSE_S)

    # --- Mint ---

    async def _mint(self) -> int:
        for turn in range(MINT_TRIES_MAX):
            end = (await self.retried(self._stream.ends)).last
            row = MINT_ROWS[min(turn, len(MINT_ROWS) - 1)]
            places = range(end + row, end, -1)
            won = await asyncio.gather(*(self._mint_at(place) for place in places))
            if any(won):
                return max(place for place, is_won in zip(places, won, strict=True) if is_won)
        raise LogFailed(
            self._stream.container,
            f"others wrote to the stream {self._stream.name} faster than its epoch could be "
            "minted; stop the segment store that still writes to it",
        )

    async def _mint_at(self, place: int) -> bool:
        """Whether our epoch record has this place. Repeated until that is certain: a record that
        arrived later would fence ourselves."""
        message, checksum = self._record(Kind.EPOCH, place, place)

        async def try_once() -> bool:
            try:
                subject = self._stream.epochs_subject
                return await self._stream.publish(subject, message, expected=place - 1) == place
            except WrongLastSequence:
                return False

        is_first_try = True
        while True:
            try:
                if await try_once():
                    return True
                # An earlier try may have been stored without our hearing of it.
                return not is_first_try and await self._has(place, checksum)
            except StreamUnavailable as error:
                is_first_try = False
                await self._pause_or_give_up(error)

    async def _has(self, place: int, checksum: int) -> bool:
        message = await self.retried(lambda: self._stream.message(place))
        if message is None:
            return False
        try:
            return decode(message)[0].checksum == checksum
        except Broken:
            return False

    def _record(self, kind: Kind, epoch: int, place: int) -> tuple[bytes, int]:
        stamp = Stamp(kind, True, self._stream.container, 0, epoch, place, 0, 0, 0, 0, 0)
        return encode(stamp, [self._body] if kind is Kind.EPOCH else [])

    # --- Fence ---

    async def _fence(self, epoch: int) -> None:
        end_of_zone = epoch + FENCE_MESSAGES
        while True:
            last = (await self.retried(self._stream.ends)).last
            if last >= end_of_zone:
                return
            places = range(last + 1, end_of_zone + 1)
            failures = await asyncio.gather(*(self._fill(epoch, place) for place in places))
            for failure in failures:
                if failure is not None:
                    await self._pause_or_give_up(failure)
                    break

    async def _fill(self, epoch: int, place: int) -> StreamUnavailable | None:
        message, _ = self._record(Kind.FENCE, epoch, place)
        subject = self._stream.frames_subject
        try:
            await self._stream.publish(subject, message, expected=place - 1)
        except WrongLastSequence:
            return None  # a straggler was faster
        except StreamUnavailable as error:
            return error
        return None

    # --- Find the end ---

    async def _find_end(
        self, epoch: int, minted_at: float, ends: Ends, records: list[int]
    ) -> Opened:
        oldest = await self._stamp(ends.first)
        raw = regions(records, first=ends.first, last=epoch - 1, oldest=oldest.epoch)
        newest = [await self._newest_stamp(region) for region in raw]
        kept = [self._trim(region, stamp) for region, stamp in zip(raw, newest, strict=True)]
        predecessor = records[-2] if len(records) > 1 else oldest.epoch
        opened = Opened(
            epoch=epoch,
            minted_at=minted_at,
            begin=epoch + FENCE_MESSAGES + 1,
            regions=[region for region in kept if region is not None],
            stored_bytes=ends.stored_bytes,
            is_released=predecessor == epoch,  # there never was another owner
        )
        if newest:
            opened = _with_end(opened, newest[-1], predecessor)
        self._check_head(opened, oldest, ends.first)
        return opened

    def _check_head(self, opened: Opened, oldest: Stamp, first: int) -> None:
        """That nothing below the newest snapshot is missing that was not given up."""
        kept_from = max(opened.kept_from, 1)
        if first <= kept_from:
            return
        # A truncation does not wait for its mark while the server has no room for it.
        if not (oldest.kind in FRAMES and oldest.part == 0 and first <= opened.snapshot):
            raise self._damaged(kept_from, "it and what follows is missing")
        log.warning(
            "log.truncated_without_mark",
            container=self._stream.container,
            kept_from=kept_from,
            first=first,
        )

    async def _newest_stamp(self, region: Region) -> Stamp:
        stamp = await self._stamp(region.last)
        try:
            check(stamp, container=self._stream.container, place=region.last, epoch=region.epoch)
        except Broken as broken:
            raise self._damaged(region.last, str(broken)) from broken
        return stamp

    async def _stamp(self, place: int) -> Stamp:
        message = await self.retried(lambda: self._stream.fetch(place))
        if message is None:
            raise self._damaged(place, "it is missing")
        try:
            stamp, body = decode(message)
        except Broken as broken:
            raise self._damaged(place, str(broken)) from broken
        if stamp.kind is Kind.EPOCH:
            log.debug("log.epoch_record", place=place, owner=decode_owner(body)[1])
        return stamp

    def _trim(self, region: Region, newest: Stamp) -> Region | None:
        try:
            return trimmed(region, newest)
        except Broken as broken:
            raise self._damaged(region.last, str(broken)) from broken

    def _damaged(self, place: int, reason: str) -> StreamDamaged:
        return StreamDamaged(self._stream.container, self._stream.name, place, reason)


def _with_end(opened: Opened, newest: Stamp, predecessor: int) -> Opened:
    """What the newest message of the earlier epochs tells."""
    is_unfinished = newest.kind in FRAMES and not newest.is_last
    snapshot, snapshot_position = newest.snapshot, newest.snapshot_position
    if newest.kind is Kind.SNAPSHOT and newest.is_last:
        snapshot, snapshot_position = newest.place - newest.part, newest.position
    return opened._replace(
        position=newest.position - 1 if is_unfinished else newest.position,
        snapshot=snapshot,
        snapshot_position=snapshot_position,
        kept_from=newest.kept_from,
        is_released=newest.kind is Kind.RELEASE and newest.epoch == predecessor,
    )
