"""`anabranch stream …`: the whole life of a stream, from creation to removal."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch_cli.addresses import ClusterOption, ControllerOption
from anabranch_cli.controller import (
    SCALE_LIMIT_S,
    SCALE_POLL_S,
    Controller,
    check,
    connected,
    pages,
    stream_info,
)
from anabranch_cli.output import ExitCode, Format, FormatOption, Problem, emit, emit_one, note

if TYPE_CHECKING:
    from anabranch_rpc import controller_pb2 as pb

stream_app = typer.Typer(
    help="Create, look at, change and remove streams.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="SCOPE/STREAM")]

MEANINGS = {
    "STREAM_EXISTS": "it exists already",
    "STREAM_NOT_FOUND": "there is none of this name",
    "SCOPE_NOT_FOUND": "its scope does not exist",
    "INVALID_STREAM_NAME": "no valid name: use letters, digits, '.' and '-'",
    "STREAM_NOT_SEALED": "it is not sealed; seal it first",
    "STREAM_SEALED": "it is sealed",
    "FAILURE": "refused; another change may be under way, or the request does not fit the stream",
}


@stream_app.command()
def create(
    name: Name,
    segments: Annotated[int, typer.Option(min=1, help="Number at the start, and the least.")] = 1,
    kbytes_per_s: Annotated[
        int, typer.Option("--kbytes-per-s", min=0, help="Scale by data rate per segment.")
    ] = 0,
    events_per_s: Annotated[
        int, typer.Option("--events-per-s", min=0, help="Scale by event rate per segment.")
    ] = 0,
    factor: Annotated[int, typer.Option(min=2, help="How many parts a split makes.")] = 2,
    tag: Annotated[list[str] | None, typer.Option(help="Can be given several times.")] = None,
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Create a stream, with a fixed number of segments or scaling by a rate."""
    from anabranch_rpc import controller_pb2 as pb

    if kbytes_per_s and events_per_s:
        raise Problem(
            "give one of --kbytes-per-s and --events-per-s, not both", code=ExitCode.USAGE
        )
    kind = pb.ScalingPolicy.FIXED_NUM_SEGMENTS
    if kbytes_per_s:
        kind = pb.ScalingPolicy.BY_RATE_IN_KBYTES_PER_SEC
    elif events_per_s:
        kind = pb.ScalingPolicy.BY_RATE_IN_EVENTS_PER_SEC
    config = pb.StreamConfig(
        streamInfo=stream_info(name),
        scalingPolicy=pb.ScalingPolicy(
            scaleType=kind,
            targetRate=kbytes_per_s or events_per_s,
            scaleFactor=factor,
            minNumSegments=segments,
        ),
        tags=pb.Tags(tag=tag or []),
    )
    with connected(controller, cluster) as server:
        reply = server.call("createStream", config)
    check(reply.status, pb.CreateStreamStatus.Status, what=f"stream {name}", meanings=MEANINGS)
    note(f"created stream {name}")


@stream_app.command()
def ls(
    scope: Annotated[str, typer.Argument(metavar="SCOPE")],
    internal: Annotated[
        bool, typer.Option("--internal", help="Also those that belong to the system (_…).")
    ] = False,
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the streams of a scope."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:

        def page(token: str) -> tuple[list[str], str]:
            request = pb.StreamsInScopeRequest(
                scope=pb.ScopeInfo(scope=scope),
                continuationToken=pb.ContinuationToken(token=token),
            )
            reply = server.call("listStreamsInScope", request)
            check(
                reply.status,
                pb.StreamsInScopeResponse.Status,
                what=f"scope {scope}",
                meanings={"SCOPE_NOT_FOUND": "there is none of this name"},
            )
            return [info.stream for info in reply.streams], reply.continuationToken.token

        names = pages(page)
    shown = [name for name in names if internal or not name.startswith("_")]
    emit([{"stream": f"{scope}/{name}"} for name in shown], output)


@stream_app.command()
def describe(
    name: Name,
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show a stream's policy, tags and open segments with their key ranges."""
    with connected(controller, cluster) as server:
        config = server.call("getStreamConfiguration", stream_info(name))
        segments = _segments(server, name)
    if output is Format.TABLE:
        emit_one(_config_row(name, config), output)
        print()
        emit(segments, output)
    else:
        emit_one({**_config_row(name, config), "segments": segments}, output)


@stream_app.command()
def scale(
    name: Name,
    seal: Annotated[
        list[int], typer.Option(help="Number of a segment to seal; several: repeat it.")
    ],
    into: Annotated[int, typer.Option(min=1, help="Into how many equal parts.")] = 2,
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replace neighbouring segments by equal parts of their range: --into 1 merges them."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:
        chosen = [one for one in _segments(server, name) if one["number"] in seal]
        missing = set(seal) - {one["number"] for one in chosen}
        if missing:
            raise Problem(
                f"stream {name} has no open segment {min(missing)}",
                hint=f"`anabranch stream describe {name}` shows the open ones",
                code=ExitCode.NOT_FOUND,
            )
        low, high = float(chosen[0]["low"]), float(chosen[-1]["high"])
        edges = [low + (high - low) * part / into for part in range(into)] + [high]
        request = pb.ScaleRequest(
            streamInfo=stream_info(name),
            sealedSegments=[int(one["id"]) for one in chosen],
            newKeyRanges=[
                pb.ScaleRequest.KeyRangeEntry(start=a, end=b) for a, b in itertools.pairwise(edges)
            ],
            scaleTimestamp=time.time_ns() // 1_000_000,
        )
        reply = server.call("scale", request)
        if reply.status != pb.ScaleResponse.STARTED:
            raise Problem(
                f"stream {name}: the scale was refused ({_scale_reason(reply.status)})",
                hint=f"`anabranch stream describe {name}` shows its segments and their minimum",
                code=ExitCode.REFUSED,
            )
        _wait_for_scale(server, name, reply.epoch)
        emit(_segments(server, name), output)


@stream_app.command()
def truncate(
    name: Name,
    at: Annotated[
        list[str],
        typer.Option(help="SEGMENT_ID:OFFSET of the new head; together they cover all keys."),
    ],
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Remove everything before a stream cut."""
    from anabranch_rpc import controller_pb2 as pb

    cut = dict(_cut_entry(text) for text in at)
    with connected(controller, cluster) as server:
        reply = server.call("truncateStream", pb.StreamCut(streamInfo=stream_info(name), cut=cut))
    check(reply.status, pb.UpdateStreamStatus.Status, what=f"stream {name}", meanings=MEANINGS)
    note(f"truncated stream {name}")


@stream_app.command()
def seal(name: Name, controller: ControllerOption = None, cluster: ClusterOption = None) -> None:
    """Close a stream for writing, for good."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:
        reply = server.call("sealStream", stream_info(name))
    check(reply.status, pb.UpdateStreamStatus.Status, what=f"stream {name}", meanings=MEANINGS)
    note(f"sealed stream {name}")


@stream_app.command()
def rm(name: Name, controller: ControllerOption = None, cluster: ClusterOption = None) -> None:
    """Remove a sealed stream and all its data."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:
        reply = server.call("deleteStream", stream_info(name))
    check(reply.status, pb.DeleteStreamStatus.Status, what=f"stream {name}", meanings=MEANINGS)
    note(f"removed stream {name}")


def _segments(server: Controller, name: str) -> list[dict[str, Any]]:
    reply = server.call("getCurrentSegments", stream_info(name))
    rows = [
        {
            "number": entry.segmentId.segmentId & 0xFFFFFFFF,
            "epoch": entry.segmentId.segmentId >> 32,
            "low": entry.minKey,
            "high": entry.maxKey,
            "id": entry.segmentId.segmentId,
        }
        for entry in reply.segmentRanges
    ]
    return sorted(rows, key=lambda row: row["low"])


def _config_row(name: str, config: pb.StreamConfig) -> dict[str, object]:
    from anabranch_rpc import controller_pb2 as pb

    policy = config.scalingPolicy
    return {
        "stream": name,
        "scaling": pb.ScalingPolicy.ScalingPolicyType.Name(policy.scaleType).lower(),
        "target_rate": policy.targetRate,
        "scale_factor": policy.scaleFactor,
        "min_segments": policy.minNumSegments,
        "tags": list(config.tags.tag),
    }


def _wait_for_scale(server: Controller, name: str, epoch: int) -> None:
    from anabranch_rpc import controller_pb2 as pb

    request = pb.ScaleStatusRequest(streamInfo=stream_info(name), epoch=epoch)
    deadline = time.monotonic() + SCALE_LIMIT_S
    while True:
        status = server.call("checkScale", request).status
        if status == pb.ScaleStatusResponse.SUCCESS:
            return
        if status != pb.ScaleStatusResponse.IN_PROGRESS:
            raise Problem(f"stream {name}: the scale failed")
        if time.monotonic() > deadline:
            raise Problem(
                f"stream {name}: the scale is still going on after {SCALE_LIMIT_S:.0f} s",
                hint=f"`anabranch stream describe {name}` shows how far it is",
                code=ExitCode.TIMED_OUT,
            )
        time.sleep(SCALE_POLL_S)


def _scale_reason(status: int) -> str:
    from anabranch_rpc import controller_pb2 as pb

    if status == pb.ScaleResponse.PRECONDITION_FAILED:
        return "fewer segments than the stream's minimum would remain, or one is not open"
    return "another scale is under way, or the parts do not cover what is sealed"


def _cut_entry(text: str) -> tuple[int, int]:
    segment, colon, offset = text.partition(":")
    if not colon or not segment.isdigit() or not offset.lstrip("-").isdigit():
        raise Problem(
            f"--at {text}: give SEGMENT_ID:OFFSET",
            hint="`anabranch stream describe` shows the ids",
            code=ExitCode.USAGE,
        )
    return int(segment), int(offset)
