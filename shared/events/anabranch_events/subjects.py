"""Every subject and every JetStream stream of Anabranch, in one place.

Names of scopes and streams may hold dots, which separate tokens in NATS, so a dot inside a
name travels as `~` (no name may hold a tilde: reference controller.md, 2.4).

    anabranch.events.<aggregate>…    the controller's event log (ANABRANCH_EVENTS)
    anabranch.feed.<kind>.<scope>.<stream>   the public feed (ANABRANCH_FEED); also
    anabranch.feed.<kind>.<container>        and .<member>, by kind
    anabranch.tiering.…              work for the tierers (ANABRANCH_TIERING)
    anabranch.load.<store>           load reports, not kept
    anabranch.rates.<scope>.<stream> rates per segment for people to watch, not kept
    anabranch.command.scale          requests to the controllers
    anabranch.container.<n>.…        requests to the owner of a container
"""

from __future__ import annotations

from typing import Final

EVENTS_STREAM: Final = "ANABRANCH_EVENTS"
FEED_STREAM: Final = "ANABRANCH_FEED"
TIERING_STREAM: Final = "ANABRANCH_TIERING"

EVENTS_ALL: Final = "anabranch.events.>"
FEED_ALL: Final = "anabranch.feed.>"
TIERING_ALL: Final = "anabranch.tiering.>"
LOAD_ALL: Final = "anabranch.load.*"
RATES_ALL: Final = "anabranch.rates.>"

CLUSTER_EVENTS: Final = "anabranch.events.cluster"
TRANSACTION_IDS: Final = "anabranch.events.transaction-ids"
STREAM_EVENTS_ALL: Final = "anabranch.events.stream.>"
SCALE_COMMAND: Final = "anabranch.command.scale"
CONTROLLERS_QUEUE: Final = "controllers"


def token(name: str) -> str:
    """A name as one token of a subject."""
    assert name, "an empty name has no subject"
    return name.replace(".", "~")


def name_of(token: str) -> str:
    """The name that `token` made this token of."""
    return token.replace("~", ".")


def scope_events(scope: str) -> str:
    return f"anabranch.events.scope.{token(scope)}"


def stream_events(scope: str, stream: str) -> str:
    return f"anabranch.events.stream.{token(scope)}.{token(stream)}"


def transaction_events(scope: str, stream: str, transaction: str) -> str:
    """`transaction` is the id as 32 hex digits."""
    return f"anabranch.events.transaction.{token(scope)}.{token(stream)}.{transaction}"


def reader_group_events(scope: str, group: str) -> str:
    return f"anabranch.events.group.{token(scope)}.{token(group)}"


def table_events(scope: str, table: str) -> str:
    return f"anabranch.events.table.{token(scope)}.{token(table)}"


def barrier(instance: str) -> str:
    return f"anabranch.events.barrier.{token(instance)}"


def load_report(store: str) -> str:
    return f"anabranch.load.{token(store)}"


def rates(scope: str, stream: str) -> str:
    return f"anabranch.rates.{token(scope)}.{token(stream)}"


def flush_orders(container: int) -> str:
    return f"anabranch.tiering.flush.{container}"


def delete_orders(container: int) -> str:
    return f"anabranch.tiering.delete.{container}"


def chunk_reports(container: int) -> str:
    """Requests of tierers to the owner of a container."""
    return f"anabranch.container.{container}.chunk"


def feed(kind: str, *names: str) -> str:
    """`kind` is dotted ("stream.scaled"); the names say what it is about: scope and stream, a
    container's number, or a member."""
    return ".".join([f"anabranch.feed.{kind}", *map(token, names)])
