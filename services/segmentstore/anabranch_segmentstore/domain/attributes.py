"""A segment's attributes: 64-bit numbers under 128-bit ids, and the rules for changing them.

Ids are kept as 16 bytes, the form in which the log and the snapshots hold them. The ids that
start with 0x8000000000000000 are the *core* attributes of the protocol (wire-protocol.md 6.1);
a writer's last event number is an attribute too, under the writer's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from anabranch_segmentstore.api import NULL_ATTRIBUTE, AttributeUpdate
from anabranch_segmentstore.domain.errors import AttributeConditionFailed, Misuse

AttributeId = bytes
CORE_PREFIX: Final = bytes.fromhex("8000000000000000")


def core(number: int) -> AttributeId:
    return CORE_PREFIX + number.to_bytes(8, "big")


CREATION_TIME: Final = core(0)
EVENT_COUNT: Final = core(1)

# Update types (wire-protocol.md 6.3).
IF_UNSET: Final = 0
REPLACE: Final = 1
IF_GREATER: Final = 2
ACCUMULATE: Final = 3
IF_EQUALS: Final = 4


def evaluate(
    segment: str, current: Mapping[AttributeId, int], updates: Iterable[AttributeUpdate]
) -> dict[AttributeId, int]:
    """The values after `updates`, in order; NULL_ATTRIBUTE removes.

    Raises AttributeConditionFailed when one of them does not apply; then none does.
    """
    changed: dict[AttributeId, int] = {}
    for update in updates:
        attribute = update.attribute.bytes
        value = changed.get(attribute, current.get(attribute, NULL_ATTRIBUTE))
        changed[attribute] = _evaluate_one(segment, attribute, value, update)
    return changed


def _evaluate_one(segment: str, attribute: AttributeId, value: int, update: AttributeUpdate) -> int:
    is_set = value != NULL_ATTRIBUTE
    if update.update_type == REPLACE:
        holds = True
    elif update.update_type == ACCUMULATE:
        return _wrap(value + update.value) if is_set else update.value
    elif update.update_type == IF_UNSET:
        holds = not is_set
    elif update.update_type == IF_GREATER:
        holds = not is_set or update.value > value
    elif update.update_type == IF_EQUALS:
        # A core attribute without a value takes none this way (wire-protocol.md 4.12).
        holds = value == update.expected and (is_set or not attribute.startswith(CORE_PREFIX))
    else:
        raise Misuse(segment, f"unknown attribute update type {update.update_type}")
    if not holds:
        raise AttributeConditionFailed(segment, str(UUID(bytes=attribute)))
    return update.value


def _wrap(value: int) -> int:
    """Values are signed 64-bit numbers, and sums of them go round as Java's do."""
    return (value + 2**63) % 2**64 - 2**63


def assign(attributes: dict[AttributeId, int], changed: Mapping[AttributeId, int]) -> None:
    """Put evaluated values in place."""
    for attribute, value in changed.items():
        if value == NULL_ATTRIBUTE:
            attributes.pop(attribute, None)
        else:
            attributes[attribute] = value
