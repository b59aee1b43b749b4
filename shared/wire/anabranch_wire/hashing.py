"""The hashes that clients, controller and segment stores must agree on.

All are MurmurHash3 x64 128 as Guava has it: both halves start with the 32-bit seed, extended by
its sign to 64 bits. `mmh3` takes unsigned seeds only and does not extend them, so the one
negative seed in use is computed here. Seeds are Java's `String.hashCode()` of a name. Text is
hashed as UTF-16, two bytes per unit, low byte first.

For routing keys outside ASCII the Rust client deviates (it pads the text with zeros to twice its
UTF-8 length) and sends them to other segments than Java. Java's way is the specification and
the one here.
"""

from typing import Final
from uuid import UUID

import mmh3

from anabranch_wire.names import ContainerId, primary_name

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_C1: Final = 0x87C3_7B91_1142_53D5
_C2: Final = 0x4CF5_AD43_2745_937F


def java_string_hash(text: str) -> int:
    """Java's `String.hashCode()`, signed 32-bit."""
    result = 0
    units = text.encode("utf-16-le", "surrogatepass")
    for index in range(0, len(units), 2):
        result = (result * 31 + int.from_bytes(units[index : index + 2], "little")) & 0xFFFF_FFFF
    return result - 2**32 if result >= 2**31 else result


ROUTING_SEED: Final = java_string_hash("EventRouter")
TABLE_KEY_SEED: Final = java_string_hash("KeyValueTableRouter")
CONTAINER_SEED: Final = java_string_hash("SegmentToContainerMapper")
ATTRIBUTE_SEED: Final = java_string_hash("SegmentAttribute")


def murmur3_128(data: bytes, seed: int) -> tuple[int, int]:
    """Both halves, unsigned. `seed` is a signed 32-bit number."""
    if seed >= 0:
        digest = mmh3.mmh3_x64_128_digest(data, seed)
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return _murmur3_128(data, seed)


def _murmur3_128(data: bytes, seed: int) -> tuple[int, int]:
    h1 = h2 = seed & _MASK
    whole = len(data) - len(data) % 16
    for at in range(0, whole, 16):
        h1 ^= _mix_first(int.from_bytes(data[at : at + 8], "little"))
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DC_E729) & _MASK
        h2 ^= _mix_second(int.from_bytes(data[at + 8 : at + 16], "little"))
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x3849_5AB5) & _MASK
    h1 ^= _mix_first(int.from_bytes(data[whole : whole + 8], "little"))
    h2 ^= _mix_second(int.from_bytes(data[whole + 8 :], "little"))

    h1, h2 = h1 ^ len(data), h2 ^ len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _finish(h1), _finish(h2)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return h1, h2


def _rotate(number: int, bits: int) -> int:
    return (number << bits | number >> 64 - bits) & _MASK


def _mix_first(block: int) -> int:
    return _rotate(block * _C1 & _MASK, 31) * _C2 & _MASK


def _mix_second(block: int) -> int:
    return _rotate(block * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(number: int) -> int:
    number = (number ^ number >> 33) * 0xFF51_AFD7_ED55_8CCD & _MASK
    number = (number ^ number >> 33) * 0xC4CE_B9FE_1A85_EC53 & _MASK
    return number ^ number >> 33


def _utf_16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _fraction(first_half: int) -> float:
    """The upper 52 bits as a number in [0, 1)."""
    return (first_half >> 12) / 2**52


def routing_key_position(routing_key: str) -> float:
    """Where the events of a routing key go, in [0, 1); `keyrange.segment_for` says to which."""
    return _fraction(murmur3_128(_utf_16(routing_key), ROUTING_SEED)[0])


def table_key_position(primary_key: bytes) -> float:
    """The same for the primary part of a key of a key-value table."""
    return _fraction(murmur3_128(primary_key, TABLE_KEY_SEED)[0])


def client_attribute_id(name: str) -> UUID:
    """The id of a segment attribute that Java clients know by name."""
    first, second = murmur3_128(_utf_16(name), ATTRIBUTE_SEED)
    return UUID(bytes=first.to_bytes(8, "little") + second.to_bytes(8, "little"))


def container_of(segment: str, container_count: int) -> ContainerId:
    """The container of a segment, the same for all that `primary_name` treats alike."""
    first, _ = murmur3_128(_utf_16(primary_name(segment)), CONTAINER_SEED)
    return ContainerId(consistent_hash(first, container_count))


def consistent_hash(state: int, bucket_count: int) -> int:
    """Guava's `consistentHash`: of n buckets one n-th moves when the n-th is added."""
    assert bucket_count > 0, "there is no bucket to choose"
    candidate = 0
    while True:
        state = (state * 2_862_933_555_777_941_757 + 1) & _MASK
        following = int((candidate + 1) / (((state >> 33) + 1) / 2**31))
        if not 0 <= following < bucket_count:
            return candidate
        candidate = following
