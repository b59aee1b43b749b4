"""What a user or a disk does wrong: a clear message that names the thing and what to do."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from anabranch_wire import commands
from anabranch_wire.codec import decode_reply, encode
from helpers.client import Client
from helpers.cluster import ANABRANCH, FREE_PORTS, StandaloneCluster
from helpers.control import Control


def run_standalone(
    *arguments: object, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """A start that is expected to fail: exit code and what was said."""
    result = subprocess.run(
        [ANABRANCH, "standalone", *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    assert result.stdout == "", "no table of addresses for a cluster that does not run"
    return result.returncode, result.stderr


def test_a_second_standalone_on_one_data_directory_names_the_first(
    cluster: StandaloneCluster,
) -> None:
    """Two clusters would destroy each other's data."""
    code, said = run_standalone("--data", cluster.data, *FREE_PORTS)
    assert code == 5
    assert str(cluster.data) in said
    assert f"process {cluster.supervisor_pid}" in said
    assert "--data" in said


def test_a_port_in_use_is_named_with_its_flag(tmp_path: Path, cluster: StandaloneCluster) -> None:
    """The user would not know which port of five to change."""
    port = cluster.controller.rpartition(":")[2]
    code, said = run_standalone("--data", tmp_path, *FREE_PORTS, "--controller-port", port)
    assert code == 5
    assert f"port {port}" in said
    assert "--controller-port" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--containers", "0"], "--containers"),
        (["--containers", "many"], "--containers"),
        (["--controller-port", "123456"], "--controller-port"),
        (["--external-nats", "localhost"], "--external-nats"),
        (["--data", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flags: list[str], named: str) -> None:
    """A stack trace would hide which flag is wrong."""
    code, said = run_standalone("--data", tmp_path, *FREE_PORTS, *flags)
    assert code in (2, 5)
    assert named in said
    assert "Traceback" not in said


def test_a_wrong_setting_of_a_service_ends_the_start_with_its_name(tmp_path: Path) -> None:
    """A typing error in the environment would silently do nothing, or be retried for ever."""
    code, said = run_standalone(
        *("--data", tmp_path, *FREE_PORTS),
        environment={"ANABRANCH_SEGMENTSTORE__NO_SUCH_SETTING": "1"},
    )
    assert code == 1
    assert "segmentstore" in said
    assert "NO_SUCH_SETTING" in said
    assert "Traceback" not in said


def test_another_number_of_containers_than_the_cluster_has_is_refused(
    own_cluster: StandaloneCluster,
) -> None:
    """Segments would be looked for in other containers than they were written to."""
    own_cluster.start("--containers", "2")
    own_cluster.stop()
    code, said = run_standalone("--data", own_cluster.data, *FREE_PORTS, "--containers", "3")
    assert code != 0
    assert "2" in said
    assert "containers" in said
    own_cluster.start("--containers", "2")


def test_an_unknown_segment_is_answered_not_dropped(cluster: StandaloneCluster) -> None:
    """A client with an old name would hang instead of hearing that the segment is gone."""
    host, _, port = str(cluster.addresses["segmentstores"][0]).partition(":")
    question = commands.GetStreamSegmentInfo(7, "no/such/0.#epoch.0")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(encode(question))
        code, length = struct.unpack(">ii", receive(connection, 8))
        reply = decode_reply(code, receive(connection, length))
    assert isinstance(reply, commands.NoSuchSegment)
    assert (reply.request_id, reply.segment) == (7, question.segment)


def test_garbage_on_the_port_of_the_store_harms_nobody(
    cluster: StandaloneCluster, client: Client, scope: str
) -> None:
    """One broken peer would take the service from all others."""
    host, _, port = str(cluster.addresses["segmentstores"][0]).partition(":")
    store = cluster.pids["segmentstore-0"]
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, struct.pack(">ii", 0, 2**31 - 1)):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    client.manager.create_stream(scope, "after", 1)
    client.manager.create_writer(scope, "after").write_event("fine", "key")
    assert cluster.pids["segmentstore-0"] == store


def test_a_client_of_the_wrong_port_is_turned_away(cluster: StandaloneCluster) -> None:
    """gRPC sent to the segment store would hang until somebody gives up."""
    import grpc

    store = str(cluster.addresses["segmentstores"][0])
    with Control(store) as control, pytest.raises(grpc.RpcError) as raised:
        control.segments("any", "stream")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_flipped_bit_in_the_log_is_refused_and_named(own_cluster: StandaloneCluster) -> None:
    """Damaged events would be served, or acknowledged ones silently cut off."""
    own_cluster.start("--containers", "1")
    client = Client(own_cluster.controller)
    client.manager.create_scope("damaged")
    client.manager.create_stream("damaged", "stream", 1)
    writer = client.manager.create_writer("damaged", "stream")
    for number in range(50):
        writer.write_event(f"event {number}", "key")
    client.close()
    own_cluster.kill_everything()

    path, offset = find_in_log(own_cluster.data / "wal", b"event 10")
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    code, said = run_standalone("--data", own_cluster.data, *FREE_PORTS, "--containers", "1")
    assert code != 0
    assert path.name in said, said
    assert f"{path} at byte" in said, said
    assert "Restore the file" in said, said
    assert "Traceback" not in said


def find_in_log(folder: Path, wanted: bytes) -> tuple[Path, int]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (at := path.read_bytes().find(wanted)) >= 0:
            return path, at
    raise AssertionError(f"{wanted!r} is not in the log")


def receive(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        assert part, "the connection was closed without an answer"
        parts += part
    return parts


def test_a_stopped_cluster_leaves_no_process_behind(own_cluster: StandaloneCluster) -> None:
    """Ctrl-C would leave servers that hold ports and data."""
    own_cluster.start()
    pids = own_cluster.pids
    assert own_cluster.stop() == 0
    assert not [name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()]
