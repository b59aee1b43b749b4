"""The tier 2 that a URL names.

    file:///absolute/path
    s3://bucket/prefix?endpoint=https://host:port&region=name     (docs/tier2.md)

What S3 needs takes 20 MB of memory and a quarter of a second to import, over a second from a
cold disk, so it is imported only when an s3 URL is given.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

import structlog

from anabranch_kit.adapters.file_object_store import FileObjectStore
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import (
    ObjectStore,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)

SUPPORTED: Final = "file:///absolute/path and s3://bucket/prefix?endpoint=URL"

# A service that cannot reach its tier 2 starts without it after this time.
CHECK_TIMEOUT_S: Final = 15.0

log = structlog.stdlib.get_logger("anabranch.tier2")


async def open_object_store(url: str, *, clock: Clock, new_id: Callable[[], UUID]) -> ObjectStore:
    """Open the store that a URL names, and see that it keeps what the port promises.

    An S3 store that does not answer now is opened all the same: a service that starts during
    an outage goes on without tier 2, and the store is checked before the first object is
    created. Raises UnsupportedObjectStore, and ObjectStoreUnavailable for a folder.
    """
    match urlsplit(url).scheme:
        case "file":
            return _open_file(url)
        case "s3":
            return await _open_s3(url, clock, new_id)
    raise UnsupportedObjectStore(url, f"supported are: {SUPPORTED}")


def _open_file(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UnsupportedObjectStore(url, "a file URL has three slashes: file:///absolute/path")
    return FileObjectStore(Path(unquote(parts.path)))


async def _open_s3(url: str, clock: Clock, new_id: Callable[[], UUID]) -> ObjectStore:
    try:
        from anabranch_kit.adapters.s3_object_store import S3ObjectStore
        from anabranch_kit.adapters.s3_object_store_location import (
            credentials_from_environment,
            parse_s3_url,
        )
    except ModuleNotFoundError as missing:
        raise UnsupportedObjectStore(
            url, f"{missing.name} is not installed: pip install 'anabranch-kit[s3]'"
        ) from missing
    store = S3ObjectStore(
        parse_s3_url(url),
        clock=clock,
        new_id=new_id,
        chance=random.Random(new_id().int),  # noqa: S311 - spreads retries, guards nothing
        credentials=credentials_from_environment(url),
    )
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await store.check()
    except ObjectStoreUnavailable as away:
        log.warning("tier2.not_checked_yet", url=url, reason=away.reason)
    except TimeoutError:
        log.warning("tier2.not_checked_yet", url=url, reason="no answer in time")
    except BaseException:
        await store.close()
        raise
    return store
