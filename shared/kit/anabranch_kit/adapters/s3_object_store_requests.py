"""Requests to S3: limits, time-outs, retries, and what a failure means.

A request ends in one of three ways: an answer; `Refused`, when the store says that it did not
and will not do it; `Unanswered`, when nobody knows (no connection, cut, late, 5xx). Only the
last kind is tried again, and the caller of `once` has to find out what happened.

Only calls of the plain S3 client are used, so that another library with the same client
(aiobotocore) is a change of `_connect` alone. Its own retries are off: they would repeat a
conditional put without telling us that the first one may have happened.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import aioboto3
import structlog
from aiohttp import ClientError as TransportError
from botocore import exceptions as botocore_errors
from botocore.config import Config

from anabranch_kit.adapters.s3_object_store_location import (
    ACCESS_KEY_VARIABLE,
    SECRET_KEY_VARIABLE,
    S3Credentials,
    S3Location,
)
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import ObjectStoreUnavailable

MIB: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 5.0
BACKOFF_FACTOR: Final = 3.0

# Statuses after which the same request may do better; with 5xx.
_PASSING_STATUSES: Final = {408, 425, 429}
_PASSING_CODES: Final = {"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"}
# What a store says when it is full; it will not be less full in a second.
FULL_STATUS: Final = 507
NOT_IMPLEMENTED_STATUS: Final = 501

Answer = Mapping[str, Any]
Result = TypeVar("Result")
log = structlog.stdlib.get_logger("anabranch.tier2")


class S3Limits(NamedTuple):
    """What one store may use. The defaults suit a store in the same building.

    A request may take `request_timeout_s`, and longer for its bytes at the slowest rate that
    is worth waiting for.
    """

    requests_at_once_max: int = 32  # more wait; each has a connection
    attempts_max: int = 4
    request_timeout_s: float = 20.0
    bytes_per_s_min: int = MIB
    pause_first_s: float = 0.2
    pause_max_s: float = 5.0
    part_bytes: int = 8 * MIB  # of a multipart upload (S3 wants 5 MiB or more), of a long read
    single_put_bytes_max: int = 16 * MIB  # longer ones go in parts, if the store can do it
    parts_at_once_max: int = 4  # per object, so that one does not take all requests


class S3Client(Protocol):
    """The calls that we use, with the keywords of the S3 API."""

    async def put_object(self, **arguments: Any) -> Answer: ...
    async def get_object(self, **arguments: Any) -> Answer: ...
    async def head_object(self, **arguments: Any) -> Answer: ...
    async def head_bucket(self, **arguments: Any) -> Answer: ...
    async def delete_object(self, **arguments: Any) -> Answer: ...
    async def list_objects_v2(self, **arguments: Any) -> Answer: ...
    async def create_multipart_upload(self, **arguments: Any) -> Answer: ...
    async def upload_part(self, **arguments: Any) -> Answer: ...
    async def complete_multipart_upload(self, **arguments: Any) -> Answer: ...
    async def abort_multipart_upload(self, **arguments: Any) -> Answer: ...


def base64_crc(crc: int) -> str:
    """A CRC-32C as S3 writes it: base64 of its four bytes, big-endian."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class Refused(Exception):
    """The store did not do it, and trying again would not help."""

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.status, self.message = code, status, message


class Unanswered(Exception):
    """Nobody knows whether it happened."""


class S3Requests:
    """One client, opened at the first request and closed by `close`."""

    def __init__(
        self,
        location: S3Location,
        *,
        clock: Clock,
        chance: random.Random,
        credentials: S3Credentials | None,
        limits: S3Limits,
    ) -> None:
        self.location, self.limits = location, limits
        self._clock, self._chance, self._credentials = clock, chance, credentials
        self._slots = asyncio.Semaphore(limits.requests_at_once_max)
        self._opening = asyncio.Lock()
        self._client: S3Client | None = None
        self._owned = AsyncExitStack()

    async def close(self) -> None:
        self._client = None
        await self._owned.aclose()

    async def once(
        self, request: Callable[[S3Client], Awaitable[Result]], *, length_bytes: int = 0
    ) -> Result:
        """One attempt. Raises Refused or Unanswered."""
        limit_s = self.limits.request_timeout_s + length_bytes / self.limits.bytes_per_s_min
        async with self._slots:
            try:
                async with asyncio.timeout(limit_s):
                    return await request(await self._connected())
            except botocore_errors.ClientError as error:
                raise _meaning(error) from error
            except TimeoutError as error:
                raise Unanswered(f"no answer within {limit_s:.0f} s") from error
            except _NO_CREDENTIALS as error:
                raise Refused("NoCredentials", 0, str(error)) from error
            except (botocore_errors.BotoCoreError, TransportError, OSError) as error:
                raise Unanswered(str(error) or type(error).__name__) from error

    async def repeated(
        self,
        operation: str,
        name: str,
        request: Callable[[S3Client], Awaitable[Result]],
        *,
        length_bytes: int = 0,
    ) -> Result:
        """For what may happen twice: several attempts.

        Raises Refused, and ObjectStoreUnavailable after the last attempt.
        """
        attempt = 1
        while True:
            try:
                return await self.once(request, length_bytes=length_bytes)
            except Unanswered as unanswered:
                if attempt == self.limits.attempts_max:
                    raise self.gave_up(
                        operation, name, unanswered, attempts=attempt
                    ) from unanswered
                await self.pause(attempt, operation, name, str(unanswered))
                attempt += 1

    async def pause(self, attempt: int, operation: str, name: str, reason: str) -> None:
        """Before the attempt after `attempt`: longer each time, and never two in step."""
        longest_s = self.limits.pause_first_s * BACKOFF_FACTOR ** (attempt - 1)
        pause_s = min(longest_s, self.limits.pause_max_s) * self._chance.uniform(0.5, 1.0)
        log.info(
            "tier2.attempt_failed",
            operation=operation,
            object=name,
            attempt=attempt,
            reason=reason,
        )
        await self._clock.sleep(pause_s)

    def gave_up(
        self, operation: str, name: str, last: Unanswered, *, attempts: int
    ) -> ObjectStoreUnavailable:
        where = self.location.endpoint or "AWS S3"
        times = "" if attempts == 1 else f", {attempts} times"
        return ObjectStoreUnavailable(
            operation,
            name,
            f"{last}{times}: see that {where} runs and can be reached from here; what waits is "
            "written then by itself",
        )

    def refused(self, operation: str, name: str, refusal: Refused) -> ObjectStoreUnavailable:
        return ObjectStoreUnavailable(
            operation, name, f"{refusal}. {advice(refusal, self.location)}"
        )

    async def _connected(self) -> S3Client:
        async with self._opening:
            if self._client is None:
                self._client = await self._connect()
        return self._client

    async def _connect(self) -> S3Client:
        who = self._credentials
        location = self.location
        session = aioboto3.Session(
            aws_access_key_id=who.access_key_id if who else None,
            aws_secret_access_key=who.secret_access_key if who else None,
            aws_session_token=who.session_token if who else None,
            region_name=location.region,
        )
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            # The time-out of the whole request is ours; this one ends a connection that is stuck.
            read_timeout=self.limits.request_timeout_s,
            retries={"total_max_attempts": 1},
            max_pool_connections=self.limits.requests_at_once_max,
            s3={"addressing_style": location.addressing},
            # We say the checksums ourselves, in headers; the default way (trailers) is refused
            # by stores that do not know it.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        opening = session.client("s3", endpoint_url=location.endpoint, config=config)
        client: S3Client = await self._owned.enter_async_context(opening)
        return client


_NO_CREDENTIALS: Final = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.ProfileNotFound,
    botocore_errors.NoRegionError,
)


def _meaning(error: botocore_errors.ClientError) -> Refused | Unanswered:
    answer = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    message = str(answer.get("Error", {}).get("Message", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    lasting = status in (NOT_IMPLEMENTED_STATUS, FULL_STATUS)
    passing = status >= 500 or status in _PASSING_STATUSES or code in _PASSING_CODES
    if passing and not lasting:
        return Unanswered(f"the store answered {status} {code}: {message}")
    return Refused(code or str(status), status, message)


def advice(refusal: Refused, location: S3Location) -> str:
    """What an operator can do about it; HEAD answers have a status and no code."""
    match refusal.code:
        case "NoSuchBucket":
            return f"Create the bucket {location.bucket}, or name another in the tier 2 URL."
        case "NoCredentials":
            return f"Set {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}."
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken":
            return f"Check {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE} and what they belong to."
        case "RequestTimeTooSkewed":
            return "Set the clock of this machine."
        case "PermanentRedirect" | "AuthorizationHeaderMalformed" | "301" | "TemporaryRedirect":
            return "Name the region of the bucket in the tier 2 URL: ?region=NAME."
        case "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage":
            return "Free space in the store; what waits is written then by itself."
    if refusal.status == FULL_STATUS:
        return "Free space in the store; what waits is written then by itself."
    if refusal.status in (401, 403):
        return (
            f"The credentials need s3:ListBucket on {location.bucket} and s3:GetObject, "
            "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects."
        )
    return f"Is {location.endpoint or 'the endpoint'} an S3 store? docs/tier2.md has a list."
