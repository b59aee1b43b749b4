"""Minting and fencing of FileLog: who may write a container's log.

An epoch belongs to whoever links a synced file to the name `EPOCH-<n>`: link(2) fails when the
name exists, so of two stores that both saw n-1 only one becomes n (a rename would let both).
The name is durable before its owner writes anything, and every owner lists the names after
each sync and before each acknowledgement: it is fenced by any name above its own.

Why that suffices: what an old owner acknowledged was durable, and its check found no newer
name, before the new owner's link; so the new owner, who reads after its link, finds it.

The highest name is never removed. A lower one may be (with its directory); whoever links such
a name anew finds the higher ones when it looks again, and goes on to a free one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import decode_token, encode_token
from anabranch_segmentstore.ports import LogFenced

_TOKEN_NAME: Final = re.compile(r"EPOCH-(\d{1,18})")
_EPOCH_DIRECTORY: Final = re.compile(r"\d{1,18}")


class Minted(NamedTuple):
    """`salt` goes into every checksum of the epoch."""

    epoch: int
    salt: int


def token_path(directory: Path, epoch: int) -> Path:
    return directory / f"EPOCH-{epoch}"


def epoch_directory(directory: Path, epoch: int) -> Path:
    return directory / str(epoch)


def minted_epochs(names: list[str]) -> list[int]:
    """The epochs that have a name, lowest first."""
    matches = (_TOKEN_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def epoch_directories(names: list[str]) -> list[int]:
    """The epochs that have a directory, lowest first."""
    return sorted(int(name) for name in names if _EPOCH_DIRECTORY.fullmatch(name))


def mint(
    files: LocalFiles, directory: Path, container: int, new_number: Callable[[], int]
) -> Minted:
    """Win an epoch above all others. `new_number` gives random 64-bit numbers."""
    while True:
        epoch = _next_epoch(files.names(directory))
        minted = Minted(epoch, new_number())
        if _link_token(files, directory, container, minted, new_number()):
            files.sync_directory(directory)
            if _next_epoch(files.names(directory)) == epoch + 1:
                return minted


def _next_epoch(names: list[str]) -> int:
    # Directories count too, should somebody have lost the names.
    return max([0, *minted_epochs(names), *epoch_directories(names)]) + 1


def _link_token(
    files: LocalFiles, directory: Path, container: int, minted: Minted, suffix: int
) -> bool:
    """False when somebody else was faster."""
    draft = directory / f".epoch-{suffix:016x}"
    descriptor = files.create(draft)
    try:
        content = encode_token(container=container, epoch=minted.epoch, salt=minted.salt)
        files.write(descriptor, [content], 0)
        files.sync(descriptor)
        files.link(draft, token_path(directory, minted.epoch))
    except FileExistsError:
        return False
    finally:
        files.close(descriptor)
        files.remove(draft)
    return True


def check_fence(files: LocalFiles, directory: Path, container: int, epoch: int) -> None:
    """Raises LogFenced when a newer epoch has a name."""
    newest = max(minted_epochs(files.names(directory)), default=0)
    if newest > epoch:
        raise LogFenced(container, epoch, newest)


def read_salt(files: LocalFiles, directory: Path, epoch: int) -> int | None:
    """The salt in the epoch's token; None when there is no intact token."""
    try:
        descriptor = files.open(token_path(directory, epoch))
    except FileNotFoundError:
        return None
    try:
        return decode_token(files.read(descriptor, 4096, 0))
    finally:
        files.close(descriptor)
