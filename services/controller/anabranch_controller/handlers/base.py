"""What all handlers stand on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from anabranch_wire.names import (
    InvalidName,
    check_given_name,
    check_scope_name,
    check_stream_name,
    is_internal,
)

from anabranch_controller.api import LIST_PAGE_MAX, Page
from anabranch_controller.context import Context
from anabranch_controller.domain.scope import Scope
from anabranch_controller.domain.stream import Stream
from anabranch_controller.errors import InvalidArgument, NotFound, Unavailable
from anabranch_controller.keys import ScopeKey, StreamKey
from anabranch_controller.ports import SegmentStoreUnavailable

_ANY_STREAM: Final = re.compile(r"[A-Za-z0-9._\-]{1,270}")


class Handlers:
    """Base of the handlers; each class of them has one part of the api."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def _scope(self, scope: str) -> Scope | None:
        """The scope as far as the projection is; None when there is none."""
        found = self._ctx.projection.scopes.get(scope)
        return found if found is not None and found.exists else None

    def _stream(self, key: StreamKey) -> Stream | None:
        """The stream as far as the projection is; None when there is none."""
        found = self._ctx.projection.streams.get(key)
        return found if found is not None and found.exists else None

    async def _loaded_scope(self, scope: str) -> Scope | None:
        if not is_scope_name(scope):
            return None
        await self._ctx.log.load(ScopeKey(scope).subject)
        return self._scope(scope)

    async def _loaded_stream(self, scope: str, stream: str) -> Stream | None:
        """The stream with everything that was acknowledged before the call."""
        if not is_stream_name(scope, stream):
            return None
        key = StreamKey(scope, stream)
        await self._ctx.log.load(key.subject)
        return self._stream(key)

    async def _need_stream(self, scope: str, stream: str) -> Stream:
        """Raises NotFound."""
        found = await self._loaded_stream(scope, stream)
        if found is None:
            raise NotFound("stream", f"{scope}/{stream}")
        return found


@contextmanager
def stores_needed() -> Iterator[None]:
    """Raises Unavailable for a segment store that does not answer."""
    try:
        yield
    except SegmentStoreUnavailable as error:
        raise Unavailable(f"segment store for {error.segment}", error.reason) from error


def require(what: str, value: str) -> None:
    """Raises InvalidArgument for the empty text."""
    if not value:
        raise InvalidArgument(what, "must not be empty")


def is_scope_name(scope: str) -> bool:
    try:
        check_scope_name(scope)
    except InvalidName:
        return False
    return True


def is_new_stream_name(stream: str) -> bool:
    """May a client create a stream of this name?"""
    try:
        check_stream_name(stream)
    except InvalidName:
        return False
    return True


def is_stream_name(scope: str, stream: str) -> bool:
    """Could there be such a stream? What could not be has no subject to look at.

    Wider than what clients may create: `_MARK_RGgroup` exists, too.
    """
    return is_scope_name(scope) and _ANY_STREAM.fullmatch(stream) is not None


def is_given_name(what: str, name: str) -> bool:
    try:
        check_given_name(what, name)
    except InvalidName:
        return False
    return True


def page(names: Iterable[str], token: str) -> Page:
    """The names after `token`: those of users in order, then the internal ones."""
    after = _listing_order(token)
    following = sorted(
        (name for name in names if not token or _listing_order(name) > after), key=_listing_order
    )[:LIST_PAGE_MAX]
    return Page("SUCCESS", tuple(following), following[-1] if following else token)


def _listing_order(name: str) -> tuple[bool, str]:
    return is_internal(name), name
