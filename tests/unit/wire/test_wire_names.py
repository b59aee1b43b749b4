"""Names of segments, as the controller, the store and the clients must agree on them."""

from uuid import UUID

import pytest
from anabranch_wire import names
from anabranch_wire.names import Epoch, InvalidName, SegmentId, SegmentNumber, TransactionId
from hypothesis import given
from hypothesis import strategies as st

TRANSACTION = TransactionId(UUID("00000000-0000-0001-0000-000000000002"))
NUMBERS = st.integers(0, names.NUMBER_MAX)


@given(NUMBERS, NUMBERS)
def test_segment_id_round_trip(epoch: int, number: int) -> None:
    """Clients keep ids in checkpoints and build names from them."""
    identity = names.segment_id(Epoch(epoch), SegmentNumber(number))
    assert identity == epoch << 32 | number
    assert (names.epoch_of(identity), names.number_of(identity)) == (epoch, number)
    parsed = names.parse_segment_name(names.segment_name("scope", "stream", identity))
    assert parsed == ("scope", "stream", number, epoch)
    assert parsed.segment_id == identity


def test_segment_name() -> None:
    """The scheme is fixed: the clients build these names themselves."""
    assert names.segment_name("s", "t", SegmentId(3 << 32 | 7)) == "s/t/7.#epoch.3"
    assert names.table_segment_name("s", "k", SegmentId(0)) == "s/k_kvtable/0.#epoch.0"
    assert names.scoped_stream_name("s", "t") == "s/t"
    assert names.index_segment_name("s/t/7.#epoch.3") == "s/t/7.#epoch.3#index"
    assert names.reader_group_stream_name("group") == "_RGgroup"
    assert names.mark_stream_name("stream") == "_MARKstream"


def test_transaction_segment_hangs_behind_the_epoch_of_its_transaction() -> None:
    """A client could not find the segment of its transaction after a scale."""
    name = names.generalised_parent_name("s", "t", SegmentNumber(4), TRANSACTION)
    assert name == "s/t/4.#epoch.0"
    later = TransactionId(UUID(int=(5 << 96) | 9))
    assert names.transaction_epoch(later) == 5
    assert names.generalised_parent_name("s", "t", SegmentNumber(4), later) == "s/t/4.#epoch.5"
    assert (
        names.transaction_segment_name(name, TRANSACTION)
        == "s/t/4.#epoch.0#transaction.00000000000000010000000000000002"
    )


def test_transient_segment_name() -> None:
    """The client learns it from the reply and appends to it."""
    name = names.transient_segment_name("s/t/0.#epoch.0", UUID(int=1), UUID(int=2))
    assert name == f"s/t/0.#epoch.0#transient.{1:032x}.{2:032x}"
    assert names.is_transient_segment(name)
    assert not names.is_transaction_segment(name)
    assert names.parent_name(name) == "s/t/0.#epoch.0"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("s/t/0", ("s", "t", 0, 0)),
        ("t/5", ("", "t", 5, 0)),
        ("t/5.#epoch.2", ("", "t", 5, 2)),
        ("s/t/0.#epoch.0#index", ("s", "t", 0, 0)),
        ("s/t/9.#epoch.1#transaction." + "0" * 32, ("s", "t", 9, 1)),
        ("_system/_requeststream/0.#epoch.0", ("_system", "_requeststream", 0, 0)),
        ("s/k_kvtable/0.#epoch.0", ("s", "k_kvtable", 0, 0)),
    ],
)
def test_forms_that_are_understood(name: str, parsed: tuple[str, str, int, int]) -> None:
    """Segments of older deployments and all that belongs to a segment."""
    assert names.parse_segment_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "",
        "s",
        "s/t",
        "/t/0",
        "s//0",
        "s/t/x.#epoch.0",
        "s/t/0.#epoch.x",
        "s/t/-1.#epoch.0",
        "s/t/2147483648.#epoch.0",
        "s/t/0.#epoch.2147483648",
        "a/s/t/0.#epoch.0",
        "_system/_tables/a/b/c",
        "s/t/٣.#epoch.0",
    ],
)
def test_what_is_no_stream_segment(name: str) -> None:
    """A made-up number would address somebody else's segment."""
    with pytest.raises(InvalidName) as caught:
        names.parse_segment_name(name)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("name", "primary"),
    [
        ("scope/stream/0.#epoch.3", "scope/stream/0"),
        ("scope/stream/0.#epoch.3#transaction." + "a" * 32, "scope/stream/0"),
        ("scope/stream/0.#epoch.3#transient." + "a" * 32 + "." + "b" * 32, "scope/stream/0"),
        ("scope/stream/0.#epoch.0#index", "scope/stream/0"),
        ("scope/stream/0.#epoch.3#transaction.short", "scope/stream/0"),
        ("a/b/0#transaction.short", "a/b/0#transaction.short"),
        (
            "a/b/0.#epoch.1#transaction." + "1" * 32 + "#transient." + "2" * 32,
            "a/b/0",
        ),
        ("_system/_tables/counter", "_system/_tables/counter"),
    ],
)
def test_primary_name(name: str, primary: str) -> None:
    """A transaction in another container than its parent could never be merged."""
    assert names.primary_name(name) == primary


def test_transaction_of() -> None:
    """A commit would merge something that is no transaction."""
    name = names.transaction_segment_name("s/t/0.#epoch.0", TRANSACTION)
    assert names.transaction_of(name) == TRANSACTION
    assert names.is_transaction_segment(name)
    for other in ("s/t/0.#epoch.0", name[:-1], name + "0", "s/t/0#transaction." + "g" * 32):
        assert names.transaction_of(other) is None


def test_internal_and_index_names() -> None:
    """Users would see the service's own streams in their lists."""
    assert names.is_internal("_RGgroup")
    assert not names.is_internal("group_")
    assert names.is_index_segment("s/t/0.#epoch.0#index")
    assert not names.is_index_segment("s/t/0.#epoch.0")


@pytest.mark.parametrize("name", ["a", "A-b.9", "x" * 250, "..."])
def test_names_that_users_may_give(name: str) -> None:
    """A stream that Pravega accepts would be refused."""
    assert names.check_given_name("stream", name) == name
    assert names.check_stream_name(name) == name
    assert names.check_scope_name("_" + name) == "_" + name


@pytest.mark.parametrize("name", ["", "_a", "a_b", "a/b", "é", "a b", "a\n", "x" * 251])
def test_names_that_users_may_not_give(name: str) -> None:
    """A name with a slash would turn into another stream's segment."""
    with pytest.raises(InvalidName, match="reader group"):
        names.check_given_name("reader group", name)


@pytest.mark.parametrize("name", ["", "_", "__a", "a_", "a/b", "_" + "x" * 255])
def test_names_that_nobody_may_give(name: str) -> None:
    """The same for the internal names that the controller accepts from clients."""
    with pytest.raises(InvalidName):
        names.check_stream_name(name)
    with pytest.raises(InvalidName):
        names.check_scope_name(name)
