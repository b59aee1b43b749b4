"""What workflows do to many segments of a stream at once. Everything here may be repeated."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from anabranch_events.model import SegmentRange, StreamConfig
from anabranch_wire.names import SegmentId, segment_name

from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.keys import StreamKey


def name_of_segment(key: StreamKey, identity: int) -> str:
    return segment_name(key.scope, key.stream, SegmentId(identity))


async def create(
    ctx: Context, key: StreamKey, segments: Iterable[SegmentRange], config: StreamConfig
) -> None:
    await gather_bounded(
        partial(
            ctx.stores.create_segment,
            name_of_segment(key, segment.id),
            scale_type=config.scaling.scale_type,
            target_rate=config.scaling.target_rate,
            rollover_size_bytes=config.rollover_size_bytes,
        )
        for segment in segments
    )


async def seal(
    ctx: Context, key: StreamKey, segments: Iterable[SegmentRange]
) -> tuple[tuple[int, int], ...]:
    """Seal the segments; the final length in bytes of each, by id."""

    async def one(segment: SegmentRange) -> tuple[int, int]:
        name = name_of_segment(key, segment.id)
        await ctx.stores.seal(name)
        return segment.id, (await ctx.stores.info(name)).length_bytes

    return tuple(await gather_bounded(partial(one, segment) for segment in segments))


async def delete(ctx: Context, key: StreamKey, identities: Iterable[int]) -> None:
    await gather_bounded(
        partial(ctx.stores.delete, name_of_segment(key, identity)) for identity in identities
    )


async def truncate(ctx: Context, key: StreamKey, cut: dict[int, int]) -> None:
    """Segments of the future have nothing to cut off."""
    await gather_bounded(
        partial(ctx.stores.truncate, name_of_segment(key, identity), offset)
        for identity, offset in cut.items()
        if offset > 0
    )


async def update_policy(
    ctx: Context, key: StreamKey, segments: Iterable[SegmentRange], config: StreamConfig
) -> None:
    await gather_bounded(
        partial(
            ctx.stores.update_policy,
            name_of_segment(key, segment.id),
            scale_type=config.scaling.scale_type,
            target_rate=config.scaling.target_rate,
        )
        for segment in segments
    )
