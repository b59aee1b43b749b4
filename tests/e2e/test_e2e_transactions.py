"""Transactions through the official client: all of it or nothing, across a scale too."""

from __future__ import annotations

import pytest
from helpers.client import Client, Remote, RemoteError
from helpers.cluster import wait_until
from helpers.control import Control, assert_covers_key_space


def begin(client: Client, scope: str, stream: str) -> Remote:
    return client.manager.create_transaction_writer(scope, stream, 7).begin_txn()


def reader(client: Client, scope: str, stream: str) -> Remote:
    return client.manager.create_reader_group("group", scope, stream).create_reader("reader")


def committed(control: Control, scope: str, stream: str, transaction: Remote) -> None:
    """`commit` only asks for it; this waits for the end of it."""
    number = transaction.get_txn_id()
    wait_until(
        lambda: control.transaction_state(scope, stream, number) == "COMMITTED",
        20.0,
        "the transaction is committed",
    )


def test_events_of_a_transaction_appear_at_commit_and_not_before(
    client: Client, scope: str, control: Control
) -> None:
    """Readers would see half a transaction."""
    client.manager.create_stream(scope, "ledger", 2)
    transaction = begin(client, scope, "ledger")
    for number in range(20):
        transaction.write_event(f"{number:02}", f"key{number % 5}")
    assert transaction.is_open()
    writer = client.manager.create_writer(scope, "ledger")
    writer.write_event("before the commit", "key0")
    source = reader(client, scope, "ledger")
    assert client.read_events(source, 1) == [b"before the commit"]
    transaction.commit()
    events = client.read_events(source, 20)
    assert sorted(events) == [f"{number:02}".encode() for number in range(20)]
    committed(control, scope, "ledger", transaction)


def test_an_aborted_transaction_is_never_read(client: Client, scope: str) -> None:
    """Aborted events would be taken for real ones."""
    client.manager.create_stream(scope, "ledger", 2)
    transaction = begin(client, scope, "ledger")
    for number in range(10):
        transaction.write_event(f"aborted {number}", f"key{number}")
    transaction.abort()
    writer = client.manager.create_writer(scope, "ledger")
    for number in range(10):
        writer.write_event(f"real {number}", f"key{number}")
    events = client.read_events(reader(client, scope, "ledger"), 10)
    assert sorted(events) == [f"real {number}".encode() for number in range(10)]


def test_an_aborted_transaction_takes_no_more_events(client: Client, scope: str) -> None:
    """A writer would believe that its events are part of something."""
    client.manager.create_stream(scope, "ledger", 1)
    transaction = begin(client, scope, "ledger")
    transaction.write_event("one", "key")
    transaction.abort()
    with pytest.raises(RemoteError):
        transaction.write_event("two", "key")


def test_a_transaction_commits_after_a_scale_came_between(
    client: Client, scope: str, control: Control
) -> None:
    """A rolling transaction: its segments are those of an epoch that is over.

    Order per key: what was written before the commit comes before the transaction, what was
    written after it comes after it.
    """
    client.manager.create_stream(scope, "rolling", 1)
    writer = client.manager.create_writer(scope, "rolling")
    writer.write_event("plain 0", "key")
    transaction = begin(client, scope, "rolling")
    transaction.write_event("transaction 0", "key")
    control.scale(scope, "rolling", [0], [(0.0, 0.5), (0.5, 1.0)])
    writer.write_event("plain 1", "key")
    transaction.write_event("transaction 1", "key")
    transaction.commit()
    committed(control, scope, "rolling", transaction)
    after = client.manager.create_writer(scope, "rolling")
    after.write_event("plain 2", "key")
    events = client.read_events(reader(client, scope, "rolling"), 5)
    assert events == [b"plain 0", b"plain 1", b"transaction 0", b"transaction 1", b"plain 2"]
    segments = control.segments(scope, "rolling")
    assert len(segments) == 2, "the ranges of before the commit"
    assert_covers_key_space(segments)


def test_sealing_a_stream_aborts_its_open_transactions(
    client: Client, scope: str, control: Control
) -> None:
    """A transaction would stay open on a stream that is closed, or keep it from closing."""
    client.manager.create_stream(scope, "sealed", 1)
    transaction = begin(client, scope, "sealed")
    transaction.write_event("lost on purpose", "key")
    assert client.manager.seal_stream(scope, "sealed") is True
    assert control.transaction_state(scope, "sealed", transaction.get_txn_id()) == "ABORTED"


def test_several_transactions_of_one_writer_commit_in_their_order(
    client: Client, scope: str
) -> None:
    """Two commits would be mixed or swapped on one key."""
    client.manager.create_stream(scope, "many", 1)
    source = client.manager.create_transaction_writer(scope, "many", 7)
    for number in range(5):
        transaction = source.begin_txn()
        for part in range(3):
            transaction.write_event(f"{number}.{part}", "key")
        transaction.commit()
    events = client.read_events(reader(client, scope, "many"), 15)
    assert events == [f"{n}.{p}".encode() for n in range(5) for p in range(3)]
