"""Byte streams through the official client: files that grow at the end and shrink at the head."""

from __future__ import annotations

import random

import pytest
from helpers.client import Client, Remote, RemoteError


@pytest.fixture
def stream(client: Client, scope: str) -> Remote:
    client.manager.create_stream(scope, "bytes", 1)
    return client.manager.create_byte_stream(scope, "bytes")


def read(client: Client, stream: Remote, length: int) -> bytes:
    return client.call(stream._handle, "@readinto", [length], {}, 30)


def test_bytes_come_back_as_they_were_written(client: Client, stream: Remote) -> None:
    """Bytes would be framed, lost or mixed up."""
    parts = [random.Random(n).randbytes(n * 10_000 + 1) for n in range(8)]
    for part in parts:
        assert stream.write(part) == len(part)
    stream.flush()
    content = b"".join(parts)
    assert stream.current_tail_offset() == len(content)
    assert read(client, stream, len(content)) == content


def test_a_reader_can_seek(client: Client, stream: Remote) -> None:
    """Random access would need the whole stream to be read."""
    stream.write(b"0123456789")
    stream.flush()
    assert stream.seek(4, 0) == 4
    assert read(client, stream, 3) == b"456"
    assert stream.tell() == 7
    stream.seek(-2, 2)
    assert read(client, stream, 2) == b"89"


def test_a_truncated_head_is_gone(client: Client, stream: Remote) -> None:
    """Truncated bytes would be served, or kept ones be lost."""
    stream.write(b"0123456789")
    stream.flush()
    stream.truncate(6)
    assert stream.current_head_offset() == 6
    stream.seek(6, 0)
    assert read(client, stream, 4) == b"6789"
    stream.seek(2, 0)
    with pytest.raises(RemoteError):
        read(client, stream, 1)
