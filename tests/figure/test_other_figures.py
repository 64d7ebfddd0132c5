"""Sweep, memory, ladder, gap and accuracy as artists and data."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import kvperf
from kvperf.bench.record import Case, Record, Work
from kvperf.bench.statistics import summary
from kvperf.crossings import filling, sweep
from kvperf.errors import KvperfError
from kvperf.render.figure import accuracy, gap, ladder, memory
from kvperf.render.figure.sweep import sweep as draw_sweep
from kvperf.render.figure.theme import DARK, LIGHT
from tests.bench.made_up import ENVIRONMENT, made_up, made_up_case, made_up_record
from tests.figure.drawn import named, outside, overlapping, texts


def said(figure: Any) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def clean(figure: Any) -> bool:
    return overlapping(figure) == [] and outside(figure) == []


@pytest.mark.parametrize("show", ["time", "tokens", "bytes"])
def test_a_sweep_draws_the_records(show: Any) -> None:
    found = sweep("batch", seq=256)
    figure = draw_sweep(found, show, LIGHT)
    first = {"time": "bound", "tokens": "all sequences", "bytes": "must cross HBM"}[show]
    (curve,) = named(figure, f"curve {first}")
    field = {"time": "bound_s", "tokens": "tokens_per_s_bound", "bytes": "compulsory_bytes"}[show]
    assert list(curve.get_ydata()) == [getattr(record.step, field) for record in found.records]
    assert list(curve.get_xdata()) == list(found.sizes)
    assert clean(figure)


@pytest.mark.parametrize("show", ["time", "tokens"])
def test_a_prediction_lies_in_its_band_and_beyond_the_bound(show: Any) -> None:
    found = sweep("batch", seq=256)
    figure = draw_sweep(found, show, LIGHT)
    (curve,), (band,) = named(figure, "curve predicted"), named(figure, "band predicted")
    field = {"time": "predicted_s", "tokens": "tokens_per_s_predicted"}[show]
    assert list(curve.get_ydata()) == [getattr(record.step, field) for record in found.records]
    for size, value in curve.get_xydata():
        ends = [y for x, y in band.get_paths()[0].vertices if x == size]
        assert min(ends) < value < max(ends)
    bound = named(figure, "curve ")[0].get_ydata()
    beyond = [p > b if show == "time" else p < b for p, b in zip(curve.get_ydata(), bound, strict=True)]
    assert all(beyond)
    assert any("constants of h100-sxm/vllm" in text for text in said(figure))


@pytest.mark.parametrize("step", [{"gpu": "mi300x"}, {"stack": "none"}])
def test_without_a_prediction_nothing_of_it_is_drawn(step: dict[str, Any]) -> None:
    record = kvperf.analyze(**step)
    figures = draw_sweep(sweep("batch", **step), "time", LIGHT), gap.step_gap(record, LIGHT)
    for figure in figures:
        assert not named(figure, "curve predicted") + named(figure, "band") + named(figure, "fall predicted")
        why = [text for text in said(figure) if text.startswith("No prediction: ")]
        assert len(why) == len(record.warnings) == ("gpu" in step)
        assert clean(figure)


def test_a_decode_sequence_gets_one_token_a_step_also_beside_a_chunk() -> None:
    found = sweep("batch", phase="mixed", chunk_tokens=512)
    figure = draw_sweep(found, "tokens", LIGHT)
    (curve,) = named(figure, "curve decode sequence")
    assert list(curve.get_ydata()) == [1 / record.step.bound_s for record in found.records]
    assert not named(figure, "curve each sequence")
    assert clean(figure)


@pytest.mark.parametrize(
    ("over", "step"),
    [
        ("seq", {"gpu": "h100", "model": "deepseek-v3", "batch": 16}),
        ("batch", {"gpu": "b200", "model": "qwen3-8b", "seq": 256}),
        ("seq", {"gpu": "l40s", "phase": "prefill"}),
    ],
)
def test_a_crossing_near_the_right_edge_is_named_on_the_paper(over: Any, step: dict[str, Any]) -> None:
    figure = draw_sweep(sweep(over, **step), "time", LIGHT)
    assert {label.get_ha() for label in named(figure, "crossing label")} >= {"right"}
    assert clean(figure)


@pytest.mark.parametrize(
    ("over", "step", "said"),
    [
        ("batch", {"model": "gpt2", "seq": 4096}, ["context 4096 is beyond gpt2's maximum of 1024 tokens"]),
        ("batch", {"tp": 8}, []),
        ("batch", {"gpu": "mi300x"}, []),
        ("batch", {"gpu": "h200", "model": "deepseek-v3"}, ["at batch 1 already, this step does not fit: it needs"]),
        ("batch", {"seq": 131072}, []),
    ],
)
def test_a_sweep_and_the_memory_say_what_the_analyses_warn_of(over: Any, step: dict[str, Any], said: list[str]) -> None:
    figures = draw_sweep(sweep(over, **step), "time", LIGHT), memory.memory(filling(over, **step), LIGHT)
    for figure in figures:
        warned = [text.get_text() for text in named(figure, "warning")]
        found = [text for text in warned if "measured" not in text]  # those of predictions are the sweep's alone
        assert len(found) == len(said) and all(a in b for a, b in zip(said, found, strict=True)), found
        assert clean(figure)


def test_a_sweep_marks_its_crossings_where_they_are() -> None:
    found = sweep("batch", seq=256)
    figure = draw_sweep(found, "time", DARK)
    lines = [line for line in named(figure, "crossing") if hasattr(line, "get_xdata")]
    assert sorted(line.get_xdata()[0] for line in lines) == [crossing.at for crossing in found.crossings]
    assert {"848: the step turns compute-bound", "1662: memory runs out"} <= set(said(figure))
    (shade,) = named(figure, "full")
    assert shade.get_extents().x0 >= figure.axes[0].transData.transform((1662, 1))[0] - 1


def test_curves_differ_in_dash_and_marker() -> None:
    curves = named(draw_sweep(sweep("seq", batch=16), "bytes", LIGHT), "curve ")
    assert len({(c.get_marker(), str(c._dash_pattern)) for c in curves}) == len(curves) == 4


@pytest.mark.parametrize("over", ["batch", "seq"])
def test_memory_stacks_what_the_record_says(over: Any) -> None:
    found = filling(over)
    figure = memory.memory(found, LIGHT)
    for field, name, _ in memory.PARTS:
        heights = [bar.get_height() * 2**30 for bar in named(figure, f"part {name}")]
        assert heights == pytest.approx([getattr(record.memory, field) for record in found.records])
    faint = [bar.get_alpha() < 1 for bar in named(figure, "part weights")]
    assert faint == [not record.memory.fits for record in found.records]
    assert any(text.startswith(f"largest that fits: {found.crossings[0].at} ") for text in said(figure))
    assert clean(figure)


@pytest.mark.parametrize(("gpu", "model"), [("l40s", "glm-4.6"), ("a10", "deepseek-r1"), ("t4", "kimi-k2.5")])
def test_capacity_and_usable_close_together_are_named_apart(gpu: str, model: str) -> None:
    figure = memory.memory(filling("batch", gpu=gpu, model=model), LIGHT)
    usable, capacity = (label.get_text() for label in named(figure, "limit label"))
    assert usable.startswith("usable ") and usable.endswith(" (90%)") and capacity.startswith("capacity ")
    assert clean(figure)


def _reading(name: str, number: int, batch: int) -> Case:
    """A case that agrees with itself, as those of a file must."""
    kv, peak, read = batch * 16.0e6, 3.35e12, 2.9e12
    seconds = made_up(number, 2e-6 + kv / (2.5e12 + 1e10 * number))
    median_s, bound_s = summary(seconds, "confident").median_s, kv / peak
    return made_up_case(
        name,
        seconds,
        shape={"batch": batch, "seq": 4096, "dtype": "bf16"},
        work=Work(compulsory_bytes=kv, kv_bytes=kv),
        bytes_per_s=kv / median_s,
        read_bytes_per_s=read,
        share_of_datasheet=kv / median_s / peak,
        share_of_read=kv / median_s / read,
        bound_s=bound_s,
        gap={"launch": 1e-6, "unexplained": median_s - bound_s - 1e-6},
    )


def ladder_record(**fields: Any) -> Record:
    """Four kernels on three sizes, close to one another."""
    cases = []
    for number, name in enumerate(("three_pass", "split_kv", "flash", "tensor_cores")):
        for batch in (1, 8, 64):
            cases.append(_reading(name, number, batch))
    return made_up_record(*cases, environment=replace(ENVIRONMENT, profile="h100-sxm"), **fields)


def test_the_ladder_draws_cold_readings_under_their_ceilings() -> None:
    record = ladder_record()
    refused = replace(record.cases[0], refused="above the roof", bytes_per_s=9e12)
    warm = replace(record.cases[0], regime="warm", bytes_per_s=8e12)
    figure = ladder.ladder(replace(record, cases=(*record.cases, refused, warm)), LIGHT, ("h100-sxm", 3.35e12))
    for name in ("three_pass", "tensor_cores"):
        (curve,) = named(figure, f"kernel {name}")
        own = [case for case in record.cases if case.subject == name]
        assert list(curve.get_xdata()) == [case.work.kv_bytes for case in own]
        assert list(curve.get_ydata()) == [case.bytes_per_s / 1e9 for case in own if case.bytes_per_s]
    assert {"h100-sxm 3.35 TB/s (spec)", "read ceiling 2.90 TB/s (measured)", "flash"} <= set(said(figure))
    assert clean(figure)


def test_a_ladder_needs_readings() -> None:
    for record in (ladder_record(emulated=True), made_up_record(made_up_case(refused="wrong result"))):
        with pytest.raises(KvperfError, match="no reading for a ladder"):
            ladder.ladder(record, LIGHT, None)


def test_the_gap_of_a_case_falls_from_bound_to_measured() -> None:
    case = made_up_case(gap={"launch": 2e-6, "re-reads": 14e-6, "unexplained": -1e-6})
    figure = gap.case_gap(made_up_record(case), case, LIGHT)
    falls = {bar.get_gid().removeprefix("fall "): bar for bar in named(figure, "fall ") if hasattr(bar, "get_width")}
    assert list(falls) == ["bound", "launch", "re-reads", "unexplained", "measured"]
    assert falls["launch"].get_x() == pytest.approx(20.05)
    assert falls["unexplained"].get_x() == pytest.approx(20.05 + 15)
    assert "−1.000 µs" in said(figure) and "+14.00 µs" in said(figure)
    assert clean(figure)


@pytest.mark.parametrize("step", [{}, {"model": "deepseek-v3", "gpu": "h200", "batch": 128}, {"phase": "prefill"}])
def test_the_gap_of_a_step_adds_up_to_the_serial_bound(step: dict[str, Any]) -> None:
    record = kvperf.analyze(**step)
    figure = gap.step_gap(record, DARK)
    falls = {bar.get_gid().removeprefix("fall "): bar for bar in named(figure, "fall ") if hasattr(bar, "get_width")}
    totals = ("no overlap", "bound", "at measured rates", "predicted")
    stages = [bar for name, bar in falls.items() if name not in totals]
    assert sum(bar.get_width() for bar in stages) == pytest.approx(falls["no overlap"].get_width())
    shown = falls["bound"].get_width() / falls["no overlap"].get_width()
    assert shown == pytest.approx(record.step.bound_s / record.step.serial_bound_s)
    assert clean(figure)


def test_one_case_is_chosen() -> None:
    record = ladder_record()
    assert gap.gap_case(record, "flash cold batch=8").subject == "flash"
    for text, message in ((None, "12 cases fit"), ("flash", "3 cases fit 'flash'"), ("warp", "no case with a gap has")):
        with pytest.raises(KvperfError, match=message):
            gap.gap_case(record, text)
    with pytest.raises(KvperfError, match="no case with a gap"):
        gap.gap_case(made_up_record(made_up_case(gap={})), None)


def test_pairs_of_any_origin_are_drawn() -> None:
    pairs = [accuracy.Pair(1e-5 * n, 1e-5 * n * 1.05, f"family {n % 20}") for n in range(1, 400)]
    figure = accuracy.scatter(pairs, DARK, title="h100-sxm · vllm", note="held-out rows", footer=["from a table"])
    drawn = [tuple(point) for cases in named(figure, "cases ") for point in cases.get_xydata()]
    assert sorted(drawn) == sorted((pair.measured_s, pair.predicted_s) for pair in pairs)
    assert "399 of 399 within ±10 %; held-out rows" in said(figure) and "from a table" in said(figure)
    assert any(text.endswith(" and 2 more") for text in said(figure))
    assert clean(figure)
    for bad in ([], [accuracy.Pair(0.0, 1e-5, "none")]):
        with pytest.raises(KvperfError, match=r"no pair|0 or less"):
            accuracy.scatter(bad, LIGHT, title="")


def test_accuracy_draws_pairs_and_counts_the_band() -> None:
    cases = [
        made_up_case(f"kernel {n}", made_up(n, 1e-5 * 3**n), predicted_s=1e-5 * 3**n * r)
        for n, r in enumerate((1.0, 1.05, 0.95, 1.3))
    ]
    figure = accuracy.accuracy(made_up_record(*cases, made_up_case()), LIGHT)
    assert len(named(figure, "cases ")) == 4
    assert any(text.startswith("3 of 4 within ±10 %") for text in said(figure))
    assert clean(figure)
    with pytest.raises(KvperfError, match="no case of the record has a predicted time"):
        accuracy.accuracy(made_up_record(made_up_case()), LIGHT)
