"""A reader process of the checker: the next event of a key must be exactly n + 1.

Arguments: CONTROLLER SCOPE STREAM GROUP READER. Prints a JSON line some ten times a second
and one for each violation. A line on stdin has the final counts of the writer; with those read
(or too much, or after LIMIT_S) it ends.
"""

import asyncio
import json
import os
import sys
import time

import pravega_client

# The native library logs to stdout; what the parent parses goes where stdout was.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

TELL_S = 0.1
LIMIT_S = 60.0
# release_segment keeps the GIL and waits for the library's threads, and one of those may be
# waiting for the GIL to end the read before it: then both stand still until a request of the
# library runs out of time, after 30 s. A pause lets it finish first.
GIL_PAUSE_S = 0.001


class Checker:
    def __init__(self):
        self.next = {}
        self.total = 0
        self.violations = 0
        self.wanted = None

    def take(self, event):
        key, n, _ = event.split(b":", 2)
        key, n = int(key), int(n)
        expected = self.next.get(key, 0)
        if n != expected:
            self.violations += 1
            if self.violations <= 20:
                tell(violation=f"key {key}: read {n}, expected {expected}")
        self.next[key] = n + 1
        self.total += 1

    @property
    def done(self):
        return self.wanted is not None and self.total >= sum(self.wanted)


async def main():
    controller, scope, stream, group, name = sys.argv[1:]
    manager = pravega_client.StreamManager(controller)
    reader = manager.create_reader_group(group, scope, stream).create_reader(name)
    checker, deadline = Checker(), None
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, on_line, checker, loop)
    told, pending = 0.0, None
    tell(up=True)
    while not checker.done:
        if checker.wanted is not None:
            deadline = deadline or time.monotonic() + LIMIT_S
        # Never cancelled: the native library would go on, and what it acquires be lost.
        pending = pending or asyncio.ensure_future(reader.get_segment_slice_async())
        await asyncio.wait([pending], timeout=1.0)
        if not pending.done():
            if deadline is not None and time.monotonic() > deadline:
                break
            continue
        part, pending = pending.result(), None
        if part is not None:
            for event in part:
                checker.take(event.data())
            await asyncio.sleep(GIL_PAUSE_S)
            reader.release_segment(part)
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            tell(read=checker.total)
    read = [checker.next.get(key, 0) for key in range(len(checker.wanted))]
    tell(read=checker.total, final=read, violations=checker.violations)


def on_line(checker, loop):
    line = sys.stdin.readline()
    loop.remove_reader(sys.stdin)
    checker.wanted = json.loads(line)


def tell(**what):
    print(json.dumps({"t": time.monotonic(), **what}), file=ANSWERS, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the native threads may abort an orderly end
