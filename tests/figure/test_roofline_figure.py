"""The roofline as artists and data: slopes, labels, dots, bars; nothing is compared by pixels."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

import kvperf
from kvperf.hardware import load_gpu
from kvperf.measured import Measured
from kvperf.record import Analysis
from kvperf.render.figure.dots import WHOLE_PT, in_runs
from kvperf.render.figure.gap import step_gap
from kvperf.render.figure.labels import disc, overlap
from kvperf.render.figure.roofline import roofline
from kvperf.render.figure.theme import THEMES
from tests.figure.drawn import corners, named, outside, overlapping, texts

STEPS: dict[str, dict[str, Any]] = {
    "batch 1": {},
    "batch 64": {"batch": 64},
    "deepseek-v3": {"model": "deepseek-v3", "gpu": "h200", "batch": 128},
    "gpt2": {"model": "gpt2", "seq": 1024},
    "long": {"seq": 131072},
    "prefill": {"phase": "prefill", "seq": 8192},
    "int4": {"weight_dtype": "int4", "gpu": "a100", "batch": 8},
    "ragged": {"gpu": "l40s", "model": "kimi-k2.5", "contexts": [100, 2000, 30000]},
    "mixed": {"gpu": "h200", "model": "nemotron-super-49b", "phase": "mixed", "batch": 16, "chunk_tokens": 512},
    "four roofs": {"gpu": "l40s", "model": "deepseek-v4-flash", "phase": "prefill", "seq": 8192},
    "small dots": {"gpu": "h200", "model": "qwen3-next-80b-a3b", "batch": 64},
}


def drawn(record: Analysis, theme: str = "light", levels: bool = False, measured: Measured | None = None) -> Any:
    known = load_gpu(record.gpu.name).levels()
    caches = [(lv.name, lv.bandwidth_bytes_per_s, lv.bandwidth_kind) for lv in known[:-1] if lv.scope == "GPU"]
    hbm = known[-1].name, known[-1].bandwidth_kind or "spec"
    return roofline(record, THEMES[theme], hbm=hbm, caches=caches if levels else (), measured=measured)


def twice_the_bound(record: Analysis) -> Measured:
    return Measured("Made-up GPU", {s.name: 2 * s.bound_s or 1e-6 for s in record.stages}, 2 * record.step.bound_s)


@functools.cache
def light(name: str) -> Any:
    """A figure that is looked at only."""
    return drawn(kvperf.analyze(**STEPS[name]))


@pytest.mark.parametrize("name", list(STEPS))
def test_no_label_covers_another(name: str) -> None:
    assert overlapping(light(name)) == []
    assert outside(light(name)) == []


def test_the_dark_figure_has_its_labels_in_the_same_places() -> None:
    dark = drawn(kvperf.analyze(**STEPS["batch 64"]), "dark")
    both = ([(t.get_text(), corners(t)) for t in texts(figure)] for figure in (dark, light("batch 64")))
    assert next(both) == next(both)


@pytest.mark.parametrize("name", list(STEPS))
def test_numbers_stay_within_the_axes(name: str) -> None:
    figure = light(name)
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    for text in named(figure, "numbers "):
        assert all(box.x0 <= x <= box.x1 and y >= box.y0 for x, y in corners(text)), text.get_text()


def test_many_numbers_are_written_as_runs() -> None:
    assert in_runs([3]) == "3" and in_runs([4, 3]) == "3 4" and in_runs([1, 3, 2]) == "1–3"
    assert in_runs([2, 3, 4, 5, 7, 8, 9, 10, 11, 12]) == "2–5 7–12"
    said = [text.get_text() for text in named(light("ragged"), "numbers ")]
    assert any("–" in text for text in said) and not any(text.count(" ") > 4 for text in said)


def test_an_overlap_would_be_seen() -> None:
    figure = drawn(kvperf.analyze())
    (spec,) = named(figure, "roof label bf16 wgmma")[:1]
    (other,) = named(figure, "roof label HBM3 measured")
    other.set_position(spec.get_position())
    assert overlapping(figure)


@pytest.mark.parametrize("name", list(STEPS))
def test_no_roofs_name_lies_on_a_dot(name: str) -> None:
    figure = light(name)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for dot in named(figure, "bound "):
        (x, y), radius = axes.transData.transform(dot.get_offsets()[0]), math.sqrt(dot.get_sizes()[0]) / 2
        circle = disc(float(x), float(y), 0.9 * radius * figure.dpi / 72)
        for label in (*named(figure, "roof label"), *named(figure, "ridge label")):
            assert not overlap(corners(label), circle), (dot.get_gid(), label.get_text())


@pytest.mark.parametrize("name", ["batch 1", "prefill"])
def test_nor_with_measurements_and_caches(name: str) -> None:
    record = kvperf.analyze(**STEPS[name])
    figure = drawn(record, levels=True, measured=twice_the_bound(record))
    assert overlapping(figure) == []
    assert outside(figure) == []


@pytest.mark.parametrize("name", ["batch 1", "deepseek-v3", "prefill"])
def test_memory_roofs_rise_at_45_degrees_and_their_labels_with_them(name: str) -> None:
    figure = drawn(kvperf.analyze(**STEPS[name]), levels=True)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    roofs = [line for line in named(figure, "roof HBM") if line.get_xdata()[0] != line.get_xdata()[1]]
    assert len(roofs) == 2
    for line in roofs:
        (x0, y0), (x1, y1) = axes.transData.transform(list(zip(*line.get_data(), strict=True)))
        assert math.degrees(math.atan2(y1 - y0, x1 - x0)) == pytest.approx(45, abs=1e-6)
    for label in named(figure, "roof label HBM"):
        assert (label.get_rotation(), label.get_rotation_mode()) == (45, "anchor")


def test_roofs_are_named_with_number_unit_and_kind() -> None:
    said = {text.get_text() for text in texts(drawn(kvperf.analyze(), levels=True))}
    assert {
        "HBM3  3.35 TB/s (spec)",
        "3.17 TB/s (measured)",
        "bf16 wgmma  989 TFLOP/s (spec)",
        "bf16 956 TFLOP/s (measured)",
        "L2 cache  4.86 TB/s (measured)",
        "ridge 295 FLOP/B",
    } <= said


def test_spec_is_solid_and_measured_is_dashed() -> None:
    figure = drawn(kvperf.analyze(), levels=True)
    lines = {line.get_gid(): line for line in named(figure, "roof ") if hasattr(line, "get_linestyle")}
    for name, line in lines.items():
        measured = "measured" in name or "L2" in name
        assert (line.get_linestyle() == "-") != measured, name


def test_only_peaks_that_the_step_uses_are_drawn() -> None:
    said = " ".join(text.get_text() for text in texts(light("batch 1")))
    assert "fp8" not in said and "tf32" not in said


def test_the_ridge_is_where_the_roofs_meet() -> None:
    record = kvperf.analyze()
    (ridge,) = [line for line in named(light("batch 1"), "ridge") if hasattr(line, "get_xdata")]
    assert ridge.get_xdata()[0] == record.gpu.ridge_flops_per_byte
    assert ridge.get_ydata()[1] == pytest.approx(record.gpu.peaks[0].flops_per_s)


@pytest.mark.parametrize(
    ("step", "ridges"),
    [
        (STEPS["deepseek-v3"], {"bf16 ridge 206 FLOP/B", "fp8 ridge 412 FLOP/B"}),
        (
            {"gpu": "b200", "weight_dtype": "nvfp4", "activation_dtype": "nvfp4", "batch": 64},
            {"bf16 ridge 292 FLOP/B", "fp4 ridge 1169 FLOP/B"},
        ),
    ],
)
def test_every_ceiling_has_its_ridge_and_the_tint_ends_at_the_lowest(step: dict[str, Any], ridges: set[str]) -> None:
    record = kvperf.analyze(**step)
    figure = drawn(record)
    assert {text.get_text() for text in named(figure, "ridge label")} == ridges
    lines = [line for line in named(figure, "ridge") if hasattr(line, "get_xdata")]
    hbm = record.gpu.hbm_bytes_per_s
    assert sorted(line.get_xdata()[0] * hbm for line in lines) == pytest.approx(
        sorted(peak.flops_per_s for peak in record.gpu.peaks)
    )
    (tint,) = named(figure, "tint")
    assert tint.get_x() + tint.get_width() == pytest.approx(min(line.get_xdata()[0] for line in lines))
    assert overlapping(figure) == []


WARNED: list[tuple[dict[str, Any], str]] = [
    ({"gpu": "h100", "batch": 64, "seq": 131072}, "does not fit: it needs 1042.5 GiB"),
    ({"model": "gpt2", "seq": 4096}, "context 4096 is beyond gpt2's maximum of 1024 tokens"),
]


@pytest.mark.parametrize(("step", "said"), WARNED)
def test_a_warning_stands_on_every_figure_of_a_step(step: dict[str, Any], said: str) -> None:
    record = kvperf.analyze(**step)
    for figure in (drawn(record), step_gap(record, THEMES["light"])):
        assert [said in text.get_text() for text in named(figure, "warning")] == [True]
        assert overlapping(figure) == [] and outside(figure) == []
    assert not named(light("batch 1"), "warning")


@pytest.mark.parametrize("gpu", ["h100", "a100", "mi300x"])
def test_a_memory_roofs_name_touches_its_own_line_and_no_other(gpu: str) -> None:
    figure = drawn(kvperf.analyze(gpu=gpu), levels=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    lines = {line.get_gid().removeprefix("roof "): line for line in named(figure, "roof ") if hasattr(line, "get_data")}
    labels = [label for label in named(figure, "roof label ") if label.get_rotation() == 45]
    assert len(labels) >= 3
    for label in labels:
        own = label.get_gid().removeprefix("roof label ")
        for name, line in lines.items():
            ends = axes.transData.transform(list(zip(*line.get_data(), strict=True)))
            assert not overlap(corners(label), [(float(x), float(y)) for x, y in ends]), (own, name)
        (x0, y0), _ = axes.transData.transform(list(zip(*lines[own].get_data(), strict=True)))
        reach = min(abs((x - x0) - (y - y0)) / math.sqrt(2) for x, y in corners(label))
        stacked = lines[own].get_linestyle() != "-"  # a reading hardly below may stand under the other's name
        assert reach * 72 / figure.dpi < (13 if stacked else 6), own


@pytest.mark.parametrize("name", list(STEPS))
def test_bounds_are_hollow_and_lie_on_a_roof(name: str) -> None:
    record = kvperf.analyze(**STEPS[name])
    figure, stages = light(name), {stage.name: stage for stage in record.stages}
    dots = named(figure, "bound ")
    assert len(dots) == len([s for s in record.stages if s.matrix_flops])
    for dot in dots:
        stage = stages[dot.get_gid().removeprefix("bound ")]
        (x, y) = dot.get_offsets()[0]
        assert y == pytest.approx(stage.matrix_flops / stage.bound_s)
        peak = stage.matrix_flops / stage.resources.tensor_s
        if stage.compulsory_bytes:
            assert y == pytest.approx(min(peak, x * record.gpu.hbm_bytes_per_s), rel=1e-6)
        else:
            assert stage.bound_by == "tensor" and named(figure, f"beyond {stage.name}")
        face = dot.get_facecolor()
        assert len(face) == 0 or tuple(face[0][:3]) == (1, 1, 1)


def test_measurements_are_filled_below_and_joined_by_a_stem() -> None:
    record = kvperf.analyze()
    figure = drawn(record, measured=twice_the_bound(record))
    for stage in record.stages:
        bound, filled = named(figure, f"bound {stage.name}"), named(figure, f"measured {stage.name}")
        assert len(bound) == len(filled) == bool(stage.matrix_flops)
        if not filled:
            continue
        (x, y), (mx, my) = bound[0].get_offsets()[0], filled[0].get_offsets()[0]
        assert mx == x and my == pytest.approx(y / 2)
        assert len(bound[0].get_facecolor()) == 0 and len(filled[0].get_facecolor()) == 1
        (stem,) = named(figure, f"stem {stage.name}")
        assert tuple(stem.get_xdata()) == (x, x) and tuple(stem.get_ydata()) == (y, my)
    assert "mlp  1" in [t.get_text() for t in texts(figure)]
    assert any(t.get_text() == "6.73 ms · bound 50 %" for t in texts(figure))


def test_a_partial_records_dot_is_its_share_of_the_whole_step() -> None:
    record = kvperf.analyze()
    attention = next(stage for stage in record.stages if stage.name == "attention")
    seconds = 1.5 * attention.bound_s
    for step_s, whole in (
        (None, record.step.serial_bound_s + 0.5 * attention.bound_s),
        (3 * record.step.bound_s, 3 * record.step.bound_s),
    ):
        figure = drawn(record, measured=Measured("Made-up GPU", {"attention": seconds}, step_s))
        (dot,) = named(figure, "measured ")
        assert dot.get_sizes()[0] == pytest.approx((2 * WHOLE_PT) ** 2 * seconds / whole)
        assert seconds / whole < 0.1


def test_stages_without_products_stand_in_the_bars_only() -> None:
    record = kvperf.analyze()
    figure = light("batch 1")
    free = {"embedding", "attention_norm", "rope", "kv_update", "mlp_norm", "final_norm", "sampling"}
    dotted = {dot.get_gid().removeprefix("bound ") for dot in named(figure, "bound ")}
    assert dotted == {stage.name for stage in record.stages} - free
    rows = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert {row.rsplit("  ", 1)[0].replace(" ", "_") for row in rows if row.endswith("–")} == free


def test_a_dots_area_is_its_share_and_its_number_stands_beside_its_bar() -> None:
    record = kvperf.analyze(batch=64)
    figure = light("batch 64")
    area = {dot.get_gid().removeprefix("bound "): dot.get_sizes()[0] for dot in named(figure, "bound ")}
    share = {stage.name: stage.share for stage in record.stages}
    assert area["attention"] / area["mlp"] == pytest.approx(share["attention"] / share["mlp"])
    rows = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert rows[:3] == ["attention  1", "mlp  2", "qkv projection  3"]
    numbers = " ".join(text.get_text() for text in named(figure, "numbers "))
    assert numbers == "1 2–5" and "lm head  5" in rows


def test_bars_are_as_long_as_the_stages_and_a_prediction_is_drawn_where_there_is_one() -> None:
    record = kvperf.analyze()
    assert record.step.predicted_s is not None
    bare = tuple(
        replace(s, predicted_s=1.5 * s.bound_s, predicted_low_s=None, predicted_high_s=None, covered_by=None)
        for s in record.stages
    )
    figure, stages = drawn(replace(record, stages=bare)), bare
    widths = [bar.get_width() * 1e-3 for bar in figure.axes[1].patches]
    assert widths == pytest.approx(sorted((s.bound_s for s in stages), reverse=True))
    ticks = [line for line in named(figure, "bar predicted") if not line.get_gid().endswith("interval")]
    assert len(ticks) == len(stages)
    assert not named(drawn(kvperf.analyze(stack="none")), "bar predicted")


@pytest.mark.parametrize("name", ["batch 1", "deepseek-v3"])
def test_predictions_are_dashes_below_the_roof_and_ticks_with_intervals(name: str) -> None:
    record, figure = kvperf.analyze(**STEPS[name]), light(name)
    for stage in record.stages:
        dash = named(figure, f"dash {stage.name}")
        assert len(dash) == bool(stage.matrix_flops and stage.predicted_s)
        if dash and stage.predicted_s:
            assert dash[0].get_offsets()[0][1] == pytest.approx(stage.matrix_flops / stage.predicted_s)
    lines = named(figure, "bar predicted")
    intervals = [line.get_xdata() for line in lines if line.get_gid().endswith("interval")]
    ticks = [line.get_xdata()[0] for line in lines if not line.get_gid().endswith("interval")]
    assert len(ticks) == len(intervals) == len([s for s in record.stages if s.covered_by is None])
    assert all(low <= at <= high for at, (low, high) in zip(ticks, intervals, strict=True))
    covered = {f"in {s.covered_by.replace('_', ' ')}" for s in record.stages if s.covered_by}
    assert covered <= {text.get_text() for text in named(figure, "bar label")}
    assert any("constants of" in text.get_text() for text in named(figure, "footer"))


def test_bound_measured_and_predicted_lie_within_the_axes() -> None:
    record = kvperf.analyze()
    stages = tuple(
        replace(s, predicted_s=3 * s.bound_s, predicted_low_s=None, predicted_high_s=None, covered_by=None)
        for s in record.stages
    )
    reading = Measured("Made-up GPU", {s.name: 1.2 * s.bound_s for s in stages}, None)
    figure = drawn(replace(record, stages=stages), measured=reading)
    limit = figure.axes[1].get_xlim()[1]
    ends = [line.get_xdata()[0] for line in named(figure, "bar predicted")]
    assert max(ends) == pytest.approx(1e3 * 3 * max(s.bound_s for s in stages))
    assert max(ends) <= limit * (1 + 1e-9)
    assert overlapping(figure) == [] and outside(figure) == []


def test_title_and_footer_say_what_it_is() -> None:
    said = " ".join(text.get_text() for text in texts(drawn(kvperf.analyze(batch=4, kv_dtype="fp8"))))
    for part in (
        "h100-sxm · llama-3.1-8b · decode · batch 4 · context 4096",
        "bf16 weights, bf16 activations, fp8 KV",
        "stas00/ml-engineering@744d01e",
        "profile h100-sxm",
        f"kvperf {kvperf.__version__}",
    ):
        assert part in said


def test_caches_whose_bandwidth_nobody_knows_are_named_and_not_drawn() -> None:
    figure = drawn(kvperf.analyze(gpu="h200"), levels=True)
    assert not named(figure, "roof L2")
    assert any("Bandwidth unknown: L2 cache." in text.get_text() for text in texts(figure))


def test_an_arrow_leads_to_the_traffic_of_the_caches() -> None:
    record = kvperf.analyze(phase="prefill", seq=8192)
    figure = drawn(record, levels=True)
    mlp = next(stage for stage in record.stages if stage.name == "mlp")
    (point,) = named(figure, "cache mlp")
    assert point.get_offsets()[0][0] == pytest.approx(mlp.flops_per_byte)
    marked = {mark.get_gid().removeprefix("cache ") for mark in named(figure, "cache ")}
    rows = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    numbers = {row.rsplit("  ", 1)[1] for row in rows if row.rsplit("  ", 1)[0].replace(" ", "_") in marked}
    said = " ".join(text.get_text() for text in named(figure, "mark numbers "))
    assert numbers == {"1", "2", "3", "4"} and sorted(said.replace("–", " ").split())[0] == "1"
    assert explained(figure) and overlapping(figure) == []


def explained(figure: Any) -> bool:
    return any("A cross with a stage's number" in text.get_text() for text in named(figure, "footer"))


@pytest.mark.parametrize("step", [{}, {"gpu": "h200", "phase": "prefill", "seq": 8192}])
def test_without_a_mark_none_is_explained(step: dict[str, Any]) -> None:
    """Where the cache carries no more than HBM must, and where its bandwidth is unknown."""
    figure = drawn(kvperf.analyze(**step), levels=True)
    assert not named(figure, "cache ") and not explained(figure)


@pytest.mark.parametrize("theme", list(THEMES))
def test_colours_differ_in_greyscale(theme: str) -> None:
    """Lightness of what binds, at least a tenth of the scale apart, and well off the paper."""
    from matplotlib.colors import to_rgb

    def lightness(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y

    look = THEMES[theme]
    levels = sorted([lightness(colour) for colour in look.resources.values()])
    assert all(b - a >= 10 for a, b in pairwise(levels))
    assert all(abs(lightness(look.paper) - level) >= 25 for level in levels)
    assert abs(lightness(look.paper) - lightness(look.ink)) >= 70
