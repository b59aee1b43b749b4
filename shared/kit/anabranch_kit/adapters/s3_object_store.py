"""Tier 2 on S3: one S3 object per object, created once and never replaced.

`If-None-Match: *` makes a put fail when the name is taken, so of two creators one wins. Not
every store that speaks S3 does that; `check` tries it, and nothing is created before it has
passed (s3_object_store_check.py).

A put that was not answered may have happened, or may happen yet. Each further attempt is
conditional too, so no two of them can both store something; and before it, the name is looked
at: the object there is ours when length and CRC-32C are.

CRC-32C is computed here over what the caller gave and kept in the metadata of the object
(docs/formats.md, "Objects in S3"). It goes along with each put, so that a store which knows it
refuses bytes that changed on the way. `head` compares it with what such a store has for the
object; a read of a whole object compares it with the bytes; the bytes of a range are checked
by whoever keeps their checksum.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import google_crc32c
import structlog

from anabranch_kit.adapters.s3_object_store_check import CHECK_PREFIX, Ability, find_abilities
from anabranch_kit.adapters.s3_object_store_location import S3Credentials, S3Location
from anabranch_kit.adapters.s3_object_store_requests import (
    Answer,
    Refused,
    S3Client,
    S3Limits,
    S3Requests,
    Unanswered,
    base64_crc,
)
from anabranch_kit.adapters.s3_object_store_upload import Content, upload_in_parts
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
    assert_object_name,
)

LIST_PAGE_NAMES: Final = 1000
CRC_METADATA: Final = "anabranch-crc32c"
LENGTH_METADATA: Final = "anabranch-length"
# The name is taken, or another creator is at it just now.
RACED_STATUSES: Final = (409, 412)
# A flipped bit on the way is gone at the second look, one in the store is not.
WHOLE_READS_MAX: Final = 2

log = structlog.stdlib.get_logger("anabranch.tier2")


class _Piece(NamedTuple):
    """A part of an object, and what its metadata says of the whole."""

    data: bytes
    whole: ObjectInfo


class S3ObjectStore:
    """ObjectStore in a bucket, below a prefix. Any number of processes may use one prefix."""

    def __init__(
        self,
        location: S3Location,
        *,
        clock: Clock,
        new_id: Callable[[], UUID],
        chance: random.Random,
        credentials: S3Credentials | None = None,
        limits: S3Limits | None = None,
    ) -> None:
        self.location = location
        self.limits = limits or S3Limits()
        self._new_id = new_id
        self._requests = S3Requests(
            location, clock=clock, chance=chance, credentials=credentials, limits=self.limits
        )
        self._checking = asyncio.Lock()
        self._ability: Ability | None = None

    async def check(self) -> Ability:
        """See that the bucket is there and that no object can be replaced; once is enough.

        Raises UnsupportedObjectStore, or ObjectStoreUnavailable when that is not known yet.
        """
        async with self._checking:
            if self._ability is None:
                self._ability = await find_abilities(self._requests, self._new_id().hex)
                log.info("tier2.checked", url=self.location.url, **self._ability._asdict())
        return self._ability

    async def create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        assert_object_name(name)
        try:
            ability = self._ability or await self.check()
        except UnsupportedObjectStore as unfit:
            raise ObjectStoreUnavailable("create", name, unfit.reason) from unfit
        content = Content.of(parts)
        wanted = ObjectInfo(name, content.length_bytes, content.crc32c)
        if content.length_bytes <= self.limits.single_put_bytes_max or not ability.multipart:
            await self._put(wanted, content)
        else:
            await upload_in_parts(
                self._requests,
                name,
                content,
                target=self._target(name),
                metadata=_metadata(wanted),
                complete=lambda request: self._conditionally(wanted, request),
            )
        return wanted

    async def read(self, name: str, offset: int, length: int) -> bytes:
        assert_object_name(name)
        assert min(offset, length) >= 0, f"no range: {offset}+{length}"
        if length == 0:
            _refuse_beyond(await self.head(name), offset, length)
            return b""
        for _ in range(WHOLE_READS_MAX):
            data, whole = await self._read(name, offset, length)
            if length < whole.length_bytes or google_crc32c.value(data) == whole.crc32c:
                return data
            log.warning("tier2.read_damaged", object=name, length_bytes=length)
        raise ObjectDamaged(name, "its bytes do not have the checksum that they were stored with")

    async def head(self, name: str) -> ObjectInfo:
        assert_object_name(name)
        target = {**self._target(name), "ChecksumMode": "ENABLED"}
        try:
            answer = await self._requests.repeated(
                "head", name, lambda s3: s3.head_object(**target)
            )
        except Refused as refusal:
            raise await self._failure("head", name, refusal) from refusal
        return self._described(name, answer)

    async def delete(self, name: str) -> None:
        assert_object_name(name)
        target = self._target(name)
        try:
            await self._requests.repeated("delete", name, lambda s3: s3.delete_object(**target))
        except Refused as refusal:
            if refusal.code != "NoSuchKey":
                raise self._requests.refused("delete", name, refusal) from refusal

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Names in the store's order; objects made meanwhile may or may not be among them."""
        arguments = {
            "Bucket": self.location.bucket,
            "Prefix": self.location.prefix + prefix,
            "MaxKeys": LIST_PAGE_NAMES,
        }
        while True:
            page = await self._page(prefix, arguments)
            for entry in page.get("Contents", ()):
                name = str(entry["Key"]).removeprefix(self.location.prefix)
                if not name.startswith(CHECK_PREFIX):
                    yield name
            if not page.get("IsTruncated"):
                return
            arguments = {**arguments, "ContinuationToken": page["NextContinuationToken"]}

    async def close(self) -> None:
        await self._requests.close()

    def _target(self, name: str) -> dict[str, object]:
        return {"Bucket": self.location.bucket, "Key": self.location.prefix + name}

    async def _page(self, prefix: str, arguments: dict[str, object]) -> Answer:
        try:
            return await self._requests.repeated(
                "list", prefix, lambda s3: s3.list_objects_v2(**arguments)
            )
        except Refused as refusal:
            raise self._requests.refused("list", prefix, refusal) from refusal

    async def _put(self, wanted: ObjectInfo, content: Content) -> None:
        arguments = {
            **self._target(wanted.name),
            "Body": content.range(0, content.length_bytes),
            "Metadata": _metadata(wanted),
            "ChecksumCRC32C": base64_crc(wanted.crc32c),
            "IfNoneMatch": "*",
        }
        await self._conditionally(
            wanted, lambda s3: s3.put_object(**arguments), length_bytes=content.length_bytes
        )

    async def _conditionally(
        self,
        wanted: ObjectInfo,
        request: Callable[[S3Client], Awaitable[Answer]],
        *,
        length_bytes: int = 0,
    ) -> None:
        """Do what makes the object appear. Returns when it is there and is the wanted one.

        Raises ObjectExists when it is another, and ObjectStoreUnavailable.
        """
        name = wanted.name
        may_have_happened = False
        for attempt in range(1, self.limits.attempts_max + 1):
            try:
                await self._requests.once(request, length_bytes=length_bytes)
            except Refused as refusal:
                if refusal.status == 412 and not may_have_happened:
                    raise ObjectExists(name) from refusal
                failure = self._requests.refused("create", name, refusal)
                is_completed = refusal.code == "NoSuchUpload" and may_have_happened
                if refusal.status not in RACED_STATUSES and not is_completed:
                    raise failure from refusal
            except Unanswered as unanswered:
                may_have_happened = True
                failure = self._requests.gave_up("create", name, unanswered, attempts=attempt)
            else:
                return
            await self._requests.pause(attempt, "create", name, failure.reason)
            if await self._is_there(wanted):
                log.info("tier2.put_had_happened", object=name, reason=failure.reason)
                return
        raise failure

    async def _is_there(self, wanted: ObjectInfo) -> bool:
        """Whether the object exists; False when that is not known. Raises ObjectExists when it
        exists and is not the wanted one."""
        name = wanted.name
        target = {**self._target(name), "ChecksumMode": "ENABLED"}
        try:
            found = self._described(
                name, await self._requests.once(lambda s3: s3.head_object(**target))
            )
        except Unanswered:
            return False
        except Refused as refusal:
            if refusal.status == 404:
                return False
            raise self._requests.refused("create", name, refusal) from refusal
        except ObjectDamaged as foreign:
            raise ObjectExists(name) from foreign
        if found != wanted:
            raise ObjectExists(name)
        return True

    async def _read(self, name: str, offset: int, length: int) -> _Piece:
        """A long range is fetched in several requests at once."""
        step = self.limits.part_bytes
        if length <= step:
            return await self._get(name, offset, length)
        starts = range(offset, offset + length, step)
        slots = asyncio.Semaphore(self.limits.parts_at_once_max)

        async def get(start: int) -> _Piece:
            async with slots:
                return await self._get(name, start, min(step, offset + length - start))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(get(start)) for start in starts]
        except* (ObjectNotFound, ObjectDamaged, ObjectStoreUnavailable) as failures:
            raise failures.exceptions[0] from None
        pieces = [task.result() for task in tasks]
        return _Piece(b"".join(piece.data for piece in pieces), pieces[0].whole)

    async def _get(self, name: str, offset: int, length: int) -> _Piece:
        target = {**self._target(name), "Range": f"bytes={offset}-{offset + length - 1}"}

        async def request(s3: S3Client) -> tuple[Answer, bytes]:
            answer = await s3.get_object(**target)
            async with answer["Body"] as body:  # gives the connection back, whatever happens
                data: bytes = await body.read()
            if len(data) != answer["ContentLength"]:
                raise Unanswered(f"{len(data)} bytes came of {answer['ContentLength']}")
            return answer, data

        try:
            answer, data = await self._requests.repeated("read", name, request, length_bytes=length)
        except Refused as refusal:
            if refusal.status == 416:
                _refuse_beyond(await self.head(name), offset, length)
            raise await self._failure("read", name, refusal) from refusal
        whole = self._described(name, answer)
        _refuse_beyond(whole, offset, length)
        if len(data) != length:
            reason = f"asked for {length} bytes, got {len(data)}: the store ignores ranges"
            raise ObjectStoreUnavailable("read", name, reason)
        return _Piece(data, whole)

    def _described(self, name: str, answer: Answer) -> ObjectInfo:
        """What the metadata says. Raises ObjectDamaged when the store says something else."""
        metadata = {key.lower(): value for key, value in answer.get("Metadata", {}).items()}
        try:
            crc, length = int(metadata[CRC_METADATA], 16), int(metadata[LENGTH_METADATA])
        except (KeyError, ValueError):
            reason = "it has no length and checksum in its metadata: it was put there by another"
            raise ObjectDamaged(name, reason) from None
        _, _, total = str(answer.get("ContentRange", "")).rpartition("/")
        stored = int(total) if total.isdecimal() else int(answer["ContentLength"])
        if stored != length:
            raise ObjectDamaged(name, f"it was created with {length} bytes and has {stored}")
        checksum = answer.get("ChecksumCRC32C")
        trusted = self._ability is not None and self._ability.verifies_crc32c
        # A checksum of the parts' checksums has "-" and their number behind it.
        if trusted and checksum and "-" not in checksum and checksum != base64_crc(crc):
            reason = f"created with CRC-32C {crc:08x}, the store has {checksum}"
            raise ObjectDamaged(name, reason)
        return ObjectInfo(name, length, crc)

    async def _failure(self, operation: str, name: str, refusal: Refused) -> Exception:
        """A 404 can mean that the whole bucket is missing, and then no bytes are lost."""
        if refusal.status != 404:
            return self._requests.refused(operation, name, refusal)
        try:
            await self._requests.repeated(
                operation, name, lambda s3: s3.head_bucket(Bucket=self.location.bucket)
            )
        except Refused as bucket:
            if bucket.status == 404:
                bucket = Refused("NoSuchBucket", 404, f"there is no bucket {self.location.bucket}")
            return self._requests.refused(operation, name, bucket)
        return ObjectNotFound(name)


def _refuse_beyond(whole: ObjectInfo, offset: int, length: int) -> None:
    if offset + length > whole.length_bytes:
        reason = f"has {whole.length_bytes} bytes, asked for {offset}+{length}"
        raise ObjectDamaged(whole.name, reason)


def _metadata(info: ObjectInfo) -> dict[str, str]:
    return {CRC_METADATA: f"{info.crc32c:08x}", LENGTH_METADATA: str(info.length_bytes)}
