"""Settings of one stream that Pravega's policy has no field for, given as tags.

    anabranch.scale.<name>=<value>      anabranch.scale.window=2500ms

A value is a duration: a number and one of ms, s, m, h. What cannot be read, or lies outside
the bounds below, becomes a warning that names the tag, and the default stays in force: a typo
in a tag must not stop a stream from scaling.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

PREFIX: Final = "anabranch.scale."

DURATION_S_MIN: Final = 0.1  # below this every report would be a decision of its own
DURATION_S_MAX: Final = 7 * 86_400.0

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


class ScaleSettings(msgspec.Struct, frozen=True):
    """How long a load must last, and how old a segment must be, before it is scaled.

    Splits look at the newest fifth, half and whole of `window_s` (see `decide`); a merge needs
    a load that is low over the whole of `merge_window_s`. The cool-downs are the least age of
    a segment that is split or merged.
    """

    window_s: float = 10.0
    cooldown_s: float = 5.0
    merge_window_s: float = 120.0
    merge_cooldown_s: float = 120.0


_MEMBERS: Final = {
    "window": "window_s",
    "cooldown": "cooldown_s",
    "merge-window": "merge_window_s",
    "merge-cooldown": "merge_cooldown_s",
}
assert set(_MEMBERS.values()) == set(ScaleSettings.__struct_fields__), "a setting without a tag"


class BadTag(NamedTuple):
    """A tag that is not used, and why, in words for its author."""

    tag: str
    problem: str


class InvalidDuration(ValueError):
    """Text that is no duration within the bounds; the message says what would be one."""


def parse_duration_s(text: str) -> float:
    """Seconds of "1500ms", "2s", "10m", "1.5h". Raises InvalidDuration."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidDuration(f"{text!r} is not a duration such as 1500ms, 2s, 10m or 1h")
    seconds = float(found[1]) * _UNIT_S[found[2]]
    if not DURATION_S_MIN <= seconds <= DURATION_S_MAX:
        raise InvalidDuration(
            f"{text!r} is outside {DURATION_S_MIN:g}s to {DURATION_S_MAX / 3600:g}h"
        )
    return seconds


def settings_from_tags(
    tags: tuple[str, ...], defaults: ScaleSettings
) -> tuple[ScaleSettings, list[BadTag]]:
    """The settings in force for a stream with these tags, and the tags that are of no use."""
    chosen: dict[str, float] = {}
    bad: list[BadTag] = []
    for tag in tags:
        if not tag.startswith(PREFIX):
            continue
        name, _, value = tag.removeprefix(PREFIX).partition("=")
        if name not in _MEMBERS:
            bad.append(BadTag(tag, f"no such setting; there are {', '.join(sorted(_MEMBERS))}"))
            continue
        try:
            seconds = parse_duration_s(value)
        except InvalidDuration as error:
            default = getattr(defaults, _MEMBERS[name])
            bad.append(BadTag(tag, f"{error}; the default of {default:g}s is used"))
        else:
            chosen[_MEMBERS[name]] = seconds
    return msgspec.structs.replace(defaults, **chosen), bad
