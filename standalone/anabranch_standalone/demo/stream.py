"""Makes the demo's stream: eight busy segments, and a minimum of one from then on."""

from __future__ import annotations

from anabranch_cli.controller import check, connected
from anabranch_cli.output import ExitCode, Problem

from anabranch_standalone.demo.plan import INITIAL_SEGMENTS, Policy

MIN_SEGMENTS = 1


def create(controller: str, scope: str, stream: str, policy: Policy) -> None:
    """By the official client, as any user would. Raises Problem."""
    import pravega_client

    try:
        manager = pravega_client.StreamManager(controller)
        manager.create_scope(scope)
        scaling = pravega_client.StreamScalingPolicy.auto_scaling_policy_by_data_rate(
            policy.target_kb_per_s, policy.scale_factor, INITIAL_SEGMENTS
        )
        retention = pravega_client.StreamRetentionPolicy.none()
        created = manager.create_stream_with_policy(
            scope, stream, scaling, retention, list(policy.tags)
        )
    except (ValueError, OSError) as error:
        raise Problem(
            f"the stream {scope}/{stream} cannot be created: {error}",
            hint=f"does a cluster answer at {controller}?",
            code=ExitCode.UNREACHABLE,
        ) from error
    if not created:
        raise Problem(f"the stream {scope}/{stream} exists already", code=ExitCode.REFUSED)


def lower_minimum(controller: str, scope: str, stream: str, policy: Policy) -> None:
    """Let the stream merge below what it began with.

    Through the stubs, as the package ties the minimum to the initial number. An update replaces
    the whole configuration, so it repeats the tags. Raises Problem.
    """
    from anabranch_rpc import controller_pb2 as pb

    config = pb.StreamConfig(
        streamInfo=pb.StreamInfo(scope=scope, stream=stream),
        scalingPolicy=pb.ScalingPolicy(
            scaleType=pb.ScalingPolicy.BY_RATE_IN_KBYTES_PER_SEC,
            targetRate=policy.target_kb_per_s,
            scaleFactor=policy.scale_factor,
            minNumSegments=MIN_SEGMENTS,
        ),
        tags=pb.Tags(tag=list(policy.tags)),
    )
    with connected(controller, None) as service:
        status = service.call("updateStream", config).status
    check(status, pb.UpdateStreamStatus.Status, what=f"update of {scope}/{stream}", meanings={})
