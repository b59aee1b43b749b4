"""Deleting a scope with everything in it."""

from __future__ import annotations

from functools import partial
from typing import Final

from anabranch_events.domain import ScopeDeleted

from anabranch_controller import requests
from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import GroupKey, ScopeKey, StreamKey, TableKey

CONCURRENT_DELETIONS_MAX: Final = 8  # streams at a time; each has its own fan-out to the stores


async def advance_scope(ctx: Context, key: ScopeKey) -> bool:
    """Do one round of a recursive delete; False when there is nothing for this instance."""
    scope = ctx.projection.scopes.get(key.scope)
    if scope is None or scope.stage != "deleting" or scope.owner != ctx.instance:
        return False
    for group in scope.groups:
        await requests.remove_group(ctx, GroupKey(key.scope, group))
    await gather_bounded(
        (partial(requests.remove_table, ctx, TableKey(key.scope, name)) for name in scope.tables),
        concurrent_max=CONCURRENT_DELETIONS_MAX,
    )
    await gather_bounded(
        (partial(requests.remove, ctx, StreamKey(key.scope, name)) for name in scope.streams),
        concurrent_max=CONCURRENT_DELETIONS_MAX,
    )

    def decide() -> Write | None:
        now = ctx.projection.scopes.get(key.scope)
        gone = now is None or now.stage != "deleting" or not now.is_empty
        return None if gone else write(ScopeDeleted())

    await ctx.log.change(key.subject, decide)
    return True
