"""S3 servers for tests: SeaweedFS, a real store, and moto, a simulation in Python.

Both come in wheels and listen on loopback. They take seconds to start, so one of each serves a
whole session and every test has a prefix of its own. ANABRANCH_TEST_S3_URL names a bucket of
another store to run the same tests over (with ANABRANCH_S3_ACCESS_KEY_ID and so on).
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import aioboto3
from anabranch_kit import server_binaries
from anabranch_kit.adapters.s3_object_store_location import (
    ACCESS_KEY_VARIABLE,
    SECRET_KEY_VARIABLE,
    S3Credentials,
    credentials_from_environment,
)
from botocore.exceptions import BotoCoreError, ClientError

from anabranch_testkit.servers import ExternalServer, Server
from anabranch_testkit.waiting import eventually

S3_URL_VARIABLE = "ANABRANCH_TEST_S3_URL"
BUCKET = "anabranch-test"
CREDENTIALS = S3Credentials("anabranch-test-key", "anabranch-test-secret")
READY_TIMEOUT_S = 30.0


class S3Place:
    """A bucket for tests, and the process behind it."""

    def __init__(self, server: Server, bucket_url: str, credentials: S3Credentials | None) -> None:
        self.server, self.credentials = server, credentials
        self._bucket_url = bucket_url

    @property
    def bucket(self) -> str:
        return urlsplit(self._bucket_url).netloc

    @property
    def endpoint(self) -> str | None:
        return dict(parse_qsl(urlsplit(self._bucket_url).query)).get("endpoint")

    @property
    def port(self) -> int | None:
        """On this machine and in plain text, so that a proxy can stand before it; else None."""
        parts = urlsplit(self.endpoint or "")
        return parts.port if (parts.scheme, parts.hostname) == ("http", "127.0.0.1") else None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to get in."""
        if self.credentials is None:
            return {}
        return {
            ACCESS_KEY_VARIABLE: self.credentials.access_key_id,
            SECRET_KEY_VARIABLE: self.credentials.secret_access_key,
        }

    def url(self, prefix: str, *, port: int | None = None) -> str:
        """The URL of a prefix; `port` is that of a proxy before the server."""
        parts = urlsplit(self._bucket_url)
        options = dict(parse_qsl(parts.query))
        if port is not None:
            options["endpoint"] = f"http://127.0.0.1:{port}"
        path = f"{parts.path.rstrip('/')}/{prefix}"
        return f"s3://{parts.netloc}{path}?{urlencode(options, safe=':/')}"


@asynccontextmanager
async def seaweed_server() -> AsyncIterator[S3Place]:
    """SeaweedFS with one bucket; its files go when the context ends."""
    external = os.environ.get(S3_URL_VARIABLE)
    if external:
        server: Server = ExternalServer("s3", external)
        yield S3Place(server, external, credentials_from_environment(external))
        return
    with tempfile.TemporaryDirectory(prefix="anabranch-s3-") as name:
        folder, port = Path(name), server_binaries.free_port()
        command = _seaweed_command(folder, port)
        server = Server("seaweedfs", f"http://127.0.0.1:{port}", port, folder, lambda: command)
        async with _started(server) as place:
            yield place


@asynccontextmanager
async def moto_server() -> AsyncIterator[S3Place]:
    """It checks neither signatures nor checksums, but it does honour conditions."""
    with tempfile.TemporaryDirectory(prefix="anabranch-moto-") as name:
        folder, port = Path(name), server_binaries.free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = Server("moto", f"http://127.0.0.1:{port}", port, folder, lambda: command)
        async with _started(server) as place:
            yield place


@asynccontextmanager
async def _started(server: Server) -> AsyncIterator[S3Place]:
    async def has_bucket() -> bool:
        return await _has_bucket(server.url)

    await server.start()
    try:
        # It listens before it can store anything.
        ready: Callable[[], bool | Awaitable[bool]] = has_bucket
        await eventually(ready, READY_TIMEOUT_S, pause_s=0.1)
        yield S3Place(server, f"s3://{BUCKET}/?endpoint={server.url}", CREDENTIALS)
    finally:
        await server.kill()


async def _has_bucket(endpoint: str) -> bool:
    session = aioboto3.Session(
        aws_access_key_id=CREDENTIALS.access_key_id,
        aws_secret_access_key=CREDENTIALS.secret_access_key,
        region_name="us-east-1",
    )
    async with session.client("s3", endpoint_url=endpoint) as client:
        try:
            await client.create_bucket(Bucket=BUCKET)
            await client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
        except (ClientError, BotoCoreError):
            return False
    return True


def _seaweed_command(folder: Path, port: int) -> list[str]:
    """One process with all of its parts, each on a port of its own, which it insists on."""
    identity = {
        "name": "test",
        "credentials": [
            {
                "accessKey": CREDENTIALS.access_key_id,
                "secretKey": CREDENTIALS.secret_access_key,
            }
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.port": port,
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "s3.json",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 0,
        "volume.preStopSeconds": 0,
    }
    for part in ("master.port", "volume.port", "filer.port"):
        options[part] = server_binaries.free_port()
        options[f"{part}.grpc"] = server_binaries.free_port()
    options["s3.port.grpc"] = server_binaries.free_port()
    binary = Path(sysconfig.get_path("scripts")) / "weed"
    return [str(binary), "server", *(f"-{name}={value}" for name, value in options.items())]
