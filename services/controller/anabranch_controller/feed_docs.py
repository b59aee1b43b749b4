"""The documents of the public feed, generated from its structs.

`python -m anabranch_controller.feed_docs` writes docs/asyncapi.json (AsyncAPI 3) and the list
of kinds in docs/feed.md, between its two marks. A test compares both with the code, so that
the documents cannot fall behind. `EXAMPLES` has one event of each kind, made by the same
function that makes the real ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from anabranch_events import feed, subjects
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig

KINDS_BEGIN: Final = "<!-- kinds: generated -->"
KINDS_END: Final = "<!-- end of kinds -->"
EXAMPLE_SOURCE: Final = "anabranch://5f0c1f6e"
EXAMPLE_MS: Final = 1_774_080_000_000

_INCARNATION: Final = "5d3c6a1be0f24c1c9be1d5f0a4b7c811"
_SPLIT: Final = SegmentRange(0, 0.0, 0.5)
_KEPT: Final = SegmentRange(1, 0.5, 1.0)
_LEFT: Final = SegmentRange(1 << 32 | 2, 0.0, 0.25)
_RIGHT: Final = SegmentRange(1 << 32 | 3, 0.25, 0.5)
_CONFIG: Final = StreamConfig(
    scaling=ScalingPolicy("kbytes_per_sec", target_rate=100, scale_factor=2, min_segments=2),
    tags=("anabranch.scale.window=10s",),
)

EXAMPLES: Final[dict[str, feed.FeedData]] = {
    "stream.created": feed.StreamCreated("city", "rides", _CONFIG, (_SPLIT, _KEPT)),
    "stream.updated": feed.StreamUpdated("city", "rides", _CONFIG),
    "stream.scaled": feed.StreamScaled(
        scope="city",
        stream="rides",
        epoch=1,
        cause="load",
        reason="split into 2 at 0.25: segment 0.0 took 412.5 KB/s over 2 s, above 300",
        observed_rate=412.5,
        target_rate=100.0,
        sealed=(_SPLIT,),
        created=(_LEFT, _RIGHT),
        splits=1,
        merges=0,
        segments_count=3,
        requested_ms=EXAMPLE_MS - 46,
        at_ms=EXAMPLE_MS,
        duration_ms=46,
    ),
    "stream.truncated": feed.StreamTruncated("city", "rides", {"1": 1048576, "4294967298": 0}),
    "stream.sealed": feed.StreamSealed("city", "rides"),
    "stream.deleted": feed.StreamDeleted("city", "rides"),
    "transaction.aborted": feed.TransactionAborted(
        "city", "rides", "0000000100000000000000000000002a", "timeout"
    ),
    "stream.warning": feed.StreamWarning(
        "city", "rides", "autoscaler", "the tag anabranch.scale.window=soon cannot be read"
    ),
    "stream.snapshot": feed.StreamSnapshot(
        scope="city",
        stream="rides",
        sequence=4711,
        epoch=1,
        config=_CONFIG,
        is_sealed=False,
        cut={"1": 1048576, "4294967298": 0},
        segments=(
            feed.SegmentSpan(_SPLIT.id, _SPLIT.low, _SPLIT.high, 1),
            feed.SegmentSpan(_KEPT.id, _KEPT.low, _KEPT.high, None),
            feed.SegmentSpan(_LEFT.id, _LEFT.low, _LEFT.high, None),
            feed.SegmentSpan(_RIGHT.id, _RIGHT.low, _RIGHT.high, None),
        ),
    ),
    "segment.tiered": feed.SegmentTiered(
        container=2,
        object_name="segments/2/7/19",
        length_bytes=8388608,
        ranges_count=1,
        ranges=(feed.TieredRange("city/rides/0.#epoch.0", 16777216, 8388608),),
    ),
    "container.moved": feed.ContainerMoved(
        container=2,
        epoch=7,
        member="segmentstore-1",
        incarnation=_INCARNATION,
        before="segmentstore-0",
    ),
    "member.joined": feed.MemberJoined(
        member="segmentstore-1",
        incarnation=_INCARNATION,
        role="segmentstore",
        host="10.0.0.7",
        port=12345,
        started_ms=EXAMPLE_MS - 800,
    ),
    "member.left": feed.MemberLeft("segmentstore-1", _INCARNATION, "segmentstore"),
    "tier2.slow": feed.Tier2Slow("segmentstore-1", 2, 1073745920, 1073741824),
    "tier2.down": feed.Tier2Down("tierer-0", "create", "no answer within 10 s"),
    "tier2.recovered": feed.Tier2Recovered("tierer-0", None, 42000),
}

SUMMARIES: Final = {
    "stream.created": "A stream exists, and all of its first segments do.",
    "stream.updated": "A stream has a new configuration, which replaces the old one wholly.",
    "stream.scaled": "A stream's segments changed; writers and readers see it from `at_ms` on.",
    "stream.truncated": "A stream now begins at `cut`, segment ids (as text) to offsets.",
    "stream.sealed": "A stream takes no more events; it can still be read.",
    "stream.deleted": "A stream is gone, with its events.",
    "transaction.aborted": "A transaction was given up; `timeout`: its writer's lease ran out.",
    "stream.warning": "Something about a stream that its owner should mend or know.",
    "stream.snapshot": "All that was told of a stream so far, every hour: listen from here on.",
    "segment.tiered": "An object with bytes of segments is in tier 2, and journalled.",
    "container.moved": "A container is served by another store, or anew by the same one.",
    "member.joined": "A process of the cluster has started.",
    "member.left": "A process of the cluster has ended, or was not heard of for its lease.",
    "tier2.slow": "Tier 2 does not keep up: writers of a container wait.",
    "tier2.down": "A tierer cannot reach tier 2; data stays in tier 1 meanwhile.",
    "tier2.recovered": "What `tier2.slow` or `tier2.down` of this member told is over.",
}

assert set(SUMMARIES) == set(feed.KINDS.values()), "every kind has a summary"
assert set(EXAMPLES) == set(feed.KINDS.values()), "every kind has an example"


_IDS: Final = {
    "stream.warning": "/anabranch/autoscaler-city/rides-7",
    "stream.snapshot": "4711-snapshot-492800-0",
    "segment.tiered": "tiered-segments/2/7/19",
    "container.moved": "container-2-7",
    "member.joined": f"joined-{_INCARNATION}",
    "member.left": f"left-{_INCARNATION}",
    "tier2.slow": "tier2-2-7-1",
    "tier2.down": f"tier2-{_INCARNATION}-1",
    "tier2.recovered": f"tier2-{_INCARNATION}-2",
}
_SOURCES: Final = {
    "stream.warning": "/anabranch/autoscaler",
    "segment.tiered": "/anabranch/segmentstore-1",
    "tier2.slow": "/anabranch/segmentstore-1",
    "tier2.down": "/anabranch/tierer-0",
    "tier2.recovered": "/anabranch/tierer-0",
}


def example(kind: str) -> dict[str, Any]:
    """One event of a kind, as it arrives."""
    event = feed.cloud_event(
        EXAMPLES[kind],
        event_id=_IDS.get(kind, "4711-0"),
        source=_SOURCES.get(kind, EXAMPLE_SOURCE),
        at_ms=EXAMPLE_MS,
    )
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return decoded


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document of the feed."""
    data_types = {kind: data for data, kind in feed.KINDS.items()}
    schemas, components = msgspec.json.schema_components(
        data_types.values(), ref_template="#/components/schemas/{name}"
    )
    references = dict(zip(data_types, schemas, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Anabranch public feed",
            "version": "1",
            "description": (
                "What happens to streams, members, containers and tier 2, as CloudEvents 1.0 in"
                " JSON, one subject per kind and thing,"
                f" kept for days in the JetStream stream {subjects.FEED_STREAM}."
            ),
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {kind: _channel(kind) for kind in data_types},
        "operations": {
            f"tell.{kind}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{kind}"},
                "summary": SUMMARIES[kind],
            }
            for kind in data_types
        },
        "components": {
            "messages": {kind: _message(kind, references[kind]) for kind in data_types},
            "schemas": components,
        },
    }


_PARAMETERS: Final = {
    "scope": "name of the scope, a dot in it written as ~",
    "stream": "name of the stream, a dot in it written as ~",
    "container": "number of the container",
    "member": "id of the process, a dot in it written as ~",
}


def _names(kind: str) -> tuple[str, ...]:
    """What stands behind the kind in the subject."""
    match EXAMPLES[kind]:
        case feed.SegmentTiered() | feed.ContainerMoved():
            return ("container",)
        case (
            feed.MemberJoined()
            | feed.MemberLeft()
            | feed.Tier2Slow()
            | feed.Tier2Down()
            | feed.Tier2Recovered()
        ):
            return ("member",)
        case _:
            return ("scope", "stream")


def _channel(kind: str) -> dict[str, Any]:
    names = _names(kind)
    return {
        "address": ".".join([subjects.feed(kind), *(f"{{{name}}}" for name in names)]),
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "parameters": {name: {"description": _PARAMETERS[name]} for name in names},
    }


def _message(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    envelope = {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {"const": feed.SPEC_VERSION},
            "id": text | {"description": "unique for this source; repeated when repeated"},
            "source": text | {"description": "the cluster, or the process, that tells it"},
            "type": {"const": feed.TYPE_PREFIX + kind},
            "subject": text | {"description": "/".join(_names(kind))},
            "time": text | {"format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "data": data,
        },
    }
    return {
        "name": feed.TYPE_PREFIX + kind,
        "payload": envelope,
        "examples": [{"payload": example(kind)}],
    }


def asyncapi_text() -> str:
    return _indented(asyncapi()) + "\n"


def kinds_text() -> str:
    """The section of docs/feed.md that lists the kinds."""
    parts = [KINDS_BEGIN]
    for kind in feed.KINDS.values():
        parts += [
            "",
            f"### {kind}",
            "",
            f"{SUMMARIES[kind]} Subject `{_subject(kind)}`.",
            "",
            "```json",
            _laid_out(example(kind)),
            "```",
        ]
    return "\n".join([*parts, "", KINDS_END])


def _subject(kind: str) -> str:
    return ".".join([subjects.feed(kind), *(f"<{name}>" for name in _names(kind))])


def with_kinds(page: str) -> str:
    """docs/feed.md with its list of kinds made anew. Raises ValueError without the marks."""
    before, begin, rest = page.partition(KINDS_BEGIN)
    _, end, after = rest.partition(KINDS_END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {KINDS_BEGIN} and {KINDS_END}")
    return before + kinds_text() + after


def _laid_out(event: dict[str, Any]) -> str:
    """One member a line, those of `data` too, and lists on the line of their member."""

    def member(name: str, value: object) -> str:
        return f"{json.dumps(name)}: {json.dumps(value)}"

    lines = [f"  {member(name, value)}" for name, value in event.items() if name != "data"]
    data = ",\n".join(f"    {member(name, value)}" for name, value in event["data"].items())
    return "{\n" + ",\n".join([*lines, '  "data": {\n' + data + "\n  }"]) + "\n}"


def _indented(content: object) -> str:
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def main(docs: Path) -> None:
    page = docs / "feed.md"
    page.write_text(with_kinds(page.read_text()))
    (docs / "asyncapi.json").write_text(asyncapi_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))
