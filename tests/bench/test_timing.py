"""Rounds, rotation, regimes and the stopping rule, on made-up times."""

from __future__ import annotations

import random

import pytest

from kvperf.bench.timing import LEAST_ROUNDS, STREAM_CALLS, Contestant, is_cold, measure, sets_for
from tests.bench.metronome import L2_BYTES, Metronome


def contestant(name: str, regime: str = "cold", calls: int = 3, set_bytes: int = 1 << 20) -> Contestant:
    return Contestant(name, regime, [_named(f"{name} {i}") for i in range(calls)], set_bytes)  # type: ignore[arg-type]


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


def test_rotation_exceeds_four_times_the_l2() -> None:
    for set_bytes in (1, 1000, L2_BYTES, 10 * L2_BYTES):
        count = sets_for("cold", set_bytes, L2_BYTES)
        assert count >= 2
        assert count == 4096 or is_cold(contestant("x", calls=count, set_bytes=set_bytes), L2_BYTES)
    assert sets_for("warm", 1000, L2_BYTES) == 1
    assert not is_cold(contestant("x", calls=2, set_bytes=L2_BYTES), L2_BYTES)


def test_every_round_samples_everyone_once_and_goes_through_the_sets() -> None:
    rig = Metronome(steady(1e-5))
    found = measure(rig, [contestant("a"), contestant("b")], budget_s=1, seed=3)
    assert {len(r.samples.seconds) for r in found.values()} == {LEAST_ROUNDS}
    names = [call.__name__ for call in rig.sampled]
    assert [name for name in names if name.startswith("a")][:4] == ["a 0", "a 1", "a 2", "a 0"]
    rounds = [{name[0] for name in names[i : i + 2]} for i in range(0, len(names), 2)]
    assert all(one == {"a", "b"} for one in rounds)
    orders = {tuple(name[0] for name in names[i : i + 2]) for i in range(2, len(names), 2)}
    assert len(orders) == 2  # not always the same first


def test_it_stops_when_the_median_is_known_and_says_so() -> None:
    found = measure(Metronome(steady(1e-5)), [contestant("a")], budget_s=60, seed=0)
    assert found["a"].statistics.stopped == "confident"
    assert found["a"].statistics.count == LEAST_ROUNDS


def test_it_goes_on_while_the_median_is_not_known() -> None:
    found = measure(Metronome(noisy(1, 0.05)), [contestant("a")], budget_s=60, seed=0)
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
    one = Contestant("a", "warm", [lambda: ran.append(1)], 1000)
    measure(Metronome(steady(1e-6)), [one], budget_s=1, seed=0)
    assert len(ran) == LEAST_ROUNDS + 1


def test_conditions_are_kept_with_each_sample() -> None:
    found = measure(Metronome(steady(1e-5)), [contestant("a")], budget_s=1, seed=0)["a"].samples
    assert found.memory_clock_hz == (2619e6,) * LEAST_ROUNDS
    assert found.sm_clock_hz == (1.7e9,) * LEAST_ROUNDS
    assert found.throttled == ()  # nobody was throttled, in any sample
