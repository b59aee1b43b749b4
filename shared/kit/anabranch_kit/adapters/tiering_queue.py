"""The JetStream work queue between segment stores (orders in) and tierers (orders out).

Both sides provision it at start with `provision_tiering`, whoever comes first. Losing it
costs nothing but time: the owner of a container issues what was not reported again.

* An order leaves the stream when a tierer acknowledges it, and is delivered again when the
  tierer that has it shows no sign of life for ACK_WAIT_S.
* The stream is bounded; a full one refuses new orders (the segment store keeps its data in
  tier 1 and orders later) and never forgets an old one.
* A repeated order with the `Nats-Msg-Id` of one that was sent less than DUPLICATE_WINDOW_S
  ago is dropped by the server. Use the object's name as the id.
"""

from __future__ import annotations

from typing import Final

from anabranch_events import subjects
from nats.aio.client import Client
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from anabranch_kit.adapters.jetstream_provision import ensure_consumer, ensure_stream
from anabranch_kit.ports.clock import Clock

FLUSH_CONSUMER: Final = "tierers-flush"
DELETE_CONSUMER: Final = "tierers-delete"
FLUSH_SUBJECTS: Final = "anabranch.tiering.flush.*"
DELETE_SUBJECTS: Final = "anabranch.tiering.delete.*"

ORDERS_COUNT_MAX: Final = 20_000
ORDERS_BYTES_MAX: Final = 256 * 1024 * 1024
DUPLICATE_WINDOW_S: Final = 120.0
ACK_WAIT_S: Final = 10.0
# Orders delivered and not acknowledged, over all tierers; each tierer holds one per slot.
ACK_PENDING_MAX: Final = 1_024

assert subjects.flush_orders(7) == FLUSH_SUBJECTS.replace("*", "7")
assert subjects.delete_orders(7) == DELETE_SUBJECTS.replace("*", "7")


def stream_config(*, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=subjects.TIERING_STREAM,
        subjects=[subjects.TIERING_ALL],
        storage=StorageType.FILE,
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        max_msgs=ORDERS_COUNT_MAX,
        max_bytes=ORDERS_BYTES_MAX,
        duplicate_window=DUPLICATE_WINDOW_S,
        num_replicas=replicas,
    )


def consumer_config(name: str, filter_subject: str) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=name,
        filter_subject=filter_subject,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=ACK_PENDING_MAX,
    )


async def provision_tiering(client: Client, *, clock: Clock, replicas: int = 1) -> None:
    """Make the stream and the two consumers, or bring them to these settings.

    Raises ProvisionFailed.
    """
    await ensure_stream(client, stream_config(replicas=replicas), clock=clock)
    for name, subject in ((FLUSH_CONSUMER, FLUSH_SUBJECTS), (DELETE_CONSUMER, DELETE_SUBJECTS)):
        config = consumer_config(name, subject)
        await ensure_consumer(client, subjects.TIERING_STREAM, config, clock=clock)
