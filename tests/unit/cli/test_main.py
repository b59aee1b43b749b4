"""The `anabranch` command finds its commands by entry points, and fails politely."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from anabranch_cli import main
from typer.testing import CliRunner


def test_help_lists_the_commands_of_every_distribution() -> None:
    """A newcomer would not find `standalone`."""
    result = CliRunner().invoke(main.app, ["--help"])
    assert result.exit_code == 0
    assert {"cluster", "events", "scope", "standalone", "stream"} <= set(result.output.split())


def test_a_command_that_cannot_load_is_named_and_hides_no_other(monkeypatch, capsys) -> None:
    """One broken plug-in would take the whole tool away."""
    broken = EntryPoint("broken", "no_such_module:app", main.GROUP)
    found = {**main._found(), "broken": broken}
    monkeypatch.setattr(main, "_found", lambda: found)
    result = CliRunner().invoke(main.app, ["--help"])
    assert result.exit_code == 0
    assert "cluster" in result.stdout
    assert "broken (no_such_module:app) cannot load" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    """`anabranch --help` would not feel instant."""
    code = (
        "import sys\nfrom anabranch_cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'redis', 'nats', 'grpc', 'pydantic', 'structlog', 'faststream', 'rich'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["cluster", "nonsense"], ["standalone", "--x"]]
)
def test_wrong_usage_ends_with_status_two(arguments: list[str]) -> None:
    """A script would take a typing error for success."""
    command = Path(sys.executable).with_name("anabranch")
    run = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert "Usage" in run.stderr
