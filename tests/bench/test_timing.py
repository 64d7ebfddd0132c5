"""Rounds, rotation, regimes and the stopping rule, on made-up times."""

from __future__ import annotations

import itertools
import random

import pytest

from kvperf.bench.timing import (
    LEAST_ROUNDS,
    MOST_SETS,
    STREAM_CALLS,
    Contestant,
    Rotation,
    alone,
    is_cold,
    measure,
    sets_for,
)
from tests.bench.metronome import L2_BYTES, Metronome


def contestant(name: str, regime: str = "cold", calls: int = 3, set_bytes: int = 1 << 20) -> Contestant:
    return alone(name, regime, [_named(f"{name} {i}") for i in range(calls)], set_bytes)  # type: ignore[arg-type]


def _named(name: str):  # type: ignore[no-untyped-def]
    def call() -> None:
        return None

    call.__name__ = name
    return call


def steady(seconds: float):  # type: ignore[no-untyped-def]
    return lambda call: seconds


def noisy(seed: int, spread: float):  # type: ignore[no-untyped-def]
    source = random.Random(seed)
    return lambda call: 1e-5 * (1 + spread * source.random())


@pytest.mark.parametrize("set_bytes", [1, 1000, L2_BYTES // 100, L2_BYTES, 10 * L2_BYTES])
def test_rotation_exceeds_four_times_the_l2(set_bytes: int) -> None:
    count = sets_for("cold", set_bytes, L2_BYTES)
    assert count <= MOST_SETS
    if count == 1:  # too many would be needed: the L2 is flushed instead
        assert set_bytes * MOST_SETS < 4 * L2_BYTES
        return
    one = contestant("x", calls=count, set_bytes=set_bytes)
    found = measure(Metronome(steady(1e-5)), [one], budget_s=0, seed=0)["x"]
    assert found.reuse_bytes is None or found.reuse_bytes >= 4 * L2_BYTES
    assert is_cold(one, found, L2_BYTES)


def test_a_warm_call_has_one_set() -> None:
    assert sets_for("warm", 1000, L2_BYTES) == 1


def test_contestants_that_share_buffers_take_turns() -> None:
    """Whoever comes next takes the next set: otherwise each would meet what the one before has just read."""
    shared = Rotation(5, L2_BYTES)
    contestants = [
        Contestant(name, "cold", [_named(f"{name} {i}") for i in range(5)], shared) for name in ("a", "b", "c")
    ]
    rig = Metronome(steady(1e-5))
    found = measure(rig, contestants, budget_s=0, seed=0)
    sets = [int(call.__name__.split()[1]) for call in rig.sampled]
    assert all(later == (earlier + 1) % 5 for earlier, later in itertools.pairwise(sets))
    assert all(r.reuse_bytes is not None and r.reuse_bytes >= 4 * L2_BYTES for r in found.values())
    assert all(is_cold(c, found[c.name], L2_BYTES) for c in contestants)


def test_too_few_buffers_are_not_cold() -> None:
    one = contestant("x", calls=2, set_bytes=L2_BYTES)
    found = measure(Metronome(steady(1e-5)), [one], budget_s=0, seed=0)["x"]
    assert found.reuse_bytes == L2_BYTES
    assert not is_cold(one, found, L2_BYTES)
    one.before = lambda: None
    assert is_cold(one, found, L2_BYTES)


def test_who_fails_is_left_out_and_the_others_go_on() -> None:
    def broken() -> None:
        raise RuntimeError("no kernel image\nand a long story")

    rig = Metronome(lambda call: (call(), 1e-5)[1])  # type: ignore[func-returns-value]
    bad = alone("bad", "warm", [broken])
    found = measure(rig, [bad, contestant("good", "warm")], budget_s=0, seed=0)
    assert found["bad"].failure == "RuntimeError: no kernel image"
    assert found["bad"].statistics is None and found["bad"].samples.seconds == ()
    assert found["good"].statistics is not None and found["good"].statistics.count == LEAST_ROUNDS


def test_a_reading_that_is_no_time_fails_its_contestant_only() -> None:
    times = {"bad": 0.0, "good": 1e-5}
    rig = Metronome(lambda call: times[call.__name__.split()[0]])
    found = measure(rig, [contestant("bad"), contestant("good")], budget_s=0, seed=0)
    assert found["bad"].failure is not None
    assert found["good"].failure is None


def test_stopping_keeps_what_was_read() -> None:
    rounds: list[int] = []
    found = measure(
        Metronome(noisy(1, 5)), [contestant("a")], budget_s=60, seed=0, stopped=lambda: len(rounds) >= 13,
        progress=lambda text: rounds.append(1),
    )  # fmt: skip
    assert found["a"].statistics is not None and found["a"].statistics.count == 13


def test_every_round_samples_everyone_once_and_goes_through_the_sets() -> None:
    rig = Metronome(steady(1e-5))
    found = measure(rig, [contestant("a"), contestant("b")], budget_s=1, seed=3)
    assert {len(r.samples.seconds) for r in found.values()} == {LEAST_ROUNDS}
    names = [call.__name__ for call in rig.sampled]
    assert [name for name in names if name.startswith("a")][:4] == ["a 0", "a 1", "a 2", "a 0"]  # the first prepares
    rounds = [{name[0] for name in names[i : i + 2]} for i in range(0, len(names), 2)]
    assert all(one == {"a", "b"} for one in rounds)
    orders = {tuple(name[0] for name in names[i : i + 2]) for i in range(2, len(names), 2)}
    assert len(orders) == 2  # not always the same first


def test_it_stops_when_the_median_is_known_and_says_so() -> None:
    found = measure(Metronome(steady(1e-5)), [contestant("a")], budget_s=60, seed=0)
    assert found["a"].statistics.stopped == "confident"
    assert found["a"].statistics.count == LEAST_ROUNDS


def test_it_goes_on_while_the_median_is_not_known() -> None:
    found = measure(Metronome(noisy(1, 0.02)), [contestant("a")], budget_s=60, seed=0)
    statistics = found["a"].statistics
    assert statistics.stopped == "confident"
    assert statistics.count > LEAST_ROUNDS
    assert (statistics.high_s - statistics.low_s) / statistics.median_s < 0.005


def test_a_spent_budget_is_said() -> None:
    found = measure(Metronome(noisy(1, 5)), [contestant("a")], budget_s=0, seed=0)
    assert found["a"].statistics.stopped == "budget"
    assert found["a"].statistics.count == LEAST_ROUNDS


def test_a_stream_is_one_graph_over_the_rotation_and_its_time_is_per_call() -> None:
    rig = Metronome(steady(640e-6))
    short, long = contestant("short", "stream", calls=2), contestant("long", "stream", calls=100)
    found = measure(rig, [short, long], budget_s=1, seed=0)
    assert found["short"].statistics.median_s == pytest.approx(640e-6 / STREAM_CALLS)
    assert found["long"].statistics.median_s == pytest.approx(640e-6 / 100)


def test_a_warm_call_runs_once_before_it_is_read() -> None:
    ran = []
    one = alone("a", "warm", [lambda: ran.append(1)], 1000)
    measure(Metronome(steady(1e-6)), [one], budget_s=1, seed=0)
    assert len(ran) == LEAST_ROUNDS + 1  # and once before the first round


def test_conditions_are_kept_with_each_sample() -> None:
    found = measure(Metronome(steady(1e-5)), [contestant("a")], budget_s=1, seed=0)["a"].samples
    assert found.memory_clock_hz == (2619e6,) * LEAST_ROUNDS
    assert found.sm_clock_hz == (1.7e9,) * LEAST_ROUNDS
    assert found.throttled == ()  # nobody was throttled, in any sample
