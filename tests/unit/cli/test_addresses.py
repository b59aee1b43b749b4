"""Where a command looks for the cluster: flag, environment, ready file, default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from anabranch_cli.addresses import address
from anabranch_cli.output import ExitCode, Problem

FILE = {
    "controller": "tcp://127.0.0.1:1",
    "rest": "http://127.0.0.1:2",
    "segmentstores": ["127.0.0.1:3"],
    "nats": "nats://127.0.0.1:4",
    "redis": "redis://127.0.0.1:5",
    "data": "/data",
    "pids": {"nats": 6},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ready_file(tmp_path: Path) -> Path:
    path = tmp_path / "ready.json"
    path.write_text(json.dumps(FILE))
    return path


def test_a_flag_wins_over_everything(ready_file: Path) -> None:
    """A user could not point a command at another server."""
    found = address(
        "redis", flag="redis://f", cluster=ready_file, environment={"ANABRANCH_REDIS": "redis://e"}
    )
    assert found == "redis://f"


def test_a_named_ready_file_wins_over_the_environment(ready_file: Path) -> None:
    """`--cluster` stands on the command line, the variable may be old."""
    environment = {"ANABRANCH_REDIS": "redis://e"}
    found = address("redis", flag=None, cluster=ready_file, environment=environment)
    assert found == "redis://127.0.0.1:5"


def test_the_environment_names_an_address_or_a_ready_file(ready_file: Path) -> None:
    """Flags would have to be repeated with every command."""
    environment = {"ANABRANCH_NATS": "nats://e", "ANABRANCH_CLUSTER": str(ready_file)}
    assert address("nats", flag=None, cluster=None, environment=environment) == "nats://e"
    found = address("controller", flag=None, cluster=None, environment=environment)
    assert found == "tcp://127.0.0.1:1"


def test_the_cluster_in_the_current_folder_is_found_without_any_flag(tmp_path: Path) -> None:
    """Beside a plain `anabranch standalone`, whose NATS and Redis ports are free ones."""
    (tmp_path / "anabranch-data").mkdir()
    (tmp_path / "anabranch-data" / "cluster.json").write_text(json.dumps(FILE))
    assert address("nats", flag=None, cluster=None, environment={}) == "nats://127.0.0.1:4"


def test_defaults_are_the_usual_ports() -> None:
    """A cluster on the usual ports would need flags."""
    found = address("controller", flag=None, cluster=None, environment={})
    assert found == "tcp://127.0.0.1:9090"


def test_a_missing_or_broken_ready_file_is_named(tmp_path: Path) -> None:
    """The user would see a stack trace for a typing error in a path."""
    with pytest.raises(Problem, match="there is no cluster file") as missing:
        address("nats", flag=None, cluster=tmp_path / "none.json", environment={})
    assert missing.value.code is ExitCode.NOT_FOUND
    (tmp_path / "broken.json").write_text('{"controller": 1}')
    with pytest.raises(Problem, match="is no cluster file") as broken:
        address("nats", flag=None, cluster=tmp_path / "broken.json", environment={})
    assert broken.value.code is ExitCode.USAGE
