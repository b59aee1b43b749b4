"""The other end of `client.py`: calls the official client and sends back what it returns.

Argument: the controller's URI. Pickled messages with a length in front come on stdin and go
to what was stdout; what the native library prints goes to stderr.
"""

import asyncio
import os
import pickle
import sys
import time

import pravega_client

GIL_PAUSE_S = 0.001  # see load_reader.py
PLAIN = (type(None), bool, int, float, str, bytes, list, dict, tuple)


class ReadTimeout(Exception):
    """The wanted number of events did not come."""


class Worker:
    def __init__(self, controller):
        self.objects = [pravega_client.StreamManager(controller), pravega_client]

    async def call(self, handle, method, arguments, keywords):
        target = self.objects[handle]
        arguments = [
            self.objects[a["@handle"]] if isinstance(a, dict) and "@handle" in a else a
            for a in arguments
        ]
        if method == "@read":
            return "value", await read(target, *arguments)
        if method == "@readinto":
            return "value", readinto(target, *arguments)
        found = target
        for name in method.split("."):
            found = getattr(found, name)
        value = found(*arguments, **keywords)
        if hasattr(value, "__await__"):
            value = await value
        if isinstance(value, PLAIN):
            return "value", value
        self.objects.append(value)
        return "handle", len(self.objects) - 1


async def read(reader, count, limit_s):
    """`count` events, as (data, offset)."""
    events = []
    deadline = time.monotonic() + limit_s
    while len(events) < count:
        left = deadline - time.monotonic()
        pending = asyncio.ensure_future(reader.get_segment_slice_async())
        if not (await asyncio.wait([pending], timeout=left))[0]:
            raise ReadTimeout(f"{len(events)} of {count} events within {limit_s} s")
        part = pending.result()
        if part is None:
            continue
        for event in part:
            events.append((bytes(event.data()), event.offset()))
            if len(events) == count:
                break
        await asyncio.sleep(GIL_PAUSE_S)
        reader.release_segment(part)
    return events


def readinto(stream, length):
    """Exactly `length` bytes of a byte stream."""
    found = b""
    while len(found) < length:
        buffer = bytearray(length - len(found))
        read_count = stream.readinto(buffer)
        found += bytes(buffer[:read_count])
    return found


def receive(stream):
    head = stream.read(8)
    return pickle.loads(stream.read(int.from_bytes(head, "big"))) if len(head) == 8 else None


async def serve(controller, requests, answers):
    worker = Worker(controller)
    while (request := receive(requests)) is not None:
        try:
            answer = await worker.call(*request)
        except BaseException as error:  # panics of the native code are BaseException
            answer = "raised", (type(error).__name__, str(error))
        payload = pickle.dumps(answer)
        answers.write(len(payload).to_bytes(8, "big") + payload)
        answers.flush()


def main():
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(serve(sys.argv[1], sys.stdin.buffer, answers))


if __name__ == "__main__":
    main()
