"""Tier 2 on a file system: one file per object, created once and never replaced.

An object is written to a file of its own in `incoming/`, synced, and then *linked* to its
name: `link(2)` fails when the name exists, so of two creators one wins and no reader sees a
half-written object. The directory is synced before the creator is told. A footer carries
length and CRC-32C (docs/formats.md, "File object store"), so that a cut or foreign file is
told from an object; the bytes of a range are checked by whoever keeps their checksum.

A crash leaves its file in `incoming/`. The file is locked while it is written, so opening the
store can tell what a dead process left there and removes that; nothing else is ever removed
unasked.

All file work runs on IO_THREADS_MAX threads; more calls than that wait for one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import google_crc32c
import structlog

from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    assert_object_name,
)

IO_THREADS_MAX: Final = 4
LIST_PAGE_NAMES: Final = 1000
OBJECTS_FOLDER: Final = "objects"
INCOMING_FOLDER: Final = "incoming"

# Magic, length of the object, its CRC-32C, CRC-32C of the 20 bytes before. Big-endian.
FOOTER: Final = struct.Struct(">8sQII")
FOOTER_MAGIC: Final = b"ANBOBJ01"
assert FOOTER.size == 24

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}

Result = TypeVar("Result")
log = structlog.stdlib.get_logger("anabranch.tier2")


class FileObjectStore:
    """ObjectStore under a folder. Several processes may use one folder."""

    def __init__(self, root: Path) -> None:
        """Makes the folder. Raises ObjectStoreUnavailable when that is not possible."""
        self.root = root
        self._objects, self._incoming = root / OBJECTS_FOLDER, root / INCOMING_FOLDER
        try:
            self._objects.mkdir(parents=True, exist_ok=True)
            self._incoming.mkdir(exist_ok=True)
            _sync_folder(root)
            self._remove_leftovers()
        except OSError as error:
            raise ObjectStoreUnavailable("open", str(root), _reason(error, root)) from error
        self._folders_synced = {self._objects}  # grows with the folders: one per container
        self._threads = ThreadPoolExecutor(IO_THREADS_MAX, thread_name_prefix="tier2")

    async def create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        return await self._run("create", name, lambda: self._create(name, parts))

    async def read(self, name: str, offset: int, length: int) -> bytes:
        return await self._run("read", name, lambda: self._read(name, offset, length))

    async def head(self, name: str) -> ObjectInfo:
        return await self._run("head", name, lambda: self._head(name))

    async def delete(self, name: str) -> None:
        await self._run("delete", name, lambda: self._delete(name))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Names in no particular order; objects made meanwhile may or may not be among them."""
        names = self._names(prefix)
        while True:
            page = await self._run("list", prefix, lambda: _page(names))
            for name in page:
                yield name
            if len(page) < LIST_PAGE_NAMES:
                return

    async def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, operation: str, name: str, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            reason = _reason(error, self.root)
            raise ObjectStoreUnavailable(operation, name, reason) from error

    def _path(self, name: str) -> Path:
        assert_object_name(name)
        return self._objects / name

    def _create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        path = self._path(name)
        if path.exists():
            raise ObjectExists(name)
        descriptor, temporary = tempfile.mkstemp(dir=self._incoming)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            info = _write(descriptor, name, parts)
            os.fsync(descriptor)
            self._make_folder(path.parent)
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise ObjectExists(name) from None
            _sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):  # swept by a store that was just opened
                os.unlink(temporary)
            os.close(descriptor)
        return info

    def _read(self, name: str, offset: int, length: int) -> bytes:
        assert min(offset, length) >= 0, f"no range: {offset}+{length}"
        with _opened(self._path(name), name) as file:
            if offset + length > file.info.length_bytes:
                reason = f"has {file.info.length_bytes} bytes, asked for {offset}+{length}"
                raise ObjectDamaged(name, reason)
            return _read_exactly(file.descriptor, name, offset, length)

    def _head(self, name: str) -> ObjectInfo:
        with _opened(self._path(name), name) as file:
            return file.info

    def _delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)

    def _names(self, prefix: str) -> Iterator[str]:
        # The last part of a prefix may be the start of a name, so its folder is walked.
        folder = self._objects / prefix.rpartition("/")[0]
        for parent, _, files in os.walk(folder):
            for file in files:
                name = str((Path(parent) / file).relative_to(self._objects))
                if name.startswith(prefix):
                    yield name

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, durable before an object in it is reported.

        Another process may have made one and not synced it yet, so each process syncs once.
        """
        if folder in self._folders_synced:
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
        self._folders_synced.add(folder)

    def _remove_leftovers(self) -> None:
        for path in self._incoming.iterdir():
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A writer that was caught before its lock fails its link and is told so.
                path.unlink(missing_ok=True)
                log.info("tier2.leftover_removed", file=path.name)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


class _OpenObject:
    """A file that has proved to be an object; `with` closes it."""

    def __init__(self, descriptor: int, info: ObjectInfo) -> None:
        self.descriptor, self.info = descriptor, info

    def __enter__(self) -> _OpenObject:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


class _Footer(NamedTuple):
    magic: bytes
    length_bytes: int
    crc32c: int
    footer_crc32c: int


def _opened(path: Path, name: str) -> _OpenObject:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectNotFound(name) from None
    try:
        return _OpenObject(descriptor, _read_footer(descriptor, name))
    except BaseException:
        os.close(descriptor)
        raise


def _read_footer(descriptor: int, name: str) -> ObjectInfo:
    file_bytes = os.fstat(descriptor).st_size
    if file_bytes < FOOTER.size:
        raise ObjectDamaged(name, f"the file has {file_bytes} bytes, less than its footer")
    raw = os.pread(descriptor, FOOTER.size, file_bytes - FOOTER.size)
    footer = _Footer(*FOOTER.unpack(raw))
    if footer.magic != FOOTER_MAGIC or footer.footer_crc32c != google_crc32c.value(raw[:-4]):
        raise ObjectDamaged(name, "the footer is not valid: the file was cut or changed")
    if footer.length_bytes != file_bytes - FOOTER.size:
        raise ObjectDamaged(
            name,
            f"the footer says {footer.length_bytes} bytes, the file has {file_bytes - FOOTER.size}",
        )
    return ObjectInfo(name, footer.length_bytes, footer.crc32c)


def _write(descriptor: int, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
    length, crc = 0, 0
    for part in parts:
        # google-crc32c refuses writable buffers, which received bytes often are.
        block = part if isinstance(part, bytes) else bytes(part)
        crc = google_crc32c.extend(crc, block)
        length += len(block)
        _write_all(descriptor, block)
    head = FOOTER.pack(FOOTER_MAGIC, length, crc, 0)[:-4]
    _write_all(descriptor, head + struct.pack(">I", google_crc32c.value(head)))
    return ObjectInfo(name, length, crc)


def _write_all(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, name: str, offset: int, length: int) -> bytes:
    blocks: list[bytes] = []
    while length:
        block = os.pread(descriptor, length, offset)
        if not block:
            raise ObjectDamaged(name, f"the file ends at {offset}, before its footer said")
        blocks.append(block)
        offset, length = offset + len(block), length - len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _page(names: Iterator[str]) -> list[str]:
    return [name for name, _ in zip(names, range(LIST_PAGE_NAMES), strict=False)]


def _reason(error: OSError, root: Path) -> str:
    text = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{text}: free space under {root}; what waits is written then by itself"
    if error.errno == errno.EROFS or isinstance(error, PermissionError):
        return f"{text}: the process needs to write under {root}"
    return text
