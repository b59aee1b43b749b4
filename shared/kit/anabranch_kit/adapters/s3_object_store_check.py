"""What an S3 store can do, found by trying, before anything is trusted to it.

That no object is ever replaced rests on conditional requests. Stores that ignore the condition
answer "stored" to every creator, and bytes are lost without an error; so two creators of one
object are sent here, and exactly one may win. The objects of a check have names that no real
object can have, and are removed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import google_crc32c
import structlog

from anabranch_kit.adapters.s3_object_store_requests import (
    Answer,
    Refused,
    S3Client,
    S3Requests,
    Unanswered,
    advice,
    base64_crc,
)
from anabranch_kit.ports.object_store import UnsupportedObjectStore

CHECK_PREFIX: Final = ".anabranch-check/"
FIRST: Final = b"first"
SECOND: Final = b"second"
# How stores refuse a condition: 412, or 409 in a race.
TAKEN_STATUSES: Final = (409, 412)

# Also runs when a start gives up waiting, and must not hold it up much longer.
REMOVE_TIMEOUT_S: Final = 3.0

log = structlog.stdlib.get_logger("anabranch.tier2")


class Ability(NamedTuple):
    """`multipart`: objects may go in parts: asked for, and completed on a condition too.

    `verifies_crc32c`: the store refuses bytes that do not have the checksum sent with them.
    """

    multipart: bool
    verifies_crc32c: bool


async def find_abilities(requests: S3Requests, token: str) -> Ability:
    """`token` makes the names of this check unlike those of any other.

    Raises UnsupportedObjectStore when tier 2 cannot be there, ObjectStoreUnavailable when it
    is not known.
    """
    location = requests.location
    keys = [f"{location.prefix}{CHECK_PREFIX}{token}-{kind}" for kind in ("name", "crc")]
    named, checked = ({"Bucket": location.bucket, "Key": key} for key in keys)
    name = f"check in {location.bucket}"
    try:
        await requests.repeated(
            "open",
            name,
            lambda s3: s3.list_objects_v2(
                Bucket=location.bucket, Prefix=location.prefix + CHECK_PREFIX, MaxKeys=1
            ),
        )
        try:
            await _refuses_second_creator(requests, named)
            return Ability(
                multipart=location.multipart and await _completes_conditionally(requests, named),
                verifies_crc32c=await _verifies(requests, checked),
            )
        finally:
            await _remove(requests, [named, checked])
    except Refused as refusal:
        reason = f"{refusal}. {advice(refusal, location)}"
        raise UnsupportedObjectStore(location.url, reason) from refusal
    except Unanswered as unanswered:
        raise requests.gave_up("open", name, unanswered, attempts=1) from unanswered


async def _refuses_second_creator(requests: S3Requests, target: dict[str, Any]) -> None:
    async def create(content: bytes) -> bool:
        try:
            await requests.once(lambda s3: s3.put_object(**target, Body=content, IfNoneMatch="*"))
        except Refused as refusal:
            if refusal.status in TAKEN_STATUSES:
                return False
            raise
        return True

    # Together, then one more: some stores look first and write later.
    together = await asyncio.gather(create(FIRST), create(SECOND), return_exceptions=True)
    for outcome in together:
        if isinstance(outcome, BaseException):
            raise outcome
    winners_count = sum(map(bool, together))
    if winners_count == 0:
        raise Unanswered("two creators of one object were both refused")
    if winners_count > 1 or await create(SECOND):
        raise UnsupportedObjectStore(
            requests.location.url,
            "it ignores the condition If-None-Match, so that of two creators of one object both "
            "would be told that theirs is stored. Use a store that docs/tier2.md names as tried",
        )


async def _completes_conditionally(requests: S3Requests, target: dict[str, Any]) -> bool:
    """Tries to complete an upload over the object that is there now."""
    try:
        begun = await requests.once(
            lambda s3: s3.create_multipart_upload(
                **target, ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT"
            )
        )
        upload = {**target, "UploadId": begun["UploadId"]}
        try:
            await _complete(requests, upload)
            reason = "it completes uploads over an object that exists"
        finally:
            with suppress(Refused):  # when it was completed, there is nothing to abort
                await requests.once(lambda s3: s3.abort_multipart_upload(**upload))
    except Refused as refusal:
        if refusal.status in TAKEN_STATUSES:
            return True
        reason = str(refusal)
    log.warning("tier2.no_multipart", reason=reason, instead="one put per object")
    return False


async def _complete(requests: S3Requests, upload: dict[str, Any]) -> None:
    checksum = base64_crc(google_crc32c.value(SECOND))
    part = await requests.once(
        lambda s3: s3.upload_part(**upload, PartNumber=1, Body=SECOND, ChecksumCRC32C=checksum)
    )
    listed = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32C": checksum}
    await requests.once(
        lambda s3: s3.complete_multipart_upload(
            **upload,
            MultipartUpload={"Parts": [listed]},
            ChecksumType="FULL_OBJECT",
            ChecksumCRC32C=checksum,
            IfNoneMatch="*",
        )
    )


async def _verifies(requests: S3Requests, target: dict[str, Any]) -> bool:
    """Sends a checksum that is wrong."""
    try:
        await requests.once(
            lambda s3: s3.put_object(
                **target,
                Body=FIRST,
                ChecksumCRC32C=base64_crc(google_crc32c.value(SECOND)),
                IfNoneMatch="*",
            )
        )
    except Refused as refusal:
        if refusal.status == 400:
            return True
        raise
    log.warning("tier2.crc32c_not_verified", url=requests.location.url)
    return False


async def _remove(requests: S3Requests, targets: list[dict[str, Any]]) -> None:
    """Raises Refused: a store that does not let us delete would keep what users deleted."""
    for target in targets:
        try:
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                await requests.once(partial(_delete, target))
        except (Unanswered, TimeoutError) as failure:
            log.warning("tier2.check_left_behind", object=target["Key"], reason=str(failure))


async def _delete(target: dict[str, Any], s3: S3Client) -> Answer:
    return await s3.delete_object(**target)
