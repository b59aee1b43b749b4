"""How long a peer may keep a connection waiting before it is cut off.

Two things cost memory while a peer does nothing: a frame of which a part has come, and replies
that it does not read. Either must move: PROGRESS_BYTES_MIN in each PATIENCE_S, or be done with.
Idleness costs nothing and has no limit: clients hold reads for minutes and writers open for
days, and the server has no idle time-out (wire-protocol.md 4.4).

A peer that is gone without a word (its host lost power, a firewall forgot it) cannot be told
from an idle one up here. The kernel can: it probes idle connections, and it gives up on data
that nobody confirms.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from anabranch_wire.errors import ProtocolError

PATIENCE_S: Final = 60.0  # Rust gives up after 30 s; Java's paused processes come back sooner
PROGRESS_BYTES_MIN: Final = 64 * 1024  # in PATIENCE_S: a link slower than 1 KiB/s is of no use
LOOK_S: Final = 15.0  # between looks; a peer is cut off at most so much late

PROBE_IDLE_S: Final = 60  # without a byte, before the kernel asks whether the peer is there
PROBE_EVERY_S: Final = 10
PROBES_COUNT: Final = 6  # unanswered ones before the connection is lost
UNCONFIRMED_MS_MAX: Final = 120_000  # for sent bytes that the peer's kernel does not confirm

assert LOOK_S < PATIENCE_S


class Owing(ProtocolError):
    """The peer kept the connection waiting for longer than PATIENCE_S."""

    def __init__(self, peer: str, what: str) -> None:
        super().__init__(
            f"{peer} owes {what}; less than {PROGRESS_BYTES_MIN} bytes moved in {PATIENCE_S:g} s"
        )
        self.peer, self.what = peer, what


@dataclass(slots=True)
class Impatience:
    """With one debt of one peer. `since_s` and `bytes_then`: when it last moved, and how far."""

    since_s: float | None = None
    bytes_then: int = 0

    def is_over(self, is_owing: bool, moved_bytes: int, now_s: float) -> bool:
        """Look at the debt; True when the peer has had its time."""
        if not is_owing:
            self.since_s = None
            return False
        has_moved = not 0 <= moved_bytes - self.bytes_then < PROGRESS_BYTES_MIN
        if self.since_s is None or has_moved:
            self.since_s, self.bytes_then = now_s, moved_bytes
            return False
        return now_s - self.since_s >= PATIENCE_S


def watch_for_vanished_peer(peer: socket.socket | None) -> None:
    """Have the kernel end the connection when nobody is there. None: not a socket, in a test."""
    if peer is None:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES_COUNT)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNCONFIRMED_MS_MAX)
