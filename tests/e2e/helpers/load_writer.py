"""A writer process of the checker: each event is `key:n`, n counts up from 0 per key.

Arguments: CONTROLLER SCOPE STREAM KEYS RATE BYTES. Prints a JSON line after each flush (what
is flushed is acknowledged); ends at the end of stdin with the counts of each key.
"""

import json
import os
import select
import sys
import time

import pravega_client

# The native library logs to stdout; what the parent parses goes where stdout was.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

BATCH_S = 0.05  # a flush twenty times a second


def main():
    controller, scope, stream, keys, rate, size = sys.argv[1:]
    keys, rate, size = int(keys), float(rate), int(size)
    batch = max(1, round(rate * BATCH_S))
    manager = pravega_client.StreamManager(controller)  # its end is the end of its writers
    writer = manager.create_writer(scope, stream, batch * 2)
    counts = [0] * keys
    total, slot, due = 0, 0, time.monotonic()
    while not stopped():
        for _ in range(batch):
            key = slot % keys
            event = f"{key}:{counts[key]}:".encode().ljust(size, b".")
            writer.write_event_bytes(event, routing_key=f"key-{key}")
            counts[key] += 1
            slot += 1
        writer.flush()
        total += batch
        tell(acked=total)
        due += batch / rate
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        else:
            due = time.monotonic()  # after a stall: the old rate again, no burst
    tell(final=counts)


def stopped():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def tell(**what):
    print(json.dumps({"t": time.monotonic(), **what}), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # the native threads may abort an orderly end
