"""Makes the demo's stream: eight busy segments, and a minimum of one from then on.

`python -m anabranch_standalone.demo.stream ORDER` is the part that uses the official client: a
process of its own, for the threads of that package outlive its objects (see `messages.leave`).
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import msgspec
from anabranch_cli.controller import check, connected
from anabranch_cli.output import ExitCode, Problem

from anabranch_standalone.demo.messages import leave
from anabranch_standalone.demo.plan import INITIAL_SEGMENTS, Policy

MIN_SEGMENTS: Final = 1
CHECK_LIMIT_S: Final = 10.0
CREATE_LIMIT_S: Final = 60.0
EXIT_EXISTS: Final = 17


class StreamOrder(msgspec.Struct, frozen=True):
    controller: str
    scope: str
    stream: str
    policy: Policy


async def create(order: StreamOrder) -> None:
    """By the official client, as any user would. Raises Problem."""
    name = f"{order.scope}/{order.stream}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "anabranch_standalone.demo.stream",
        msgspec.json.encode(order).decode(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CREATE_LIMIT_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise _unreachable(order, f"no answer within {CREATE_LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == EXIT_EXISTS:
        raise Problem(f"the stream {name} exists already", code=ExitCode.REFUSED)
    if process.returncode != 0:
        raise _unreachable(order, said.decode(errors="replace").strip())


def check_controller(controller: str) -> None:
    """Raises Problem at once where the official client would go on trying for a minute."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, None) as service:
        service.call("getControllerServerList", pb.ServerRequest(), limit_s=CHECK_LIMIT_S)


def lower_minimum(order: StreamOrder) -> None:
    """Let the stream merge below what it began with.

    Through the stubs, as the package ties the minimum to the initial number. An update replaces
    the whole configuration, so it repeats the tags. Raises Problem.
    """
    from anabranch_rpc import controller_pb2 as pb

    config = pb.StreamConfig(
        streamInfo=pb.StreamInfo(scope=order.scope, stream=order.stream),
        scalingPolicy=pb.ScalingPolicy(
            scaleType=pb.ScalingPolicy.BY_RATE_IN_KBYTES_PER_SEC,
            targetRate=order.policy.target_kb_per_s,
            scaleFactor=order.policy.scale_factor,
            minNumSegments=MIN_SEGMENTS,
        ),
        tags=pb.Tags(tag=list(order.policy.tags)),
    )
    with connected(order.controller, None) as service:
        status = service.call("updateStream", config).status
    name = f"{order.scope}/{order.stream}"
    check(status, pb.UpdateStreamStatus.Status, what=f"update of {name}", meanings={})


def _unreachable(order: StreamOrder, reason: str) -> Problem:
    return Problem(
        f"the stream {order.scope}/{order.stream} cannot be created: {reason}",
        hint=f"does a cluster answer at {order.controller}?",
        code=ExitCode.UNREACHABLE,
    )


def main() -> int:
    order = msgspec.json.decode(sys.argv[1], type=StreamOrder)
    import pravega_client

    try:
        manager = pravega_client.StreamManager(order.controller)
        manager.create_scope(order.scope)
        scaling = pravega_client.StreamScalingPolicy.auto_scaling_policy_by_data_rate(
            order.policy.target_kb_per_s, order.policy.scale_factor, INITIAL_SEGMENTS
        )
        retention = pravega_client.StreamRetentionPolicy.none()
        created = manager.create_stream_with_policy(
            order.scope, order.stream, scaling, retention, list(order.policy.tags)
        )
    except (ValueError, OSError) as error:  # what the client package raises for a lost cluster
        print(error, file=sys.stderr)
        return 1
    return 0 if created else EXIT_EXISTS


if __name__ == "__main__":
    leave(main())
