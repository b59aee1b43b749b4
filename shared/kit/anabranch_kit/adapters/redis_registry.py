"""The registry on Redis or Valkey, over redis.asyncio.

Keys (all share one hash tag, so that a cluster keeps them in one slot and a script may touch
several; values are JSON):

    {anabranch}:members        set of member ids, some of which may have expired
    {anabranch}:member:<id>    Member, expires with its lease
    {anabranch}:serving        hash container -> Serving
    {anabranch}:assignments    hash container -> Assignment
    {anabranch}:cluster        ClusterInfo
    {anabranch}:lease:<name>   holder, expires
    {anabranch}:changes        pub/sub channel of change notices

What compares before it writes is a Lua script, which the server runs alone. Every write is
idempotent, so redis-py may repeat one on a fresh connection. Nothing here outlives the
server's memory on purpose: a wiped registry is filled again by the next announcements.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar, cast

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import (
    Assignment,
    ClusterInfo,
    Member,
    RegistryUnavailable,
    Role,
    Serving,
)

TAG: Final = "{anabranch}"
MEMBERS: Final = f"{TAG}:members"
MEMBER_PREFIX: Final = f"{TAG}:member:"
SERVING: Final = f"{TAG}:serving"
ASSIGNMENTS: Final = f"{TAG}:assignments"
CLUSTER: Final = f"{TAG}:cluster"
LEASE_PREFIX: Final = f"{TAG}:lease:"
CHANGES: Final = f"{TAG}:changes"

COMMAND_TIMEOUT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 1.0
CONNECTIONS_MAX: Final = 16  # per process; a call beyond them waits for one, then fails
RECONNECT_PAUSE_S: Final = 0.2

# KEYS: member key, members, channel. ARGV: value, lease ms, id, incarnation.
_ANNOUNCE: Final = """
local old = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
if not old or cjson.decode(old)['incarnation'] ~= ARGV[4] then
  redis.call('PUBLISH', KEYS[3], 'member')
end
return 1
"""

# KEYS: member key, members, serving, channel. ARGV: id, incarnation.
_WITHDRAW: Final = """
local old = redis.call('GET', KEYS[1])
if old and cjson.decode(old)['incarnation'] == ARGV[2] then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
end
local serving = redis.call('HGETALL', KEYS[3])
for i = 1, #serving, 2 do
  if cjson.decode(serving[i + 1])['incarnation'] == ARGV[2] then
    redis.call('HDEL', KEYS[3], serving[i])
  end
end
redis.call('PUBLISH', KEYS[4], 'member')
return 1
"""

# KEYS: members, serving, channel. ARGV: prefix of the member keys.
# Returns the values of the live members, then those of the serving records.
_SNAPSHOT: Final = """
local members = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local value = redis.call('GET', ARGV[1] .. id)
  if value then
    members[#members + 1] = value
  else
    redis.call('SREM', KEYS[1], id)
    redis.call('PUBLISH', KEYS[3], 'expired')
  end
end
return {members, redis.call('HVALS', KEYS[2])}
"""

# KEYS: serving, channel. ARGV: container, value, epoch, member key prefix.
# An older epoch does not replace a newer one while that one's owner is alive.
_SET_SERVING: Final = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old == ARGV[2] then return 1 end
if old then
  local record = cjson.decode(old)
  if record['epoch'] > tonumber(ARGV[3]) then
    local owner = redis.call('GET', ARGV[4] .. record['member'])
    if owner and cjson.decode(owner)['incarnation'] == record['incarnation'] then return 0 end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PUBLISH', KEYS[2], 'serving')
return 1
"""

# KEYS: serving, channel. ARGV: container, incarnation.
_CLEAR_SERVING: Final = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and cjson.decode(old)['incarnation'] == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('PUBLISH', KEYS[2], 'serving')
  return 1
end
return 0
"""

# KEYS: lease. ARGV: holder, lease ms.
_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: lease, channel. ARGV: holder.
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', KEYS[2], 'lease')
end
return 1
"""

Argument = str | bytes | int
Result = TypeVar("Result")
log = structlog.stdlib.get_logger("anabranch.registry")


class RedisRegistry:
    """Registry over one Redis URL. `close` it; the connections are its own."""

    def __init__(self, url: str, *, clock: Clock) -> None:
        """Raises ValueError for a URL that redis-py cannot read; connects on first use."""
        self.url = url
        self._clock = clock
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            max_connections=CONNECTIONS_MAX,
            # One repetition: for a pooled connection that died with the old server.
            retry=Retry(NoBackoff(), 1),
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def announce(self, member: Member, *, lease_ms: int) -> None:
        keys = [MEMBER_PREFIX + member.id, MEMBERS, CHANGES]
        arguments: list[Argument] = [_encode(member), lease_ms, member.id, member.incarnation]
        await self._script("announce", _ANNOUNCE, keys, arguments)

    async def withdraw(self, member: Member) -> None:
        keys = [MEMBER_PREFIX + member.id, MEMBERS, SERVING, CHANGES]
        await self._script("withdraw", _WITHDRAW, keys, [member.id, member.incarnation])

    async def members(self, role: Role | None = None) -> list[Member]:
        members, _ = await self._snapshot("members")
        return [member for member in members if role is None or member.role == role]

    async def set_cluster(self, info: ClusterInfo) -> None:
        await self._call("set cluster", self._redis.set(CLUSTER, _encode(info)))
        await self._notify("cluster")

    async def cluster(self) -> ClusterInfo | None:
        value = await self._call("cluster", self._redis.get(CLUSTER))
        return None if value is None else msgspec.json.decode(value, type=ClusterInfo)

    async def assign(self, assignments: list[Assignment]) -> None:
        if not assignments:
            return
        pairs = [item for one in assignments for item in (str(one.container), _encode(one))]
        await self._call("assign", self._redis.hset(ASSIGNMENTS, items=pairs))
        await self._notify("assignment")

    async def assignments(self) -> dict[int, Assignment]:
        values = await self._call("assignments", self._redis.hvals(ASSIGNMENTS))
        found = [msgspec.json.decode(value, type=Assignment) for value in values]
        return {one.container: one for one in found}

    async def set_serving(self, serving: Serving) -> None:
        arguments: list[Argument] = [
            serving.container,
            _encode(serving),
            serving.epoch,
            MEMBER_PREFIX,
        ]
        await self._script("set serving", _SET_SERVING, [SERVING, CHANGES], arguments)

    async def clear_serving(self, container: int, *, incarnation: str) -> None:
        await self._script(
            "clear serving", _CLEAR_SERVING, [SERVING, CHANGES], [container, incarnation]
        )

    async def serving(self) -> dict[int, Serving]:
        members, serving = await self._snapshot("serving")
        alive = {(member.id, member.incarnation) for member in members}
        return {one.container: one for one in serving if (one.member, one.incarnation) in alive}

    async def acquire_lease(self, name: str, holder: str, *, lease_ms: int) -> bool:
        keys = [LEASE_PREFIX + name]
        return await self._script("acquire lease", _ACQUIRE, keys, [holder, lease_ms]) == 1

    async def release_lease(self, name: str, holder: str) -> None:
        await self._script("release lease", _RELEASE, [LEASE_PREFIX + name, CHANGES], [holder])

    async def changes(self, *, poll_s: float) -> AsyncIterator[None]:
        """Silent while the registry is away; yields once as soon as it is back."""
        away = False
        while True:
            channel = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                await channel.subscribe(CHANGES)
                if away:
                    log.info("registry.back", url=self.url)
                away = False
                yield
                while True:
                    message = await channel.get_message(timeout=poll_s)
                    while message is not None:  # many notices are one reason to look
                        message = await channel.get_message(timeout=0)
                    yield
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                if not away:
                    log.warning("registry.away", url=self.url, error=str(error))
                away = True
            finally:
                await _close_quietly(channel)
            await self._clock.sleep(RECONNECT_PAUSE_S)

    async def _snapshot(self, operation: str) -> tuple[list[Member], list[Serving]]:
        keys = [MEMBERS, SERVING, CHANGES]
        raw = await self._script(operation, _SNAPSHOT, keys, [MEMBER_PREFIX])
        members, serving = cast(tuple[list[bytes], list[bytes]], raw)
        return (
            [msgspec.json.decode(value, type=Member) for value in members],
            [msgspec.json.decode(value, type=Serving) for value in serving],
        )

    async def _notify(self, what: str) -> None:
        await self._call("notify", self._redis.publish(CHANGES, what))

    async def _script(
        self, operation: str, script: str, keys: list[str], arguments: list[Argument]
    ) -> object:
        # EVAL carries the text each time: short, and right after a restart or a SCRIPT FLUSH.
        run = self._redis.eval(script, len(keys), *keys, *cast(list[str], arguments))
        return await self._call(operation, cast(Awaitable[object], run))

    async def _call(self, operation: str, command: Awaitable[Result]) -> Result:
        try:
            return await command
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            reason = f"{self.url}: {str(error) or type(error).__name__}"
            raise RegistryUnavailable(operation, reason) from error


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


async def _close_quietly(channel: PubSub) -> None:
    """Close a subscription whose connection may be the thing that failed."""
    try:
        await channel.aclose()  # type: ignore[no-untyped-call]
    except (TimeoutError, redis.exceptions.RedisError, OSError) as error:
        log.debug("registry.close_failed", error=str(error))
