"""System tests: a real cluster of processes, worked by the unmodified client from PyPI."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `helpers`

from helpers.client import Client
from helpers.cluster import StandaloneCluster
from helpers.control import Control

HERE = Path(__file__).parent
_scopes = count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """One cluster for all tests that do not harm it."""
    started = StandaloneCluster(tmp_path_factory.mktemp("cluster"))
    started.start()
    yield started
    started.end()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[StandaloneCluster]:
    """A cluster that the test may kill. Not started yet."""
    own = StandaloneCluster(tmp_path)
    yield own
    own.end()


@pytest.fixture
def new_client(cluster: StandaloneCluster) -> Iterator[Callable[[], Client]]:
    """Makes clients, each in a process of its own."""
    clients: list[Client] = []

    def new() -> Client:
        clients.append(Client(cluster.controller))
        return clients[-1]

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def client(new_client: Callable[[], Client]) -> Client:
    return new_client()


@pytest.fixture
def control(cluster: StandaloneCluster) -> Iterator[Control]:
    with Control(cluster.controller) as control:
        yield control


@pytest.fixture
def scope(client: Client) -> str:
    """A fresh scope."""
    name = f"scope{next(_scopes)}"
    assert client.manager.create_scope(name) is True
    return name
