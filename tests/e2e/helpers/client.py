"""The official client, in a process of its own and called from here by name.

The package keeps the GIL while it waits and can abort its process, so a test that called it
directly could hang pytest for good. Here a call has a time limit, and a client that exceeds
it is killed and the test fails.

    client = Client(controller)
    writer = client.manager.create_writer("scope", "stream")   # a Remote
    writer.write_event("x", "key")                             # a value, or raises RemoteError
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from helpers.cluster import die_with_parent

WORKER = Path(__file__).with_name("client_worker.py")
CALL_LIMIT_S = 60.0


class RemoteError(Exception):
    """The client raised; `kind` is the class of its exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class ClientHung(Exception):
    """A call did not come back in time; its process is dead now."""


class Remote:
    """An object of the client's process; each attribute is a method to call there."""

    def __init__(self, client: Client, handle: int) -> None:
        self._client, self._handle = client, handle

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, limit_s: float = CALL_LIMIT_S, **keywords: Any) -> Any:
            return self._client.call(self._handle, method, arguments, keywords, limit_s)

        return call


class Client:
    def __init__(self, controller: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, WORKER, controller],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            preexec_fn=die_with_parent(),
        )
        self.manager = Remote(self, 0)
        self.module = Remote(self, 1)

    def call(self, handle: int, method: str, arguments: Any, keywords: Any, limit_s: float) -> Any:
        assert self._process.stdin is not None
        plain = [_Handle(a._handle) if isinstance(a, Remote) else a for a in arguments]
        message = pickle.dumps((handle, method, plain, keywords))
        self._process.stdin.write(len(message).to_bytes(8, "big") + message)
        kind, value = self._answer(method, limit_s)
        if kind == "raised":
            raise RemoteError(*value)
        return Remote(self, value) if kind == "handle" else value

    def read_events(
        self, reader: Remote, count: int, *, limit_s: float = CALL_LIMIT_S
    ) -> list[bytes]:
        """The next `count` events of a reader; slices are released as they are used up."""
        return [
            data
            for data, _ in self.call(reader._handle, "@read", [count, limit_s], {}, limit_s + 5)
        ]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self, method: str, limit_s: float) -> tuple[str, Any]:
        deadline = time.monotonic() + limit_s
        length = int.from_bytes(self._read(8, deadline, method), "big")
        return pickle.loads(self._read(length, deadline, method))

    def _read(self, length: int, deadline: float, method: str) -> bytes:
        assert self._process.stdout is not None
        descriptor, parts = self._process.stdout.fileno(), b""
        while len(parts) < length:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._process.kill()
                raise ClientHung(f"{method} did not come back in time")
            part = os.read(descriptor, length - len(parts))
            if not part:
                raise ClientHung(f"the client's process died in {method}")
            parts += part
        return parts


class _Handle:
    """How a Remote travels as an argument."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __reduce__(self) -> Any:
        return (dict, ([("@handle", self.handle)],))
