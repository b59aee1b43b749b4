"""From a log to the state that its last owner had."""

from __future__ import annotations

from typing import NamedTuple

from anabranch_segmentstore.collection import paused
from anabranch_segmentstore.domain.frames import decode_frame
from anabranch_segmentstore.domain.operations import OperationsDamaged, TableChanged
from anabranch_segmentstore.domain.snapshot import decode_snapshot
from anabranch_segmentstore.domain.state import ContainerState
from anabranch_segmentstore.ports import DurableLog, Frame


class Recovered(NamedTuple):
    """`snapshot_position` is 0 without a snapshot; frames and bytes are those behind it."""

    state: ContainerState
    snapshot_position: int
    frames_count: int
    frames_bytes: int


async def recover(log: DurableLog) -> Recovered:
    """Replay the newest snapshot and every frame behind it.

    Raises LogDamaged, and OperationsDamaged for intact bytes that this release cannot read.
    """
    state = ContainerState()
    last, snapshot_position, frames_count, frames_bytes = 0, 0, 0, 0
    async for frame in log.replay():
        if last and frame.position != last + 1:
            raise OperationsDamaged(f"frame {frame.position} follows frame {last}")
        last = frame.position
        try:
            if frame.is_snapshot:
                with paused():
                    state = decode_snapshot(frame.payload)
                snapshot_position, frames_count, frames_bytes = frame.position, 0, 0
            else:
                replay_frame(state, frame)
                frames_count += 1
                frames_bytes += len(frame.payload)
        except OperationsDamaged as damage:
            raise OperationsDamaged(f"frame {frame.position}: {damage.reason}") from damage
    assert last <= log.last_position, "the log replayed more than it holds"
    state.settle_all()
    return Recovered(state, snapshot_position, frames_count, frames_bytes)


def replay_frame(state: ContainerState, frame: Frame) -> None:
    decoded = decode_frame(frame.payload)
    for operation, offset in zip(decoded.operations, decoded.data_offsets, strict=True):
        data: bytes | memoryview = b""
        if isinstance(operation, TableChanged):
            data = memoryview(frame.payload)[offset : offset + operation.data_length]
        state.apply(
            operation,
            position=frame.position,
            data_offset=offset,
            at_ms=decoded.at_ms,
            data=data,
        )
