"""Whether the NATS servers sync before they acknowledge, and saying so at start.

A client is not told the server's `sync_interval`. Two places tell: the system account (a request
that all servers answer), and the monitoring port (`http_port`), for which the operator names the
URLs. Where neither does, the answer is unknown, and that is worth a warning too: JetStream's
default syncs every two minutes, and a power cut takes what was acknowledged in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

VARZ_SUBJECT: Final = "$SYS.REQ.SERVER.PING.VARZ"
ANSWER_WAIT_S: Final = 0.5  # servers of a cluster answer one by one
MONITOR_TIMEOUT_S: Final = 2.0
MONITOR_BYTES_MAX: Final = 1024 * 1024

log = structlog.stdlib.get_logger("anabranch.log")


class SyncReport(msgspec.Struct, frozen=True):
    """`lax` names the servers that acknowledge before they sync, with their interval in
    seconds; `unknown` says why nothing is known, empty when something is."""

    always: list[str] = []
    lax: dict[str, float] = {}
    unknown: str = ""


class _Config(msgspec.Struct, frozen=True):
    sync_interval: int = 0  # nanoseconds
    sync_always: bool = False


class _JetStream(msgspec.Struct, frozen=True):
    config: _Config | None = None


class _Varz(msgspec.Struct, frozen=True):
    server_name: str = ""
    jetstream: _JetStream | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: _Varz | None = None


async def report_sync(client: Client, *, monitor_urls: Sequence[str], replicas: int) -> SyncReport:
    """Ask, and log one event: info when all sync, else a warning that says what to do."""
    report = await find_out(client, monitor_urls=monitor_urls)
    if report.lax:
        log.warning(
            "log.jetstream_sync_lax",
            servers=report.lax,
            replicas=replicas,
            consequence="a power cut can lose acknowledged events",
            remedy="set `sync_interval: always` in the jetstream block of each NATS server",
        )
    elif report.unknown:
        log.warning(
            "log.jetstream_sync_unknown",
            reason=report.unknown,
            replicas=replicas,
            consequence="if the servers do not sync, a power cut can lose acknowledged events",
            remedy="check `sync_interval: always`; name the monitoring ports with "
            "--nats-monitor-urls and this is checked at each start",
        )
    else:
        log.info("log.jetstream_syncs", servers=report.always, replicas=replicas)
    return report


async def find_out(client: Client, *, monitor_urls: Sequence[str]) -> SyncReport:
    """Ask the monitoring ports if there are any, else the system account."""
    if not monitor_urls:
        servers = await _ask_system_account(client)
        if not servers:
            return SyncReport(unknown="this connection is not of the system account")
        return _report(servers)
    answers = await asyncio.gather(*(_ask_monitor(url) for url in monitor_urls))
    failures = [answer for answer in answers if isinstance(answer, str)]
    report = _report([answer for answer in answers if isinstance(answer, _Varz)])
    return msgspec.structs.replace(report, unknown="; ".join(failures))


def _report(servers: Sequence[_Varz]) -> SyncReport:
    always: list[str] = []
    lax: dict[str, float] = {}
    for server in servers:
        config = server.jetstream.config if server.jetstream is not None else None
        if config is None:
            continue  # it stores nothing
        if config.sync_always:
            always.append(server.server_name)
        else:
            lax[server.server_name] = config.sync_interval / 1e9
    unknown = "" if always or lax else "no server has JetStream"
    return SyncReport(sorted(always), lax, unknown)


async def _ask_system_account(client: Client) -> list[_Varz]:
    found: list[_Varz] = []
    try:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        try:
            await client.publish(VARZ_SUBJECT, b"", reply=inbox)
            while True:
                message = await subscription.next_msg(timeout=ANSWER_WAIT_S)
                answer = msgspec.json.decode(message.data, type=_Answer) if message.data else None
                if answer is None or answer.data is None:
                    return found
                found.append(answer.data)
        finally:
            await subscription.unsubscribe()
    except nats.errors.TimeoutError:
        return found
    except (nats.errors.Error, msgspec.DecodeError) as error:
        log.debug("log.system_account_silent", error=str(error))
        return found


async def _ask_monitor(url: str) -> _Varz | str:
    """What /varz says, or why it could not be asked."""
    try:
        async with asyncio.timeout(MONITOR_TIMEOUT_S):
            body = await _get(url.rstrip("/") + "/varz")
        return msgspec.json.decode(body, type=_Varz)
    except (OSError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        return f"{url}: {str(error) or type(error).__name__}"


async def _get(url: str) -> bytes:
    """The body of a plain HTTP answer; the monitoring port is inside the cluster."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("not an address of the form http://host:port")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        request = f"GET {parts.path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n"
        writer.write(request.encode())
        answer = await _read_all(reader)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(head.split(b"\r\n")[0].decode(errors="replace"))
    return body


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    blocks: list[bytes] = []
    length = 0
    while block := await reader.read(65_536):
        blocks.append(block)
        length += len(block)
        if length > MONITOR_BYTES_MAX:
            raise ValueError(f"an answer of more than {MONITOR_BYTES_MAX} bytes")
    return b"".join(blocks)
