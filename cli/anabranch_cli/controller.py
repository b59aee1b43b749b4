"""Calls to the controller over gRPC, and what their failures mean to a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from anabranch_cli.addresses import address
from anabranch_cli.output import ExitCode, Problem

if TYPE_CHECKING:
    from anabranch_rpc import controller_pb2 as pb

CALL_LIMIT_S: Final = 30.0
SCALE_POLL_S: Final = 0.1
SCALE_LIMIT_S: Final = 120.0
_PORT_DEFAULT: Final = 9090


class Controller:
    """One channel; `call` turns gRPC's errors into Problems."""

    def __init__(self, stub: Any, url: str) -> None:
        self._stub, self._url = stub, url

    def call(self, method: str, request: Any, *, limit_s: float = CALL_LIMIT_S) -> Any:
        """Raises Problem."""
        import grpc

        try:
            return getattr(self._stub, method)(request, timeout=limit_s)
        except grpc.RpcError as error:
            raise _problem(error, self._url) from error


@contextmanager
def connected(controller: str | None, cluster: Path | None) -> Iterator[Controller]:
    """A connection for one command. Raises Problem for an address that is none."""
    import grpc
    from anabranch_rpc import controller_pb2_grpc as rpc

    url = address("controller", flag=controller, cluster=cluster)
    with grpc.insecure_channel(_target(url)) as channel:
        yield Controller(rpc.ControllerServiceStub(channel), url)


def split_name(name: str) -> tuple[str, str]:
    """`scope/stream`. Raises Problem."""
    scope, slash, stream = name.partition("/")
    if not (scope and slash and stream) or "/" in stream:
        raise Problem(f"{name!r} is no stream", hint="name it as SCOPE/STREAM", code=ExitCode.USAGE)
    return scope, stream


def check(status: int, enum: Any, *, what: str, meanings: dict[str, str]) -> None:
    """Raises Problem unless `status` is SUCCESS; `meanings` says each other one in words."""
    name = enum.Name(status)
    if name == "SUCCESS":
        return
    missing = name.endswith("_NOT_FOUND")
    raise Problem(
        f"{what}: {meanings.get(name, name.lower().replace('_', ' '))}",
        hint="`anabranch scope ls` and `anabranch stream ls SCOPE` show what there is"
        if missing
        else "",
        code=ExitCode.NOT_FOUND if missing else ExitCode.REFUSED,
    )


def pages(fetch: Callable[[str], tuple[list[str], str]]) -> list[str]:
    """All items of a listing; `fetch` gives a page and the token of the next one."""
    items: list[str] = []
    token = ""
    while True:
        page, following = fetch(token)
        items += page
        if not page or not following or following == token:
            return items
        token = following


def stream_info(name: str) -> pb.StreamInfo:
    from anabranch_rpc import controller_pb2 as pb

    scope, stream = split_name(name)
    return pb.StreamInfo(scope=scope, stream=stream)


def _target(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"tcp://{url}")
    if not parts.hostname:
        raise Problem(
            f"{url!r} is no address of a controller",
            hint="--controller tcp://HOST:PORT",
            code=ExitCode.USAGE,
        )
    return f"{parts.hostname}:{parts.port or _PORT_DEFAULT}"


def _problem(error: Any, url: str) -> Problem:
    import grpc

    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return Problem(
            f"the controller at {url} does not answer: {details}",
            hint="is the cluster running? name its controller with --controller or its ready "
            "file with --cluster",
            code=ExitCode.UNREACHABLE,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Problem(
            f"the controller at {url} did not answer in time; what became of it is unknown",
            hint="look with `anabranch stream describe`, then repeat it: it is safe to",
            code=ExitCode.TIMED_OUT,
        )
    if code is grpc.StatusCode.NOT_FOUND:
        return Problem(
            details,
            hint="`anabranch scope ls` and `anabranch stream ls SCOPE` show what there is",
            code=ExitCode.NOT_FOUND,
        )
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED):
        return Problem(details, code=ExitCode.REFUSED)
    return Problem(f"{code.name.lower().replace('_', ' ')}: {details}", code=ExitCode.FAILED)
