"""The JSON objects of the REST interface, and the way to the domain's values and back.

Members that have no value are left out of a reply, as Pravega does; requests may carry
unknown members, numbers as text, and null for what is not given (reference controller.md,
section 10).
"""

from __future__ import annotations

import re
from typing import Final, TypeGuard, TypeVar

import msgspec
from anabranch_events.model import (
    GroupConfig,
    RetentionPolicy,
    ScaleType,
    ScalingPolicy,
    StreamConfig,
)
from msgspec import UNSET, UnsetType

from anabranch_controller.api import ScaleHistory
from anabranch_controller.errors import InvalidArgument

# What users may name things; the controller itself also takes internal names, with one `_`.
USER_NAME: Final = re.compile(r"[A-Za-z0-9.-]+")
SCOPE_NAME_LENGTH_MAX: Final = 255
STREAM_NAME_LENGTH_MAX: Final = 250  # five are kept for prefixes such as _MARK
TAGS_MAX: Final = 256
GROUP_STREAM_PREFIX: Final = "_RG"

MEBIBYTE: Final = 1024 * 1024
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
UNLIMITED: Final = 2**63 - 1

SCALE_NAMES: Final[dict[ScaleType, str]] = {
    "fixed": "FIXED_NUM_SEGMENTS",
    "kbytes_per_sec": "BY_RATE_IN_KBYTES_PER_SEC",
    "events_per_sec": "BY_RATE_IN_EVENTS_PER_SEC",
}
SCALE_TYPES: Final = {name: scale_type for scale_type, name in SCALE_NAMES.items()}

Message = TypeVar("Message")


class Json(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all: member names in camel case, what is UNSET left out."""


# --- requests ----------------------------------------------------------------------------


class CreateScopeRequest(Json, frozen=True):
    scope_name: str | None = None


class ScalingRequest(Json, frozen=True):
    type: str | None = None
    target_rate: int | None = None
    scale_factor: int | None = None
    min_segments: int | None = None


class TimeBasedRetention(Json, frozen=True):
    days: int = 0
    hours: int = 0
    minutes: int = 0

    @property
    def milliseconds(self) -> int:
        return self.days * DAY_MS + self.hours * HOUR_MS + self.minutes * MINUTE_MS


class RetentionRequest(Json, frozen=True):
    type: str | None = None
    value: int | None = None
    time_based_retention: TimeBasedRetention | None = None
    max_value: int | None = None
    max_time_based_retention: TimeBasedRetention | None = None


class StreamRequest(Json, frozen=True):
    """To create or to update; an update ignores `stream_name`, the path has it."""

    stream_name: str | None = None
    scaling_policy: ScalingRequest | None = None
    retention_policy: RetentionRequest | None = None
    stream_tags: list[str] | None = None
    timestamp_aggregation_timeout: int | None = None
    rollover_size_bytes: int | None = None


class StreamStateMessage(Json, frozen=True):
    stream_state: str | None = None


# --- replies -----------------------------------------------------------------------------


class ScopeProperty(Json, frozen=True):
    scope_name: str


class ScopesList(Json, frozen=True):
    scopes: list[ScopeProperty]


class ScalingConfig(Json, frozen=True):
    type: str
    min_segments: int
    target_rate: int | UnsetType = UNSET
    scale_factor: int | UnsetType = UNSET


class RetentionConfig(Json, frozen=True):
    type: str
    value: int
    time_based_retention: TimeBasedRetention | UnsetType = UNSET


class StreamProperty(Json, frozen=True):
    scope_name: str
    stream_name: str
    scaling_policy: ScalingConfig
    tags: list[str]
    timestamp_aggregation_timeout: int
    rollover_size_bytes: int
    retention_policy: RetentionConfig | UnsetType = UNSET


class StreamsList(Json, frozen=True):
    streams: list[StreamProperty]


class Segment(Json, frozen=True):
    number: int
    epoch: int
    start: int
    key_start: float
    key_end: float


class ScaleMetadata(Json, frozen=True):
    timestamp: int
    segments: list[Segment]
    splits: int
    merges: int


class ReaderGroupName(Json, frozen=True):
    reader_group_name: str


class ReaderGroupsList(Json, frozen=True):
    reader_groups: list[ReaderGroupName] | UnsetType = UNSET


class ReaderGroupProperty(Json, frozen=True):
    """Pravega adds the ids of online readers; those live in the group's own stream, in a
    form of the Java client, and are not known here."""

    scope_name: str
    reader_group_name: str
    stream_list: list[str]


class HealthResult(Json, frozen=True):
    name: str
    status: str
    readiness: bool
    liveness: bool
    details: dict[str, str]
    children: dict[str, HealthResult]


# --- translation -------------------------------------------------------------------------


def decoded(body: bytes, message: type[Message]) -> Message:
    """A request's body. Raises InvalidArgument, saying where it is wrong."""
    try:
        return msgspec.json.decode(body or b"null", type=message, strict=False)
    except msgspec.DecodeError as error:
        raise InvalidArgument("request body", str(error)) from error


def is_user_name(name: str | None, length_max: int) -> TypeGuard[str]:
    """Whether users may name something so."""
    return name is not None and len(name) <= length_max and bool(USER_NAME.fullmatch(name))


def stream_config(request: StreamRequest) -> StreamConfig:
    """Raises InvalidArgument, naming the member."""
    tags = request.stream_tags or []
    if len(tags) > TAGS_MAX:
        raise InvalidArgument("streamTags", f"{len(tags)} tags, at most {TAGS_MAX} are kept")
    return StreamConfig(
        scaling=_scaling(request.scaling_policy),
        retention=_retention(request.retention_policy),
        tags=tuple(dict.fromkeys(tags)),
        timestamp_aggregation_timeout_ms=request.timestamp_aggregation_timeout or 0,
        rollover_size_bytes=request.rollover_size_bytes or 0,
    )


def _scaling(request: ScalingRequest | None) -> ScalingPolicy:
    if request is None:
        raise InvalidArgument("scalingPolicy", "is required")
    scale_type = SCALE_TYPES.get(_given(request.type, "scalingPolicy.type"))
    if scale_type is None:
        raise InvalidArgument("scalingPolicy.type", f"must be one of {', '.join(SCALE_TYPES)}")
    min_segments = _given(request.min_segments, "scalingPolicy.minSegments")
    if min_segments < 1:
        raise InvalidArgument("scalingPolicy.minSegments", "must be 1 or more")
    if scale_type == "fixed":
        return ScalingPolicy(min_segments=min_segments)
    return ScalingPolicy(
        scale_type=scale_type,
        target_rate=_given(request.target_rate, "scalingPolicy.targetRate"),
        scale_factor=_given(request.scale_factor, "scalingPolicy.scaleFactor"),
        min_segments=min_segments,
    )


def _retention(request: RetentionRequest | None) -> RetentionPolicy | None:
    if request is None:
        return None
    match _given(request.type, "retentionPolicy.type"):
        case "LIMITED_DAYS":
            minimum = _milliseconds(request.value, request.time_based_retention)
            maximum = _milliseconds(request.max_value, request.max_time_based_retention)
            minimum = _given(minimum, "retentionPolicy.value")
            return RetentionPolicy("time", minimum, maximum or UNLIMITED)
        case "LIMITED_SIZE_MB":
            minimum = _given(request.value, "retentionPolicy.value") * MEBIBYTE
            maximum = (request.max_value or 0) * MEBIBYTE
            return RetentionPolicy("size", minimum, maximum or UNLIMITED)
        case _:
            rule = "must be LIMITED_DAYS or LIMITED_SIZE_MB"
            raise InvalidArgument("retentionPolicy.type", rule)


def _milliseconds(days: int | None, parts: TimeBasedRetention | None) -> int | None:
    """The finer form counts only when the whole days are 0."""
    if parts is not None and not days:
        return parts.milliseconds
    return None if days is None else days * DAY_MS


def _given(value: Message | None, member: str) -> Message:
    if value is None:
        raise InvalidArgument(member, "is required")
    return value


def stream_property(scope: str, stream: str, config: StreamConfig) -> StreamProperty:
    scaling = config.scaling
    fixed = scaling.scale_type == "fixed"
    return StreamProperty(
        scope_name=scope,
        stream_name=stream,
        scaling_policy=ScalingConfig(
            type=SCALE_NAMES[scaling.scale_type],
            min_segments=scaling.min_segments,
            target_rate=UNSET if fixed else scaling.target_rate,
            scale_factor=UNSET if fixed else scaling.scale_factor,
        ),
        tags=list(config.tags),
        timestamp_aggregation_timeout=config.timestamp_aggregation_timeout_ms,
        rollover_size_bytes=config.rollover_size_bytes,
        retention_policy=_retention_config(config.retention),
    )


def _retention_config(retention: RetentionPolicy | None) -> RetentionConfig | UnsetType:
    if retention is None:
        return UNSET
    if retention.retention_type == "size":
        return RetentionConfig("LIMITED_SIZE_MB", retention.minimum // MEBIBYTE)
    days, rest = divmod(retention.minimum, DAY_MS)
    if rest == 0:
        return RetentionConfig("LIMITED_DAYS", days, TimeBasedRetention(days=days))
    hours, rest = divmod(rest, HOUR_MS)
    parts = TimeBasedRetention(days, hours, rest // MINUTE_MS)
    return RetentionConfig("LIMITED_DAYS", 0, parts)


def scale_metadata(history: ScaleHistory) -> ScaleMetadata:
    return ScaleMetadata(
        timestamp=history.at_ms,
        segments=[
            Segment(one.number, one.epoch, one.created_ms, one.low, one.high)
            for one in sorted(history.segments, key=lambda one: (one.epoch, one.number))
        ],
        splits=history.splits,
        merges=history.merges,
    )


def group_property(scope: str, group: str, config: GroupConfig) -> ReaderGroupProperty:
    return ReaderGroupProperty(scope, group, sorted(config.starting_cuts))
