"""Long objects go to S3 in parts, which a last request joins: it is the conditional one.

Until then nothing shows under the name. An upload that fails is aborted, because its parts
cost money and show in no listing; what a killed process leaves is for the bucket's lifecycle
rule (docs/tier2.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import google_crc32c
import structlog

from anabranch_kit.adapters.s3_object_store_requests import (
    Answer,
    Refused,
    S3Client,
    S3Requests,
    Unanswered,
    base64_crc,
)
from anabranch_kit.ports.object_store import ObjectStoreUnavailable

PARTS_MAX: Final = 10_000  # of S3

Request = Callable[[S3Client], Awaitable[Answer]]
log = structlog.stdlib.get_logger("anabranch.tier2")


class Content(NamedTuple):
    """What is stored, in the blocks that the caller has, with length and checksum."""

    blocks: Sequence[bytes | memoryview]
    length_bytes: int
    crc32c: int

    @classmethod
    def of(cls, blocks: Sequence[bytes | memoryview]) -> Self:
        return cls(blocks, sum(len(block) for block in blocks), crc32c(blocks))

    def range(self, start: int, end: int) -> bytes:
        """One copy of [start, end), for the request that sends it."""
        pieces: list[memoryview] = []
        block_start = 0
        for block in self.blocks:
            block_end = block_start + len(block)
            if block_start < end and block_end > start:
                low, high = max(start - block_start, 0), min(end, block_end) - block_start
                pieces.append(memoryview(block)[low:high])
            block_start = block_end
        return b"".join(pieces)


def crc32c(blocks: Iterable[bytes | memoryview]) -> int:
    crc = 0
    for block in blocks:
        # google-crc32c refuses writable buffers, which received bytes often are.
        crc = google_crc32c.extend(crc, block if isinstance(block, bytes) else bytes(block))
    return crc


async def upload_in_parts(
    requests: S3Requests,
    name: str,
    content: Content,
    *,
    target: Mapping[str, Any],
    metadata: Mapping[str, str],
    complete: Callable[[Request], Awaitable[None]],
) -> None:
    """`complete` performs the last request and finds out what became of it.

    Raises what `complete` raises, and ObjectStoreUnavailable.
    """
    upload = {**target, "UploadId": await _begin(requests, name, target, metadata)}
    try:
        parts = await _send_parts(requests, name, content, upload)
        await complete(
            lambda s3: s3.complete_multipart_upload(
                **upload,
                MultipartUpload={"Parts": parts},
                ChecksumType="FULL_OBJECT",
                ChecksumCRC32C=base64_crc(content.crc32c),
                IfNoneMatch="*",
            )
        )
    except BaseException:
        await _abort(requests, name, upload)
        raise


async def _begin(
    requests: S3Requests, name: str, target: Mapping[str, Any], metadata: Mapping[str, str]
) -> str:
    arguments = {
        **target,
        "Metadata": metadata,
        "ChecksumAlgorithm": "CRC32C",
        "ChecksumType": "FULL_OBJECT",
    }
    try:
        answer = await requests.repeated(
            "create", name, lambda s3: s3.create_multipart_upload(**arguments)
        )
    except Refused as refusal:
        raise requests.refused("create", name, refusal) from refusal
    return str(answer["UploadId"])


async def _send_parts(
    requests: S3Requests, name: str, content: Content, upload: Mapping[str, Any]
) -> list[dict[str, Any]]:
    step = requests.limits.part_bytes
    starts = range(0, content.length_bytes, step)
    assert len(starts) <= PARTS_MAX, f"an object of {content.length_bytes} bytes"
    slots = asyncio.Semaphore(requests.limits.parts_at_once_max)

    async def send(number: int, start: int) -> dict[str, Any]:
        async with slots:
            body = content.range(start, min(start + step, content.length_bytes))
            checksum = base64_crc(google_crc32c.value(body))
            arguments = {**upload, "PartNumber": number, "ChecksumCRC32C": checksum}
            answer = await requests.repeated(
                "create",
                name,
                lambda s3: s3.upload_part(**arguments, Body=body),
                length_bytes=len(body),
            )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32C": checksum}

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(send(number, start)) for number, start in enumerate(starts, 1)
            ]
    except* Refused as refusals:
        refusal = refusals.exceptions[0]
        assert isinstance(refusal, Refused), "the group is flat"
        raise requests.refused("create", name, refusal) from None
    except* ObjectStoreUnavailable as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _abort(requests: S3Requests, name: str, upload: Mapping[str, Any]) -> None:
    """At most one attempt: the reason of the failure often holds for this too."""
    try:
        await requests.once(lambda s3: s3.abort_multipart_upload(**upload))
    except (Refused, Unanswered) as failure:
        if isinstance(failure, Refused) and failure.status == 404:
            return  # it was completed, or aborted by another
        log.warning(
            "tier2.upload_left_behind", object=name, upload=upload["UploadId"], reason=str(failure)
        )
