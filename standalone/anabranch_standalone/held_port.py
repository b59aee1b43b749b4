"""Holding a dead child's port open until its successor listens.

The Rust and Python clients answer a refused connection with pauses of 1, 10, 100, 1000 and
then 10,000 ms: a controller that is away for two seconds costs them eleven. While the
supervisor listens in its place, connections are accepted by the kernel and wait; once the
successor listens beside it (both with SO_REUSEPORT), the held ones are reset, and a client
whose first attempt was held comes back after a millisecond.

Linux only: elsewhere nothing is held, and clients wait out their own pauses.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Final

from anabranch_standalone.options import HOST

BACKLOG: Final = 512  # connections of clients that come back within the few seconds of a restart
_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp


class HeldPort:
    """Listens from construction to `close`. Raises OSError when the port cannot be taken."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((HOST, port))
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise

    def has_successor(self) -> bool:
        """Does anybody else listen on the port?"""
        return listeners_count(self._port) > 1

    def close(self) -> None:
        """Resets what is waiting."""
        self._socket.close()


def can_hold() -> bool:
    return sys.platform == "linux" and Path("/proc/net/tcp").exists()


def listeners_count(port: int) -> int:
    """Sockets that listen on the port, from the kernel's table (man 5 proc, /proc/net/tcp)."""
    count = 0
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                count += 1
    return count
