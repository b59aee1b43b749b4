"""Flags of `anabranch standalone` that cannot work are refused before anything is started."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
from anabranch_cli.output import ExitCode, Problem
from anabranch_standalone.options import (
    FREE_PORT_FIRST,
    FREE_PORT_LAST,
    Options,
    check,
    choose_ports,
)

FREE = {
    "controller_port": 0,
    "rest_port": 0,
    "segmentstore_port": 0,
}


def test_port_zero_is_any_free_port_and_each_is_another() -> None:
    """Two services would fight for one port."""
    ports = choose_ports(Options(data=Path("x"), **FREE), rng=random.Random(1))
    assert set(ports) == {
        "controller-port",
        "rest-port",
        "segmentstore-port",
        "nats-port",
        "redis-port",
    }
    assert len(set(ports.values())) == 5
    assert all(FREE_PORT_FIRST <= port <= FREE_PORT_LAST for port in ports.values())


def test_several_segment_stores_listen_side_by_side() -> None:
    """Two stores would fight for one port, or be found nowhere near the one that was asked for."""
    options = Options(data=Path("x"), **{**FREE, "segmentstore_port": 21345}, segmentstores_count=3)
    ports = choose_ports(options, rng=random.Random(1))
    assert [ports.segmentstore(index) for index in range(3)] == [21345, 21346, 21347]
    anywhere = Options(data=Path("x"), **FREE, segmentstores_count=3)
    ports = choose_ports(anywhere, rng=random.Random(1))
    assert len({ports.segmentstore(index) for index in range(3)}) == 3
    assert len(set(ports.values())) == 7


def test_a_port_in_use_is_named_with_its_flag() -> None:
    """The user would see a stack trace of a service instead of the port to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = Options(data=Path("x"), **{**FREE, "rest_port": port})
        with pytest.raises(Problem) as raised:
            choose_ports(options, rng=random.Random(1))
    assert raised.value.code is ExitCode.REFUSED
    assert f"port {port}" in raised.value.message
    assert "--rest-port" in raised.value.message


def test_one_port_for_two_services_is_refused() -> None:
    """The second service would fail with a message about a port that seems free."""
    options = Options(data=Path("x"), **{**FREE, "controller_port": 21345, "rest_port": 21345})
    with pytest.raises(Problem, match="--rest-port 21345: another flag has this port"):
        choose_ports(options, rng=random.Random(1))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"containers_count": 0}, "--containers 0"),
        ({"containers_count": 100_000}, "--containers 100000"),
        ({"segmentstores_count": 0}, "--segmentstores 0"),
        ({"segmentstores_count": 1000}, "--segmentstores 1000"),
        ({"segmentstore_port": 65_535, "segmentstores_count": 2}, "--segmentstore-port +1 65536"),
        ({"controller_port": 70_000}, "--controller-port 70000"),
        ({"nats_port": -1}, "--nats-port -1"),
        ({"external_nats": "localhost:4222"}, "--external-nats localhost:4222"),
        ({"external_redis": "localhost"}, "--external-redis localhost"),
        ({"tier2": "bucket/prefix"}, "--tier2"),
        ({"ready_file": Path("/no/such/folder/ready.json")}, "--ready-file"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(wrong, named) -> None:
    """The user would have to guess which flag is meant."""
    with pytest.raises(Problem) as raised:
        check(Options(data=Path("x"), **wrong))
    assert raised.value.code is ExitCode.USAGE
    assert named in raised.value.message
    assert "\n" not in raised.value.message


def test_an_external_server_needs_no_port() -> None:
    """A port would be reserved for a server that is not started."""
    options = Options(
        data=Path("x"), **FREE, external_nats="nats://h:1", external_redis="redis://h:2"
    )
    check(options)
    assert set(choose_ports(options, rng=random.Random(1))) == {
        "controller-port",
        "rest-port",
        "segmentstore-port",
    }
