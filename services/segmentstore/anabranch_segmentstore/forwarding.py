"""Requests for tables whose container another store serves: passed on, and the answer back.

Every other client looks for the new owner when it is told WrongHost or loses its connection. The
Rust client's tables do not (wire-protocol.md 5.3): they talk to the address that they learned
first for as long as they live, and reader groups of the Rust and Python clients are tables. So
this store stands in for the owner.

Whatever goes wrong closes the client's connection, as if the owner's had been lost: the outcome
is unknown then, and clients ask again. Two stores that each believe in the other for a moment
pass a request to and fro until one of them looks at the registry, at the latest a second later;
FORWARDED_MAX bounds what that costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from anabranch_kit.ports.registry import Serving
from anabranch_kit.wire_connection import Address, SegmentStoreError, SegmentStorePool
from anabranch_wire import commands as c

OWNER_WAIT_S: Final = 5.0  # for a container that is on its way
REPLY_WAIT_S: Final = 20.0  # below the 30 s after which the Rust client gives up
FORWARDED_MAX: Final = 256  # at once; more are refused by closing their connections

log = structlog.stdlib.get_logger("anabranch.forwarding")


class Forwarding:
    """Owned by the store; `close` it."""

    def __init__(self) -> None:
        self._pool = SegmentStorePool()
        self._serving: Mapping[int, Serving] = {}
        self._changed = asyncio.Event()
        self._under_way = 0

    def update(self, others: Mapping[int, Serving]) -> None:
        """The containers that other stores serve now."""
        if others != self._serving:
            self._serving = others
            self._changed.set()
            self._changed = asyncio.Event()

    async def request(self, container: int, command: c.TableRequest) -> c.Reply | None:
        """The owner's reply; None: close the connection."""
        if self._under_way >= FORWARDED_MAX:
            return None
        self._under_way += 1
        try:
            async with asyncio.timeout(OWNER_WAIT_S):
                owner = await self._owner(container)
            connection = await self._pool.connection(Address(owner.host, owner.port))
            reply = await connection.request(command, timeout_s=REPLY_WAIT_S)
        except (TimeoutError, SegmentStoreError) as trouble:
            log.info("table.not_forwarded", container=container, reason=str(trouble))
            return None
        finally:
            self._under_way -= 1
        if isinstance(reply, c.Hello | c.KeepAlive | c.WrongHost):
            return None
        return reply._replace(request_id=command.request_id)

    async def _owner(self, container: int) -> Serving:
        while (owner := self._serving.get(container)) is None:
            await self._changed.wait()
        return owner

    async def close(self) -> None:
        await self._pool.close()
