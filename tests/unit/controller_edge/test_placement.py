"""Which store holds which container: the rule, and the instance that applies it."""

from __future__ import annotations

from collections import Counter

from anabranch_controller.placement import place
from hypothesis import given
from hypothesis import strategies as st

STORES = st.sets(st.sampled_from([f"store-{n}" for n in range(8)]))
PREVIOUS = st.dictionaries(st.integers(0, 30), st.sampled_from([f"store-{n}" for n in range(8)]))


def test_containers_of_a_fresh_cluster_are_spread_evenly() -> None:
    """One store would carry the whole load while the others idle."""
    placed = place({}, {"a", "b", "c"}, 8)
    assert sorted(placed) == list(range(8))
    assert sorted(Counter(placed.values()).values()) == [2, 3, 3]


def test_nothing_moves_while_the_spread_is_even() -> None:
    """Each needless move makes a container's clients wait for a take-over."""
    before = {0: "b", 1: "a", 2: "b", 3: "a"}
    assert place(before, {"a", "b"}, 4) == before


def test_containers_of_a_lost_store_go_to_the_others_and_no_other_moves() -> None:
    """A store that dies must cost only its own containers a take-over."""
    before = {0: "a", 1: "b", 2: "c", 3: "a", 4: "b", 5: "c"}
    after = place(before, {"a", "b"}, 6)
    assert {n: s for n, s in after.items() if before[n] != "c"} == {0: "a", 1: "b", 3: "a", 4: "b"}
    assert Counter(after.values()) == {"a": 3, "b": 3}


def test_without_stores_nothing_is_placed() -> None:
    """Assignments to nobody would hide that every store is away."""
    assert place({0: "a"}, set(), 4) == {}


@given(previous=PREVIOUS, stores=STORES.filter(bool), count=st.integers(1, 31))
def test_spread_is_even_and_moves_are_as_few_as_it_allows(
    previous: dict[int, str], stores: set[str], count: int
) -> None:
    """An uneven or restless placement overloads a store or keeps containers moving for ever."""
    placed = place(previous, stores, count)
    held = Counter(placed.values())
    counts = [held[store] for store in stores]
    assert sorted(placed) == list(range(count))
    assert max(counts) - min(counts) <= 1

    kept_before = Counter(s for n, s in previous.items() if n < count and s in stores)
    share, larger = divmod(count, len(stores))
    ranked = sorted((kept_before[store] for store in stores), reverse=True)
    fewest = sum(max(0, n - share - (index < larger)) for index, n in enumerate(ranked))
    moved = sum(placed[n] != s for n, s in previous.items() if n < count and s in stores)
    assert moved == fewest
    assert place(placed, stores, count) == placed
