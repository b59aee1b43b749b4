"""Scopes and streams through the official client: their whole life."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.client import Client, RemoteError
from helpers.cluster import StandaloneCluster
from helpers.control import Control


def streams(client: Client, scope: str) -> list[str]:
    """Those that users made: `_MARK…` and the like belong to the system."""
    return [name for name in client.manager.list_stream(scope) if not name.startswith("_")]


def test_a_scope_is_created_listed_and_deleted(client: Client) -> None:
    """A user could not set up a place for streams, or get rid of it."""
    assert client.manager.create_scope("shop") is True
    assert client.manager.create_scope("shop") is False
    assert "shop" in client.manager.list_scope()
    assert client.manager.delete_scope("shop") is True
    assert client.manager.delete_scope("shop") is False
    assert "shop" not in client.manager.list_scope()


def test_a_scope_with_a_stream_is_not_deleted(client: Client, scope: str) -> None:
    """A typing error would take all streams of a scope."""
    client.manager.create_stream(scope, "orders", 1)
    with pytest.raises(RemoteError) as raised:
        client.manager.delete_scope(scope)
    assert raised.value.kind == "ValueError"
    assert streams(client, scope) == ["orders"]


def test_a_stream_lives_from_creation_over_sealing_to_deletion(
    client: Client, scope: str, control: Control
) -> None:
    """A stream could not be made, closed or removed."""
    manager = client.manager
    assert manager.create_stream(scope, "orders", 3) is True
    assert manager.create_stream(scope, "orders", 3) is False
    assert len(control.segments(scope, "orders")) == 3
    with pytest.raises(RemoteError):
        manager.delete_stream(scope, "orders")
    assert manager.seal_stream(scope, "orders") is True
    assert control.segments(scope, "orders") == []
    assert manager.delete_stream(scope, "orders") is True
    assert streams(client, scope) == []


def test_a_stream_in_a_missing_scope_is_refused(client: Client) -> None:
    """A stream would be created where nobody finds it."""
    with pytest.raises(RemoteError) as raised:
        client.manager.create_stream("no-such-scope", "orders", 1)
    assert raised.value.kind == "ValueError"


def test_tags_are_kept_and_replaced_by_an_update(client: Client, scope: str) -> None:
    """Settings that travel as tags, such as scaling windows, would be lost."""
    module, manager = client.module, client.manager
    fixed = getattr(module, "StreamScalingPolicy.fixed_scaling_policy")(1)
    forever = getattr(module, "StreamRetentionPolicy.none")()
    manager.create_stream_with_policy(scope, "tagged", fixed, forever, ["red", "blue"])
    assert sorted(manager.get_stream_tags(scope, "tagged")) == ["blue", "red"]
    assert manager.update_stream_with_policy(scope, "tagged", fixed, forever, ["green"]) is True
    assert manager.get_stream_tags(scope, "tagged") == ["green"]


def test_a_sealed_stream_takes_no_events_and_keeps_what_it_has(
    new_client: Callable[[], Client], client: Client, scope: str
) -> None:
    """Sealing would lose data, or writes to a sealed stream would seem to succeed."""
    manager = client.manager
    manager.create_stream(scope, "closed", 2)
    writer = manager.create_writer(scope, "closed")
    for number in range(10):
        writer.write_event(f"event {number}", f"key{number}")
    manager.seal_stream(scope, "closed")
    late = new_client()
    with pytest.raises(RemoteError):
        late.manager.create_writer(scope, "closed").write_event("too late", "key")
    reader = manager.create_reader_group("group", scope, "closed").create_reader("reader")
    events = client.read_events(reader, 10)
    assert sorted(events) == [f"event {number}".encode() for number in range(10)]


def test_a_stream_created_again_under_its_old_name_is_empty(client: Client, scope: str) -> None:
    """Events of a deleted stream would come back in its namesake."""
    manager = client.manager
    for generation in range(2):
        manager.create_stream(scope, "phoenix", 1)
        writer = manager.create_writer(scope, "phoenix")
        writer.write_event(f"generation {generation}", "key")
        group = manager.create_reader_group(f"group{generation}", scope, "phoenix")
        events = client.read_events(group.create_reader("reader"), 1)
        assert events == [f"generation {generation}".encode()]
        manager.seal_stream(scope, "phoenix")
        manager.delete_stream(scope, "phoenix")


def test_where_finds_the_store_of_a_segment(
    cluster: StandaloneCluster, client: Client, scope: str
) -> None:
    """An operator could not tell which process holds a segment."""
    client.manager.create_stream(scope, "placed", 1)
    found = cluster.command("cluster", "where", f"{scope}/placed/0.#epoch.0", "-o", "json")
    assert found.returncode == 0, found.stderr
    assert '"segmentstore":"segmentstore-0"' in found.stdout
    assert str(cluster.addresses["segmentstores"][0]) in found.stdout
