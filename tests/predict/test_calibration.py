"""Fitted constants: the files, where a GPU without them borrows, the split, the fit, the intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kvperf.calibrate.calibration import SHARED
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Calibration, Constants, folder, load, nearest_first, number
from kvperf.predict.families import FAMILIES
from kvperf.predict.family import Constant, Family
from kvperf.silicon.rows import Rows, part_of

FILES = sorted(folder().glob("*.yaml"))


def test_there_are_files_for_the_gpus_and_stacks_that_were_measured() -> None:
    names = {path.name for path in FILES}
    for gpu in ("a100-sxm", "h100-sxm", "h200-sxm", "b200", "l40s"):
        for stack in ("sglang", "vllm", "trtllm"):
            assert f"{gpu}.{stack}.yaml" in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_file_says_what_it_is(path: Path) -> None:
    found = load(path)
    assert path.name == f"{found.gpu}.{found.stack}.yaml"
    assert load_gpu(found.gpu).architecture.name == found.architecture
    assert "SHA-256" in found.source and "Apache-2.0" in found.source
    own = (fitted for name, fitted in found.families.items() if name not in SHARED)
    assert sum(len(fitted.constants) for fitted in own) <= 60
    assert all(len(found.families[name].constants) <= 15 for name in SHARED if name in found.families)
    for name, fitted in found.families.items():
        numbers = fitted.numbers()
        assert all(np.isfinite(value) and value >= 0 for value in numbers.values())
        for low, high in fitted.intervals.values():
            assert 0 < low <= 1 <= high
        for held in fitted.held_out.values():
            assert held.rows > 0 and 0 <= held.coverage <= 1 and held.mean < 1 < 2
        if name != "host":
            known = {c.name: c for c in FAMILIES[name].constants}
            for constant, value in numbers.items():
                assert known[constant].low * 0.999 <= value <= known[constant].high * 1.001, constant


def test_a_constant_carries_the_unit_of_its_name() -> None:
    assert number("launch_s", "9.98 us") == pytest.approx(9.98e-6)
    assert number("read_bytes_per_s", "3.5 TB/s") == 3.5e12
    assert number("hbm_efficiency", 0.9) == 0.9
    for name, value in (("launch_s", "9.98 GB/s"), ("hbm_efficiency", "0.9 us"), ("launch_s", "9.98")):
        with pytest.raises(KvperfError):
            number(name, value)


def test_an_unknown_key_of_a_file_is_an_error(tmp_path: Path) -> None:
    text = FILES[0].read_text(encoding="utf-8").replace("stack:", "stak:", 1)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(KvperfError):
        load(tmp_path / "x.yaml")


def test_writing_and_reading_again_changes_nothing(tmp_path: Path) -> None:
    from kvperf.calibrate.writing import text

    for path in FILES[:4]:
        again = tmp_path / path.name
        again.write_text(text(load(path)), encoding="utf-8")
        assert load(again) == load(path)


def _nearest(gpu: str, stack: str) -> list[str]:
    return [path.name.removesuffix(".yaml") for _, path in nearest_first(load_gpu(gpu), stack)]


def test_the_nearest_calibration_comes_first() -> None:
    assert _nearest("h100-sxm", "vllm")[0] == "h100-sxm.vllm"
    assert _nearest("h100-pcie", "sglang")[0] in ("h100-sxm.sglang", "h200-sxm.sglang")
    assert _nearest("a10", "vllm")[0] in ("l40s.vllm", "rtx-pro-6000.vllm")
    assert _nearest("v100-sxm2-32gb", "vllm")[0] == "a100-sxm.vllm"
    assert _nearest("rtx-4090", "vllm")[0] == "l40s.vllm"
    assert _nearest("mi300x", "vllm") == []


def test_borrowed_constants_say_so_and_are_less_certain() -> None:
    own = Constants(load_gpu("h100-sxm"), "vllm").of("decode_attention")
    lent = Constants(load_gpu("h100-pcie"), "vllm").of("decode_attention")
    assert not own.borrowed and own.label == "h100-sxm/vllm"
    assert lent.borrowed and "borrowed" in lent.label
    near = min(lent.intervals), max(lent.intervals)
    assert near == (min(own.intervals), max(own.intervals)) or lent.label != "h100-sxm/vllm, borrowed"
    low, high = lent.interval("bfloat16")
    for path in FILES:
        if path.name.startswith(lent.label.split(",")[0].replace("/", ".")):
            ends = load(path).families["decode_attention"].intervals["bfloat16"]
            assert low < ends[0] and high > ends[1]


def test_a_family_that_no_calibration_has_is_an_error() -> None:
    with pytest.raises(KvperfError, match="no calibration has constants for decode attention on mi300x"):
        Constants(load_gpu("mi300x"), "vllm").of("decode_attention")


def test_a_format_that_was_not_measured_gets_the_widest_interval() -> None:
    used = Constants(load_gpu("h100-sxm"), "vllm").of("gemm")
    lows, highs = zip(*used.intervals.values(), strict=True)
    assert used.interval("int4") == (min(lows), max(highs))


def test_half_the_shapes_fit_and_a_quarter_each_sets_intervals_and_is_scored() -> None:
    parts = [part_of(f"{n},128,bfloat16") for n in range(4000)]
    shares = {part: parts.count(part) / len(parts) for part in ("fit", "interval", "score")}
    assert shares == pytest.approx({"fit": 0.5, "interval": 0.25, "score": 0.25}, abs=0.03)
    assert part_of("32,8,128,0,bfloat16") == part_of("32,8,128,0,bfloat16")


class Moved(msgspec.Struct, frozen=True):
    """A made-up launch."""

    bytes: Any


def _made_up() -> Family:
    constants = (
        Constant("start_s", "made up", 5e-6, 1e-7, 1e-4),
        Constant("hbm_efficiency", "made up", 0.7, 0.1, 1.0, 1.0),
    )

    def price(launch: Moved, gpu: Any, c: Any) -> Any:
        return c["start_s"] + launch.bytes / (c["hbm_efficiency"] * gpu.hbm_bytes_per_s)

    return Family("made up", constants, price, lambda launch, gpu: launch.bytes / gpu.hbm_bytes_per_s)


def _rows(noise: float) -> Rows:
    gpu, random = load_gpu("h100-sxm"), np.random.default_rng(1)
    size = np.geomspace(1e4, 1e9, 400)
    seconds = _made_up().seconds(Moved(size), gpu, {"start_s": 3e-6, "hbm_efficiency": 0.8})
    return Rows(Moved(size), seconds * np.exp(noise * random.standard_normal(400)), [str(i) for i in range(400)])


def test_a_fit_finds_the_constants_that_made_the_rows() -> None:
    fit = pytest.importorskip("kvperf.calibrate.fit").fit
    pytest.importorskip("scipy")
    gpu = load_gpu("h100-sxm")
    assert fit(_made_up(), _rows(0.0), gpu) == pytest.approx({"start_s": 3e-6, "hbm_efficiency": 0.8}, rel=1e-3)
    spoiled = _rows(0.03)
    spoiled.measured_s[::20] *= 10  # a twentieth of the rows disturbed
    assert fit(_made_up(), spoiled, gpu) == pytest.approx({"start_s": 3e-6, "hbm_efficiency": 0.8}, rel=0.03)
    assert fit(_made_up(), _rows(0.0), gpu, without=("hbm_efficiency",))["hbm_efficiency"] == 1.0


def test_an_interval_holds_four_of_five() -> None:
    pytest.importorskip("scipy")
    from kvperf.calibrate.family import coverage, interval
    from kvperf.silicon.catalogue import Group

    gpu, rows = load_gpu("h100-sxm"), _rows(0.1)
    constants = {"start_s": 3e-6, "hbm_efficiency": 0.8}
    ends = interval(_made_up(), Group("all", rows), gpu, constants)
    predicted = _made_up().seconds(rows.launch, gpu, constants)
    assert coverage(predicted, rows.measured_s, 0 * predicted, ends) == pytest.approx(0.8, abs=0.06)


def test_no_prediction_is_below_its_floor_and_nan_is_no_score() -> None:
    from kvperf.calibrate.score import score

    gpu = load_gpu("h100-sxm")
    fast = {"start_s": 1e-9, "hbm_efficiency": 5.0}
    assert _made_up().seconds(Moved(1e9), gpu, fast) == 1e9 / gpu.hbm_bytes_per_s
    with pytest.raises(ValueError, match="not finite"):
        score(np.array([1.0, np.nan]), np.array([1.0, 1.0]))


def test_the_schema_name_is_checked() -> None:
    assert Calibration.__struct_config__.forbid_unknown_fields
