"""The `anabranch` command: nouns first, each loaded only when it is named.

A command is a Typer app behind an entry point of the group `anabranch.commands`, so that a
distribution that is not installed costs nothing and a new one needs no change here. The help
page lists the commands by importing the module behind each entry point, which therefore
imports Typer and nothing heavy; what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from anabranch_cli.output import ExitCode, Problem, fail, note

GROUP: Final = "anabranch.commands"


class EntryPointGroup(TyperGroup):
    """A group whose commands are the entry points of `anabranch.commands`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Those that can be loaded; a broken one is named on stderr and hides no other."""
        return [name for name in sorted(_found()) if self.get_command(ctx, name) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry_point = _found().get(cmd_name)
        if entry_point is None:
            return None
        try:
            loaded = entry_point.load()
        except (ImportError, AttributeError) as error:
            note(f"warning: the command {cmd_name} ({entry_point.value}) cannot load: {error}")
            return None
        app = loaded if isinstance(loaded, typer.Typer) else _wrapped(loaded)
        command = get_command(app)
        command.name = cmd_name
        return command


def _found() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}


def _wrapped(function: Callable[..., object]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return app


app = typer.Typer(
    name="anabranch",
    cls=EntryPointGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An elastic, tiered, durable stream store that speaks the Pravega protocols.",
)


@app.callback()
def root() -> None:
    """An elastic, tiered, durable stream store that speaks the Pravega protocols."""


def main() -> None:
    """The console script. The edge of the process: here a Problem becomes an exit code."""
    try:
        app()
    except Problem as problem:
        fail(problem)
    except KeyboardInterrupt:
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`… | head`).
        import os
        import sys

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(int(ExitCode.OK)) from None


if __name__ == "__main__":
    main()
