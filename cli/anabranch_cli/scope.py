"""`anabranch scope …`: the folders of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anabranch_cli.addresses import ClusterOption, ControllerOption
from anabranch_cli.controller import check, connected, pages
from anabranch_cli.output import Format, FormatOption, emit, note

if TYPE_CHECKING:
    from anabranch_cli.controller import Controller

scope_app = typer.Typer(
    help="Create, list and remove scopes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="SCOPE")]


@scope_app.command()
def create(name: Name, controller: ControllerOption = None, cluster: ClusterOption = None) -> None:
    """Create a scope."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:
        reply = server.call("createScope", pb.ScopeInfo(scope=name))
    check(
        reply.status,
        pb.CreateScopeStatus.Status,
        what=f"scope {name}",
        meanings={"SCOPE_EXISTS": "it exists already", "INVALID_SCOPE_NAME": "no valid name"},
    )
    note(f"created scope {name}")


@scope_app.command()
def ls(
    controller: ControllerOption = None,
    cluster: ClusterOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the scopes."""
    with connected(controller, cluster) as server:
        emit([{"scope": scope} for scope in _scopes(server)], output)


@scope_app.command()
def rm(name: Name, controller: ControllerOption = None, cluster: ClusterOption = None) -> None:
    """Remove an empty scope."""
    from anabranch_rpc import controller_pb2 as pb

    with connected(controller, cluster) as server:
        reply = server.call("deleteScope", pb.ScopeInfo(scope=name))
    check(
        reply.status,
        pb.DeleteScopeStatus.Status,
        what=f"scope {name}",
        meanings={
            "SCOPE_NOT_FOUND": "there is none of this name",
            "SCOPE_NOT_EMPTY": "it still has streams; remove them first",
        },
    )
    note(f"removed scope {name}")


def _scopes(server: Controller) -> list[str]:
    from anabranch_rpc import controller_pb2 as pb

    def page(token: str) -> tuple[list[str], str]:
        request = pb.ScopesRequest(continuationToken=pb.ContinuationToken(token=token))
        reply = server.call("listScopes", request)
        return list(reply.scopes), reply.continuationToken.token

    return pages(page)
