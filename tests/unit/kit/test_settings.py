"""Settings: where a value comes from, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pydantic
import pytest
from anabranch_kit.settings import ServiceSettings, SettingsError, load_settings, read_settings
from pydantic import BaseModel, ConfigDict, Field


class Grpc(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    port: int = Field(9090, ge=0, le=65535, description="port of the gRPC API")


class Example(ServiceSettings):
    """Does nothing, with settings."""

    service: ClassVar[str] = "example"
    slots: int = Field(2, ge=1, description="orders in work at once")
    share: float = Field(0.5, description="90% is a lot")
    folders: list[str] = Field([], description="folders, separated by commas")
    verify: bool = Field(False, description="check after each step")
    grpc: Grpc = Grpc()


def read(*argv: str, **environment: str) -> Example:
    return read_settings(Example, argv, environment=environment)


def problem(*argv: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(*argv, **environment)
    return str(caught.value)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """A value that an operator gave would be overruled by a weaker source."""
    file = tmp_path / "example.toml"
    file.write_text("slots = 3\nshare = 0.3\nmember = 'from-file'\n[grpc]\nport = 7003\n")
    settings = read(
        "--config",
        str(file),
        "--slots",
        "5",
        ANABRANCH_EXAMPLE__SLOTS="4",
        ANABRANCH_EXAMPLE__SHARE="0.4",
        ANABRANCH_OTHER__SLOTS="9",
    )
    assert (settings.slots, settings.share, settings.member) == (5, 0.4, "from-file")
    assert settings.grpc.port == 7003
    assert settings.nats_url == "nats://127.0.0.1:4222"


def test_nested_fields_have_flags_and_variables() -> None:
    """A setting in a group could not be given on the command line."""
    assert read("--grpc-port", "1").grpc.port == 1
    assert read(ANABRANCH_EXAMPLE__GRPC__PORT="2").grpc.port == 2


def test_config_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    """An image would need a command line of its own for its file."""
    file = tmp_path / "example.toml"
    file.write_text("slots = 3")
    assert read(ANABRANCH_EXAMPLE__CONFIG=str(file)).slots == 3


def test_switches_and_lists() -> None:
    """`--verify` alone would be refused, and a list would need brackets."""
    settings = read("--verify", "--folders", "a, b,c")
    assert settings.verify is True
    assert settings.folders == ["a", "b", "c"]
    assert read("--verify", "false").verify is False


def test_settings_are_frozen() -> None:
    """A service could change its own settings while it runs."""
    with pytest.raises(pydantic.ValidationError):
        read().slots = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        (["--slots", "many"], {}, r"slots = 'many' \(flag --slots\): .*integer"),
        ([], {"ANABRANCH_EXAMPLE__SLOTS": "0"}, r"slots = '0' \(environment variable .*SLOTS\): "),
        (["--grpc-port", "70000"], {}, r"grpc.port = '70000' \(flag --grpc-port\): .*65535"),
        (["--slott", "1"], {}, "--slott"),
        ([], {"ANABRANCH_EXAMPLE__SLOTT": "1"}, "ANABRANCH_EXAMPLE__SLOTT: there is no such"),
        (["--config", "none.toml"], {}, "file none.toml: No such file"),
    ],
)
def test_wrong_values_name_field_value_expectation_and_origin(
    argv: list[str], environment: dict[str, str], message: str
) -> None:
    """An operator would have to guess which of four places holds the mistake."""
    with pytest.raises(SettingsError, match=message):
        read(*argv, **environment)


def test_wrong_file_is_named(tmp_path: Path) -> None:
    """A typing error in the file would do nothing, silently."""
    file = tmp_path / "example.toml"
    file.write_text("slott = 3\n[grpc]\nprot = 4")
    text = problem("--config", str(file))
    assert f"file {file}: there is no setting 'slott'" in text
    assert f"file {file}: there is no setting 'grpc.prot'" in text
    file.write_text("slots = = 3")
    assert f"file {file}: not TOML" in problem("--config", str(file))


def test_all_problems_are_told_and_the_status_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    """Mistakes would come up one restart at a time."""
    with pytest.raises(SystemExit) as ended:
        load_settings(Example, ["--slots", "x", "--share", "y"], environment={})
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("example: ") for line in lines)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """A user could not learn a setting's name, default or variable from the program."""
    with pytest.raises(SystemExit) as ended:
        load_settings(Example, ["--help"], environment={})
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Does nothing, with settings." in text
    assert "--slots SLOTS orders in work at once (default 2) [ANABRANCH_EXAMPLE__SLOTS]" in text
    assert "90% is a lot" in text
