"""The REST interface: scopes, streams, scaling history, reader groups, health.

Paths, codes and bodies are Pravega's (reference controller.md, section 10), with one choice
of ours: a request that is wrong in itself is answered 400 with a line that says how, where
Pravega answers 500 with a page of HTML.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, cast

import msgspec
import structlog
from anabranch_events.model import StreamConfig
from litestar import Litestar, Response, Router, delete, get, post, put
from litestar import Request as LitestarRequest
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from anabranch_controller import errors
from anabranch_controller.api import Controller, Page
from anabranch_controller.context import gather_bounded
from anabranch_controller.entrypoints import rest_messages as messages
from anabranch_controller.entrypoints.rest_messages import is_user_name

BODY_BYTES_MAX: Final = 1024 * 1024
JSON: Final = "application/json"
TEXT: Final = "text/plain"
TIME_MAX: Final = 2**63 - 1

Request: TypeAlias = LitestarRequest[Any, Any, Any]
Reply: TypeAlias = Response[Any]
Health = Callable[[], Mapping[str, bool]]

log = structlog.stdlib.get_logger("anabranch.rest")


def rest_app(controller: Controller, health: Health) -> Litestar:
    """The ASGI application. `health` says for each part of this service whether it works."""
    version_1 = Router(path="/v1", route_handlers=[*SCOPES, *STREAMS, *GROUPS, *HEALTH])
    app = Litestar(
        route_handlers=[ping, version_1],
        before_request=_negotiate,
        exception_handlers={
            HTTPException: _empty,
            errors.ControllerError: _refused,
            Exception: _failed,
        },
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
    )
    app.state["controller"], app.state["health"] = controller, health
    return app


def _controller(request: Request) -> Controller:
    return cast(Controller, request.app.state["controller"])


@get("/ping")
async def ping() -> Reply:
    return _nothing(200)


# (Litestar keeps the name `scope` for itself. A DELETE states 200 since its replies, which have
# their own codes, may have a body.)

# --- scopes ------------------------------------------------------------------------------


@get("/scopes")
async def list_scopes(request: Request) -> Reply:
    scopes = [messages.ScopeProperty(name) async for name in _all(_controller(request).list_scopes)]
    return _json(messages.ScopesList(scopes))


@post("/scopes")
async def create_scope(request: Request) -> Reply:
    wanted = messages.decoded(await request.body(), messages.CreateScopeRequest)
    scope_name = wanted.scope_name
    if not is_user_name(scope_name, messages.SCOPE_NAME_LENGTH_MAX):
        return _nothing(400)
    match await _controller(request).create_scope(scope_name):
        case "SUCCESS":
            return _json(messages.ScopeProperty(scope_name), 201)
        case "SCOPE_EXISTS":
            return _nothing(409)
        case "INVALID_SCOPE_NAME":
            return _nothing(400)
        case "FAILURE":
            return _nothing(500)


@get("/scopes/{scope_name:str}")
async def get_scope(request: Request, scope_name: FromPath[str]) -> Reply:
    if not await _controller(request).scope_exists(scope_name):
        return _nothing(404)
    return _json(messages.ScopeProperty(scope_name))


@delete("/scopes/{scope_name:str}", status_code=200)
async def delete_scope(request: Request, scope_name: FromPath[str]) -> Reply:
    match await _controller(request).delete_scope(scope_name):
        case "SUCCESS":
            return _nothing(204)
        case "SCOPE_NOT_FOUND":
            return _nothing(404)
        case "SCOPE_NOT_EMPTY":
            return _nothing(412)
        case "FAILURE":
            return _nothing(500)


# --- streams -----------------------------------------------------------------------------


@get("/scopes/{scope_name:str}/streams")
async def list_streams(request: Request, scope_name: FromPath[str]) -> Reply:
    """Without a filter, those whose names do not begin with `_`; an unknown filter is none."""
    controller = _controller(request)
    if not await controller.scope_exists(scope_name):
        return _nothing(404)
    query = request.query_params
    tag = query.get("filter_value")

    async def page(token: str) -> Page:
        if query.get("filter_type") == "tag" and tag:
            return await controller.list_streams_for_tag(scope_name, tag, token)
        return await controller.list_streams(scope_name, token)

    internal = query.get("filter_type") == "showInternalStreams"
    names = [name async for name in _all(page) if name.startswith("_") is internal]
    configs = await _configurations(controller, scope_name, names)
    found = [messages.stream_property(scope_name, name, config) for name, config in configs]
    return _json(messages.StreamsList(found))


async def _configurations(
    controller: Controller, scope_name: str, names: list[str]
) -> list[tuple[str, StreamConfig]]:
    """Of those that still exist when they are asked for."""

    async def one(name: str) -> tuple[str, StreamConfig] | None:
        try:
            return name, await controller.stream_configuration(scope_name, name)
        except errors.NotFound:
            return None

    found = await gather_bounded([partial(one, name) for name in names])
    return [pair for pair in found if pair is not None]


@post("/scopes/{scope_name:str}/streams")
async def create_stream(request: Request, scope_name: FromPath[str]) -> Reply:
    wanted = messages.decoded(await request.body(), messages.StreamRequest)
    stream = wanted.stream_name
    if not is_user_name(stream, messages.STREAM_NAME_LENGTH_MAX):
        return _nothing(400)
    config = messages.stream_config(wanted)
    match await _controller(request).create_stream(scope_name, stream, config):
        case "SUCCESS":
            return _json(messages.stream_property(scope_name, stream, config), 201)
        case "STREAM_EXISTS":
            return _nothing(409)
        case "SCOPE_NOT_FOUND":
            return _nothing(404)
        case "INVALID_STREAM_NAME":
            return _nothing(400)
        case "FAILURE":
            return _nothing(500)


@get("/scopes/{scope_name:str}/streams/{stream:str}")
async def get_stream(request: Request, scope_name: FromPath[str], stream: FromPath[str]) -> Reply:
    config = await _controller(request).stream_configuration(scope_name, stream)
    return _json(messages.stream_property(scope_name, stream, config))


@put("/scopes/{scope_name:str}/streams/{stream:str}")
async def update_stream(
    request: Request, scope_name: FromPath[str], stream: FromPath[str]
) -> Reply:
    wanted = messages.decoded(await request.body(), messages.StreamRequest)
    config = messages.stream_config(wanted)
    match await _controller(request).update_stream(scope_name, stream, config):
        case "SUCCESS":
            return _json(messages.stream_property(scope_name, stream, config))
        case "STREAM_NOT_FOUND" | "SCOPE_NOT_FOUND":
            return _nothing(404)
        case "STREAM_SEALED":
            return _nothing(412)
        case "FAILURE":
            return _nothing(500)


@delete("/scopes/{scope_name:str}/streams/{stream:str}", status_code=200)
async def delete_stream(
    request: Request, scope_name: FromPath[str], stream: FromPath[str]
) -> Reply:
    match await _controller(request).delete_stream(scope_name, stream):
        case "SUCCESS":
            return _nothing(204)
        case "STREAM_NOT_FOUND":
            return _nothing(404)
        case "STREAM_NOT_SEALED":
            return _nothing(412)
        case "FAILURE":
            return _nothing(500)


@put("/scopes/{scope_name:str}/streams/{stream:str}/state")
async def set_stream_state(
    request: Request, scope_name: FromPath[str], stream: FromPath[str]
) -> Reply:
    wanted = messages.decoded(await request.body(), messages.StreamStateMessage)
    if wanted.stream_state != "SEALED":
        return _nothing(400)
    match await _controller(request).seal_stream(scope_name, stream):
        case "SUCCESS" | "STREAM_SEALED":
            return _json(wanted)
        case "STREAM_NOT_FOUND" | "SCOPE_NOT_FOUND":
            return _nothing(404)
        case "FAILURE":
            return _nothing(500)


@get("/scopes/{scope_name:str}/streams/{stream:str}/scaling-events")
async def scaling_events(
    request: Request, scope_name: FromPath[str], stream: FromPath[str]
) -> Reply:
    """`from` and `to` in milliseconds since 1970. Text that is no number is 404, as recorded."""
    given = [request.query_params.get(name) for name in ("from", "to")]
    if None in given:
        return _nothing(400)
    try:
        from_ms, to_ms = (int(cast(str, text)) for text in given)
    except ValueError:
        return _nothing(404)
    if not 0 <= from_ms <= to_ms <= TIME_MAX:
        return _nothing(400)
    history = await _controller(request).scaling_events(scope_name, stream, from_ms, to_ms)
    return _json([messages.scale_metadata(one) for one in history])


# --- reader groups -----------------------------------------------------------------------


@get("/scopes/{scope_name:str}/readergroups")
async def list_groups(request: Request, scope_name: FromPath[str]) -> Reply:
    """Those made through the controller, which is what Java clients do."""
    controller = _controller(request)
    if not await controller.scope_exists(scope_name):
        return _nothing(404)
    prefix = messages.GROUP_STREAM_PREFIX
    names = [
        messages.ReaderGroupName(name.removeprefix(prefix))
        async for name in _all(lambda token: controller.list_streams(scope_name, token))
        if name.startswith(prefix)
    ]
    return _json(messages.ReaderGroupsList(names) if names else messages.ReaderGroupsList())


@get("/scopes/{scope_name:str}/readergroups/{group:str}")
async def get_group(request: Request, scope_name: FromPath[str], group: FromPath[str]) -> Reply:
    config = (await _controller(request).reader_group(scope_name, group)).config
    if config is None:
        return _nothing(404)
    return _json(messages.group_property(scope_name, group, config))


@delete("/scopes/{scope_name:str}/readergroups/{group:str}", status_code=200)
async def delete_group(request: Request, scope_name: FromPath[str], group: FromPath[str]) -> Reply:
    controller = _controller(request)
    config = (await controller.reader_group(scope_name, group)).config
    if config is None:
        return _nothing(404)
    match await controller.delete_reader_group(scope_name, group, str(config.id)):
        case "SUCCESS":
            return _nothing(204)
        case "RG_NOT_FOUND" | "INVALID_RG_NAME" | "SCOPE_NOT_FOUND":
            return _nothing(404)
        case "FAILURE":
            return _nothing(500)


# --- health ------------------------------------------------------------------------------


@get(["/health", "/health/{part:str}"])
async def health(request: Request) -> Reply:
    return _health(request, lambda result: result)


@get(["/health/status", "/health/status/{part:str}"])
async def health_status(request: Request) -> Reply:
    return _health(request, lambda result: result.status)


@get(["/health/readiness", "/health/readiness/{part:str}"])
async def health_readiness(request: Request) -> Reply:
    return _health(request, lambda result: result.readiness)


@get(["/health/liveness", "/health/liveness/{part:str}"])
async def health_liveness(request: Request) -> Reply:
    return _health(request, lambda result: result.liveness)


@get(["/health/details", "/health/details/{part:str}"])
async def health_details(request: Request) -> Reply:
    return _health(request, lambda result: result.details)


def _health(request: Request, view: Callable[[messages.HealthResult], object]) -> Reply:
    part = request.path_params.get("part")
    parts = {name: _result(name, ok, {}) for name, ok in request.app.state["health"]().items()}
    if part:
        return _json(view(parts[part])) if part in parts else _nothing(404)
    return _json(view(_result("", all(one.readiness for one in parts.values()), parts)))


def _result(
    name: str, ok: bool, children: dict[str, messages.HealthResult]
) -> messages.HealthResult:
    # The process answers, so it lives; what is not ready waits for another part of the cluster.
    return messages.HealthResult(
        name=name,
        status="UP" if ok else "DOWN",
        readiness=ok,
        liveness=True,
        details={},
        children=children,
    )


SCOPES: Final = (list_scopes, create_scope, get_scope, delete_scope)
STREAMS: Final = (
    list_streams,
    create_stream,
    get_stream,
    update_stream,
    delete_stream,
    set_stream_state,
    scaling_events,
)
GROUPS: Final = (list_groups, get_group, delete_group)
HEALTH: Final = (health, health_status, health_readiness, health_liveness, health_details)


# --- shared ------------------------------------------------------------------------------


async def _all(page: Callable[[str], Awaitable[Page]]) -> AsyncIterator[str]:
    """Every name of a listing, page by page up to the empty one."""
    token = ""
    while (found := await page(token)).names:
        for name in found.names:
            yield name
        token = found.token


def _json(content: object, status: int = 200) -> Reply:
    # Encoded here, since the framework sends a string as it is, without its quotes.
    return Response(msgspec.json.encode(content), status_code=status, media_type=JSON)


def _nothing(status: int) -> Reply:
    return Response(b"", status_code=status, media_type=TEXT)


def _text(status: int, text: str) -> Reply:
    return Response(f"{text}\n", status_code=status, media_type=TEXT)


async def _negotiate(request: Request) -> Reply | None:
    """JSON in, JSON out; anything else is refused before it is looked at."""
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in (JSON, "application/*", "*/*")):
        return _nothing(406)
    given = request.headers.get("content-type", JSON)
    if request.method in ("POST", "PUT") and not given.startswith(JSON):
        return _nothing(415)
    return None


def _empty(request: Request, error: HTTPException) -> Reply:
    """What the framework refuses (no such path or method) has no body, as recorded."""
    return _nothing(error.status_code)


def _refused(request: Request, error: errors.ControllerError) -> Reply:
    match error:
        case errors.NotFound():
            return _nothing(404)
        case errors.InvalidArgument():
            return _text(400, str(error))
        case errors.IllegalState():
            return _text(412, str(error))
        case errors.Conflict():
            return _text(409, str(error))
        case errors.Timeout():
            return _text(504, str(error))
        case _:
            log.warning("rest.gave_up", path=request.url.path, reason=str(error))
            return _text(503, str(error))


def _failed(request: Request, error: Exception) -> Reply:
    """The edge of a REST call: a bug is logged once, here."""
    log.error("rest.failed", method=request.method, path=request.url.path, exc_info=error)
    return _text(500, "internal error")
