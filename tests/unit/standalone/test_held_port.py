"""A port held open for a process that is away: clients wait instead of being refused."""

from __future__ import annotations

import socket

import pytest
from anabranch_standalone.held_port import HeldPort, can_hold

pytestmark = pytest.mark.skipif(not can_hold(), reason="needs /proc/net/tcp")


def listener(port: int = 0) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    one.listen()
    return one


def test_a_connection_waits_while_the_port_is_held_and_a_successor_is_seen() -> None:
    """A refused client would stay away for eleven seconds."""
    with listener() as first:
        port = first.getsockname()[1]
    held = HeldPort(port)
    waiting = socket.create_connection(("127.0.0.1", port), timeout=5)
    assert not held.has_successor()
    with listener(port) as successor:
        assert held.has_successor()
        held.close()
        with pytest.raises(ConnectionResetError):  # which tells the client to come back
            waiting.recv(1)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            successor.accept()[0].close()
    waiting.close()


def test_a_port_of_somebody_else_is_not_held() -> None:
    """Two listeners would share the connections of a foreign server."""
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        with pytest.raises(OSError, match="in use"):
            HeldPort(foreign.getsockname()[1])
