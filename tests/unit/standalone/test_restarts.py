"""The rule of restarts: at once, then with growing pauses, then never."""

from __future__ import annotations

from anabranch_standalone.restarts import DEATHS_MAX, PAUSE_MAX_S, GiveUp, Restart, decide


def test_the_first_death_is_answered_at_once() -> None:
    """Clients would wait for a pause that helps nobody."""
    assert decide([100.0], -9, was_ready=True) == Restart(0.0)


def test_further_deaths_wait_longer_each_time_up_to_a_bound() -> None:
    """A child that dies in its start would burn a core."""
    pauses = []
    for count in range(1, DEATHS_MAX + 1):
        decision = decide([float(i) for i in range(count)], 1, was_ready=True)
        assert isinstance(decision, Restart)
        pauses.append(decision.pause_s)
    assert pauses == sorted(pauses)
    assert pauses[1:4] == [0.1, 0.2, 0.4]
    assert max(pauses) <= PAUSE_MAX_S


def test_old_deaths_are_forgotten() -> None:
    """A cluster that runs for months would give up on its ninth crash ever."""
    assert decide([float(i * 61) for i in range(20)], 1, was_ready=True) == Restart(0.0)


def test_too_many_deaths_end_it() -> None:
    """A broken child would be restarted for ever, unseen."""
    decision = decide([float(i) for i in range(DEATHS_MAX + 1)], 1, was_ready=True)
    assert decision == GiveUp("it died 9 times within 60 s")


def test_before_the_cluster_was_ready_three_deaths_are_enough() -> None:
    """Somebody at a terminal would wait a quarter of a minute for a report."""
    assert isinstance(decide([1.0, 2.0], 1, was_ready=False), Restart)
    assert isinstance(decide([1.0, 2.0, 3.0], 1, was_ready=False), GiveUp)


def test_wrong_settings_are_not_tried_again() -> None:
    """Exit code 2 means that nothing changes by trying."""
    assert decide([1.0], 2, was_ready=True) == GiveUp("it refuses its settings")
