"""Settings of a service: one frozen class, filled from flags, environment, file and defaults.

A service declares what it can be told as fields with descriptions::

    class TiererSettings(ServiceSettings):
        "Moves ranges of segments from tier 1 to tier 2."

        service: ClassVar[str] = "tierer"
        slots: int = Field(2, ge=1, le=64, description="orders in work at once")

Each field can then be given in four ways, of which the first one that names it wins:

    --slots 4                           flag; nested fields are joined: --grpc-port
    ANABRANCH_TIERER__SLOTS=4           environment; "__" separates nested fields
    slots = 4                           TOML file (--config FILE or ANABRANCH_TIERER__CONFIG)
    2                                   default

Names that no field has are errors, wherever they stand: a setting with a typing error must
not silently do nothing. Every bad value is reported in one line with its origin.

Plain pydantic rather than pydantic-settings: the origins are needed for the messages, and
each process starts a third of a second sooner.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, TypeVar, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined

EXIT_BAD_SETTINGS: Final = 2
ENVIRONMENT_PREFIX: Final = "ANABRANCH_"
NESTING: Final = "__"
CONFIG: Final = "config"

Value = TypeVar("Value", bound="Settings")
FieldPath = tuple[str, ...]


class Settings(BaseModel):
    """Base of every service's settings. The docstring of a subclass opens its --help."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    service: ClassVar[str] = "service"


class ServiceSettings(Settings):
    """What every service of a cluster can be told."""

    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS server, nats://host:port")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey, redis://host:port/db"
    )
    member: str = Field(
        "", description="name of this member, stable over restarts; empty for <service>-0"
    )
    health_host: str = Field("127.0.0.1", description="address of /health, /ready and /metrics")
    health_port: int = Field(
        0, ge=0, le=65535, description="port of /health, /ready and /metrics; 0 for none"
    )
    log_format: str = Field(
        "auto", pattern="^(auto|json|console)$", description="auto, json or console"
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="debug, info, warning, error"
    )
    uvloop: bool = Field(True, description="use the uvloop event loop when it is installed")

    @property
    def member_id(self) -> str:
        return self.member or f"{self.service}-0"


class SettingsError(Exception):
    """One or more settings are wrong; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class _Leaf(NamedTuple):
    """A field that takes a value (not a group of fields)."""

    path: FieldPath
    info: pydantic.fields.FieldInfo

    @property
    def flag(self) -> str:
        return "--" + "-".join(self.path).replace("_", "-")

    def variable(self, service: str) -> str:
        return environment_prefix(service) + NESTING.join(self.path).upper()

    @property
    def takes_list(self) -> bool:
        return get_origin(self.info.annotation) in (list, tuple, set, frozenset)


class _Given(NamedTuple):
    value: Any
    origin: str


def environment_prefix(service: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{service.upper().replace('-', '_')}{NESTING}"


def load_settings(
    settings_class: type[Value],
    argv: Sequence[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Value:
    """The settings of this process. Ends it with status 2 and one line per problem on stderr."""
    try:
        return read_settings(settings_class, argv, environment=environment)
    except SettingsError as error:
        for problem in error.problems:
            print(f"{settings_class.service}: {problem}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_BAD_SETTINGS)


def read_settings(
    settings_class: type[Value],
    argv: Sequence[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Value:
    """As load_settings, but raises SettingsError."""
    environment = os.environ if environment is None else environment
    leaves = {leaf.path: leaf for leaf in _leaves(settings_class)}
    flags = _from_flags(settings_class, leaves, sys.argv[1:] if argv is None else argv)
    variables, problems = _from_environment(settings_class, leaves, environment)

    config_variable = environment_prefix(settings_class.service) + CONFIG.upper()
    config = flags.pop((CONFIG,), None) or variables.pop((CONFIG,), None)
    file: dict[FieldPath, _Given] = {}
    if config is not None and config.value:
        file = _from_file(Path(config.value), settings_class)
    elif config is not None:
        problems.append(f"{config_variable} is empty: name a TOML file or unset it")

    given = {**file, **variables, **flags}
    try:
        settings = settings_class.model_validate(_nested(given))
    except pydantic.ValidationError as error:
        problems += [_problem(detail, given, leaves, settings_class) for detail in error.errors()]
    if problems:
        raise SettingsError(problems)
    return settings


def _leaves(model: type[BaseModel], above: FieldPath = ()) -> Iterator[_Leaf]:
    for name, info in model.model_fields.items():
        group = _group(info.annotation)
        if group is not None:
            yield from _leaves(group, (*above, name))
        else:
            yield _Leaf((*above, name), info)


def _group(annotation: object) -> type[BaseModel] | None:
    """The class of a field that holds further fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line, like every other wrong setting."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError([f"{message} (see --help)"])


def _from_flags(
    settings_class: type[Settings], leaves: Mapping[FieldPath, _Leaf], argv: Sequence[str]
) -> dict[FieldPath, _Given]:
    parser = _Parser(
        prog=f"anabranch-{settings_class.service}",
        description=textwrap.dedent(settings_class.__doc__ or ""),
        epilog=(
            f"Each flag can also stand in the environment as {environment_prefix('<service>')}"
            f"<NAME> (shown in brackets) or in a TOML file. Flags win over the environment, the "
            "environment over the file."
        ).replace("<SERVICE>", settings_class.service.upper().replace("-", "_")),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for leaf in leaves.values():
        switch = leaf.info.annotation is bool  # which the flag alone turns on
        parser.add_argument(
            leaf.flag,
            dest=".".join(leaf.path),
            metavar=leaf.path[-1].upper(),
            help=_help(leaf, settings_class.service),
            nargs="?" if switch else None,
            const="true" if switch else None,
        )
    found: dict[FieldPath, _Given] = {}
    for name, text in vars(parser.parse_args(list(argv))).items():
        if text is None:
            continue
        path = tuple(name.split("."))
        flag = leaves[path].flag if path in leaves else "--config"
        found[path] = _Given(_parsed(text, leaves.get(path)), f"flag {flag}")
    return found


def _help(leaf: _Leaf, service: str) -> str:
    default = leaf.info.get_default(call_default_factory=True, validated_data={})
    shown = "required" if default is PydanticUndefined else f"default {default!s}"
    if default == "" or default is None:
        shown = "default none"
    text = f"{leaf.info.description or ''} ({shown}) [{leaf.variable(service)}]"
    return text.replace("%", "%%")


def _from_environment(
    settings_class: type[Settings],
    leaves: Mapping[FieldPath, _Leaf],
    environment: Mapping[str, str],
) -> tuple[dict[FieldPath, _Given], list[str]]:
    prefix = environment_prefix(settings_class.service)
    known = {leaf.variable(settings_class.service): leaf for leaf in leaves.values()}
    found: dict[FieldPath, _Given] = {}
    problems: list[str] = []
    for variable, text in environment.items():
        if not variable.startswith(prefix):
            continue
        origin = f"environment variable {variable}"
        if variable == prefix + CONFIG.upper():
            found[(CONFIG,)] = _Given(text, origin)
        elif variable in known:
            leaf = known[variable]
            found[leaf.path] = _Given(_parsed(text, leaf), origin)
        else:
            problems.append(f"{origin}: there is no such setting (see --help)")
    return found, problems


def _from_file(path: Path, settings_class: type[Settings]) -> dict[FieldPath, _Given]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError([f"file {path}: {error.strerror or error}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"file {path}: not TOML: {error}"]) from error
    return dict(_flat(content, settings_class, f"file {path}"))


def _flat(
    content: Mapping[str, Any], model: type[BaseModel], origin: str, above: FieldPath = ()
) -> Iterator[tuple[FieldPath, _Given]]:
    for name, value in content.items():
        info = model.model_fields.get(name)
        group = _group(info.annotation) if info is not None else None
        if group is not None and isinstance(value, dict):
            yield from _flat(value, group, origin, (*above, name))
        else:
            yield (*above, name), _Given(value, origin)


def _parsed(text: str, leaf: _Leaf | None) -> Any:
    if leaf is not None and leaf.takes_list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _nested(given: Mapping[FieldPath, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, one in given.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = one.value
    return tree


def _problem(
    detail: Any,
    given: Mapping[FieldPath, _Given],
    leaves: Mapping[FieldPath, _Leaf],
    settings_class: type[Settings],
) -> str:
    expected = str(detail["msg"]).removeprefix("Value error, ")
    location = tuple(str(part) for part in detail["loc"])
    if not location:  # a rule over several fields
        return expected
    # A wrong item of a list is reported below its field.
    path = location
    while path and path not in leaves and path not in given:
        path = path[:-1]
    path = path or location
    name = ".".join(path)
    origin = given[path].origin if path in given else "default"
    if detail["type"] == "extra_forbidden":
        return f"{origin}: there is no setting {name!r} (see --help)"
    flag = leaves[path].flag if path in leaves else "--" + name
    if detail["type"] == "missing":
        variable = environment_prefix(settings_class.service) + NESTING.join(path).upper()
        return f"{name} is required: give {flag} or {variable}"
    expected = expected[:1].lower() + expected[1:]
    return f"{name} = {detail['input']!r} ({origin}): {expected}"
