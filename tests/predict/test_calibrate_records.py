"""Constants of few rows: made-up ones of a known model with noise, and real ones where the tables are installed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from kvperf.bench.record import write
from kvperf.calibrate import writing
from kvperf.calibrate.fit import fit_few
from kvperf.calibrate.grouping import Point, grouped
from kvperf.calibrate.records import calibration_of_rows, prior_for, rows_of_records
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Constants, Used, folder, load
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import Group
from tests.bench.made_up import ENVIRONMENT, made_up, made_up_case, made_up_record

pytest.importorskip("scipy")
H100 = load_gpu("h100-sxm")
DECODE, GEMM = FAMILIES["decode_attention"], FAMILIES["gemm"]
TRUTH = dict(Constants(H100, "vllm").of("decode_attention").constants)
TRUTH |= {"start_s": 1.5 * TRUTH["start_s"], "hbm_efficiency": 0.85, "output_s": 0.6 * TRUTH["output_s"]}


def made_up_groups(count, seed, noise=0.03, heads=((32, 8), (64, 8), (40, 8), (28, 4), (16, 16)), warm=True):
    """Decode attention as a GPU with the constants TRUTH would take, and noise. Nothing was measured."""
    random = np.random.default_rng(seed)
    points = []
    for _ in range(count):
        h, k = heads[random.integers(len(heads))]
        sizes = {"batch": random.choice([1, 4, 16, 64]), "heads": h, "kv_heads": k, "head_dim": 128}
        sizes |= {"context": random.choice([512, 2048, 8192, 32768]), "window": 0}
        points.append(Point("decode_attention", sizes, ("bf16",), warm, 1.0))
    (group,) = grouped(points, H100, "vllm")[0]["decode_attention"]
    true_s = DECODE.seconds(group.rows.launch, H100, TRUTH)
    rows = msgspec.structs.replace(group.rows, measured_s=true_s * np.exp(noise * random.standard_normal(count)))
    return [Group(group.label, rows)]


def error(groups, constants, truth=None):
    """Mean over the rows, of the measured time or of the true one."""
    found = []
    for group in groups:
        launch = group.rows.launch
        target_s = group.rows.measured_s if truth is None else DECODE.seconds(launch, H100, truth)
        found.append(np.abs(DECODE.seconds(launch, H100, constants) / target_s - 1))
    return float(np.concatenate(found).mean())


def calibrated(groups, stack="vllm"):
    return calibration_of_rows(H100, stack, {"decode_attention": groups}, "2026-11-22", "made-up rows")


def test_constants_of_few_rows_stay_positive():
    assert all(0 < c.low < c.high for family in FAMILIES.values() for c in family.constants)


def test_a_known_model_is_found_again():
    """24 noisy rows of other constants: predictions of new launches come within half of the noise."""
    used = Constants(H100, "vllm").of("decode_attention")
    fitted = calibrated(made_up_groups(24, 1)).families["decode_attention"].numbers()
    new = made_up_groups(200, 2)
    assert error(new, used.constants, TRUTH) > 0.12
    assert error(new, fitted, TRUTH) < 0.03


def test_without_rows_and_without_influence_it_is_the_prior():
    prior = {name: value for name, value in TRUTH.items() if name != "fp8_start_s"} | {"fp8_start_s": 2e-6}
    assert fit_few(DECODE, [], H100, prior) == pytest.approx(prior, rel=1e-9)
    found = fit_few(DECODE, [group.rows for group in made_up_groups(20, 3)], H100, prior)
    assert found["fp8_start_s"] == pytest.approx(2e-6, rel=1e-6), "bf16 rows say nothing of it"
    assert set(found) == set(prior)


def test_rows_outweigh_the_start_as_they_become_more():
    prior = {**TRUTH, "start_s": 0.5 * TRUTH["start_s"]}
    off = []
    for count in (2, 16, 400):
        rows = [group.rows for group in made_up_groups(count, 4, noise=0.01)]
        found = fit_few(DECODE, rows, H100, prior)
        off.append(error(made_up_groups(200, 5), found, TRUTH))
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.01


def test_a_wild_row_does_not_carry_the_others_away():
    groups = made_up_groups(24, 6)
    wild = np.array(groups[0].rows.measured_s)
    wild[3] *= 30
    spoilt = [Group(groups[0].label, msgspec.structs.replace(groups[0].rows, measured_s=wild))]
    fitted = calibrated(spoilt).families["decode_attention"].numbers()
    assert error(made_up_groups(200, 7), fitted, TRUTH) < 0.05


def test_the_same_rows_make_the_same_file_and_it_loads(tmp_path):
    groups = made_up_groups(24, 8) + made_up_groups(8, 9, warm=False)
    found = calibrated(groups)
    text = writing.text(found)
    assert text == writing.text(calibrated(groups))
    path = tmp_path / "h100-sxm.vllm.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load(path)
    fitted, again = found.families["decode_attention"], loaded.families["decode_attention"]
    assert (loaded.gpu, loaded.stack, loaded.source) == ("h100-sxm", "vllm", "made-up rows")
    assert again.numbers() == pytest.approx(fitted.numbers(), rel=1e-3)
    assert again.rows == fitted.rows
    assert (fitted.rows.read, fitted.rows.fit, fitted.rows.scored) == (32, 32, 32)
    assert list(again.intervals) == ["bfloat16"], "warm and cold rows share an interval"


def test_a_source_is_plain_text_in_yaml(tmp_path):
    found = calibration_of_rows(
        H100, "vllm", {"decode_attention": made_up_groups(4, 1)}, "2026-11-22", "- a: b #c\n'd'"
    )
    path = tmp_path / "a.yaml"
    path.write_text(writing.text(found), encoding="utf-8")
    assert load(path).source == found.source


def test_the_interval_holds_about_what_it_says():
    """Over 20 made-up calibrations, an 80 % interval holds 70 to 95 % of new launches."""
    held = []
    for seed in range(20):
        fitted = calibrated(made_up_groups(20, 100 + seed)).families["decode_attention"]
        low, high = fitted.intervals["bfloat16"]
        (new,) = made_up_groups(100, 500 + seed)
        ratio = new.rows.measured_s / DECODE.seconds(new.rows.launch, H100, fitted.numbers())
        held.append(np.mean((ratio >= low) & (ratio <= high)))
    assert 0.7 < np.mean(held) < 0.95


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_one_shape_never_narrows_the_borrowed_interval(count):
    """Its rows say nothing of another shape's offset, and nothing is scored."""
    used = Constants(H100, "vllm").of("decode_attention").interval("bfloat16")
    fitted = calibrated(made_up_groups(count, 10, heads=((32, 8),))).families["decode_attention"]
    low, high = fitted.intervals["bfloat16"]
    assert low <= used[0]
    assert high >= used[1]
    assert fitted.held_out == {}
    assert fitted.rows.scored == 0


def test_a_mechanism_that_the_borrowed_calibration_lacks_starts_where_fits_do():
    groups = made_up_groups(8, 11)
    sglang = Constants(H100, "sglang").of("decode_attention")
    prior = prior_for(DECODE, groups, H100, "vllm", sglang)
    starts = {c.name: c.start for c in DECODE.constants}
    assert prior["tile_s"] == starts["tile_s"]
    assert prior["start_s"] == sglang.constants["start_s"]
    assert not {"copies_s", "merge_each_s", "xqa_wave_s"} & set(prior), "vLLM on Hopper has none of these"


def test_a_format_that_was_not_measured_brings_its_constants():
    used = Constants(H100, "vllm").of("gemm")
    few = {name: value for name, value in used.constants.items() if "fp8" not in name}
    few["step_s"] = 6e-8
    known = Used("", True, few, {"bfloat16": (0.9, 1.1)})
    for dtype, more in (("bf16", set()), ("fp8", {"fp8_tensor_efficiency", "fp8_quantise_s", "fp8_row_s"})):
        points = [Point("gemm", {"m": m, "n": 4096, "k": 4096}, (dtype, dtype), True, 1.0) for m in (8, 4096)]
        groups, _ = grouped(points, H100, "vllm")
        assert set(prior_for(GEMM, groups["gemm"], H100, "vllm", known)) == set(few) | more


def test_a_vendor_without_a_calibration_is_refused():
    with pytest.raises(KvperfError) as problem:
        calibration_of_rows(
            load_gpu("mi300x"), "vllm", {"decode_attention": made_up_groups(4, 1)}, "2026-11-22", "rows"
        )
    assert "of that vendor" in problem.value.hint


def test_every_family_calibrates():
    """Each moves towards rows that take a fifth longer than its own constants say."""
    points = [
        *(
            Point("gemm", {"m": m, "n": n, "k": 4096}, ("fp8", "fp8"), True, 1.0)
            for m in (1, 64)
            for n in (4096, 14336)
        ),
        *(Point("collective", {"ranks": r, "bytes": b}, (), True, 1.0) for r in (2, 8) for b in (8192, 1 << 20)),
        *(
            Point("prefill_attention", {"batch": 1, "new": n, "prefix": 0, "window": 0} | heads, ("bf16",), True, 1.0)
            for n in (512, 4096)
            for heads in ({"heads": 32, "kv_heads": 8, "head_dim": 128}, {"heads": 64, "kv_heads": 8, "head_dim": 64})
        ),
    ]
    groups, bad = grouped(points, H100, "vllm")
    assert not bad
    constants = Constants(H100, "vllm")
    slower = {}
    for name, own in groups.items():
        used, slower[name] = constants.of(name).constants, []
        for group in own:
            took_s = 1.2 * FAMILIES[name].seconds(group.rows.launch, H100, used)
            slower[name].append(Group(group.label, msgspec.structs.replace(group.rows, measured_s=took_s)))
    found = calibration_of_rows(H100, "vllm", slower, "2026-11-22", "made-up rows")
    assert set(found.families) == set(groups)
    for name, fitted in found.families.items():
        for group in slower[name]:
            ratio = FAMILIES[name].seconds(group.rows.launch, H100, fitted.numbers()) / group.rows.measured_s
            assert 0.9 < np.mean(ratio) < 1.05, (name, group.label)


@pytest.mark.parametrize(("start", "most"), [("h100-sxm.sglang", (0.09, 0.07)), ("h200-sxm.vllm", (0.09, 0.07))])
def test_few_real_rows_predict_the_others(start, most):
    """Random rows of vLLM's decode attention on H100 with heads of 128; errors on the scored rows, mean of 5 draws."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    from kvperf.silicon import decode_attention

    tables = [decode_attention.rows("h100-sxm", "vllm", "0.24.0", kv) for kv in ("bfloat16", "fp8")]
    tables = [rows.where(rows.launch.launch.head_dim == 128) for rows in tables]
    seen = [rows.where(rows.parts() == "fit") for rows in tables]
    scored = [Group("", rows.where(rows.parts() == "score")) for rows in tables]
    borrowed = Used(start, True, load(folder() / f"{start}.yaml").families["decode_attention"].numbers(), {})
    for count, limit in zip((16, 32), most, strict=True):
        errors = []
        for seed in range(5):
            drawn = draw(seen, count, seed)
            prior = prior_for(DECODE, [Group("", rows) for rows in drawn], H100, "vllm", borrowed)
            errors.append(error(scored, fit_few(DECODE, drawn, H100, prior)))
        assert np.mean(errors) <= limit, (count, errors)


def draw(tables, count, seed):
    """Rows of several tables at random."""
    sizes = [len(rows.keys) for rows in tables]
    chosen = np.zeros(sum(sizes), dtype=bool)
    chosen[np.random.default_rng(seed).choice(sum(sizes), count, replace=False)] = True
    parts = np.split(chosen, np.cumsum(sizes)[:-1])
    return [rows.where(part) for rows, part in zip(tables, parts, strict=True) if part.any()]


SHAPE = {"batch": 4, "heads": 32, "kv_heads": 8, "head_dim": 128, "seq": 4096, "dtype": "fp16"}


def case(subject, median_s, regime="cold", **shape):
    sizes = SHAPE | {"kv_dtype": "fp16"} | shape
    return made_up_case(subject, made_up(1, median_s), regime=regime, shape=sizes, bound_s=None, gap={}, verdict="")


def record(tmp_path, *cases, name="record.json", **fields):
    path = tmp_path / name
    write(made_up_record(*cases, **fields), path)
    return path


def test_records_give_the_fastest_entrant_or_the_one_named(tmp_path):
    path = record(
        tmp_path,
        case("split_kv", 40e-6),
        case("tensor_cores", 35e-6),
        case("split_kv", 34e-6, "warm"),
        case("tensor_cores", 36e-6, "warm"),
        case("fp8_decode", 30e-6, kv_dtype="fp8"),
    )
    groups, notes = rows_of_records([path], H100)
    found = {(g.label, g.rows.launch.launch.warm): g.rows.measured_s[0] for g in groups["decode_attention"]}
    assert found == pytest.approx(
        {("bfloat16", False): 35e-6, ("bfloat16", True): 34e-6, ("fp8", False): 30e-6}, rel=0.01
    )
    assert "fp8_decode 1" in notes[0]
    assert "--entrant" in notes[0]
    groups, notes = rows_of_records([path], H100, "split_kv")
    assert [g.rows.measured_s[0] for g in groups["decode_attention"]] == pytest.approx([40e-6, 34e-6], rel=0.01)
    assert notes == []
    with pytest.raises(KvperfError, match="unknown entrant 'split_k'") as problem:
        rows_of_records([path], H100, "split_k")
    assert "split_kv" in problem.value.hint


def test_what_is_no_decode_reading_is_left_out(tmp_path):
    kept = case("split_kv", 40e-6)
    refused = msgspec.structs.replace(case("wrong", 30e-6), refused="wrong result")
    unread = made_up_case("unread", (), bound_s=None, shape=SHAPE, statistics=None)
    others = (
        case("stream", 30e-6, "stream"),
        case("verify", 30e-6, q_len=4),
        case("mla", 30e-6, heads=128, kv_heads=1, head_dim=576),
        case("int8_mma", 30e-6, kv_dtype="int8"),
    )
    groups, _ = rows_of_records([record(tmp_path, kept, refused, unread, *others)], H100)
    assert [len(group.rows.keys) for group in groups["decode_attention"]] == [1]
    with pytest.raises(KvperfError, match="no reading to calibrate with"):
        rows_of_records([record(tmp_path, refused, *others, name="none.json")], H100)


def test_stages_give_products(tmp_path):
    shape = {"model": "llama-3.1-8b", "batch": 16, "seq": 4096, "new_tokens": 1, "dtype": "bf16", "layers": 32}

    def stage(name, model="llama-3.1-8b"):
        own = shape | {"model": model}
        return made_up_case(name, made_up(2, 40e-6), family="stage", shape=own, bound_s=None, gap={}, verdict="")

    path = record(tmp_path, stage("qkv_projection"), stage("output_projection"), stage("mlp"), stage("rope"))
    groups, notes = rows_of_records([path], H100)
    (group,) = groups["gemm"]
    launch = group.rows.launch
    assert [tuple(map(int, row)) for row in zip(launch.m, launch.n, launch.k, strict=True)] == [
        (16, 6144, 4096),
        (16, 4096, 4096),
    ]
    assert (launch.warm, launch.stack, notes) == (False, "kvperf", [])
    path = record(tmp_path, case("split_kv", 40e-6), stage("qkv_projection", "somebody/else"), name="other.json")
    assert "somebody/else are left out" in rows_of_records([path], H100)[1][0]


def test_records_of_another_gpu_and_of_the_interpreter_are_refused(tmp_path):
    other = msgspec.structs.replace(ENVIRONMENT, profile="a100-sxm")
    with pytest.raises(KvperfError, match="not of h100-sxm") as problem:
        rows_of_records([record(tmp_path, case("split_kv", 40e-6), environment=other)], H100)
    assert problem.value.hint == "calibrate that one: --gpu a100-sxm"
    unknown = msgspec.structs.replace(ENVIRONMENT, sms=114)
    with pytest.raises(KvperfError, match="114 SMs"):
        rows_of_records([record(tmp_path, case("split_kv", 40e-6), environment=unknown)], H100)
    counted = made_up_case("split_kv", (), statistics=None, bound_s=None, shape=SHAPE)
    with pytest.raises(KvperfError, match="interpreter"):
        rows_of_records([record(tmp_path, counted, emulated=True)], H100)


def test_a_record_calibrates_kvperfs_own_kernels(tmp_path):
    cases = [case("split_kv", s * 1e-6, batch=b, seq=2048) for b, s in ((1, 22), (4, 26), (16, 55), (64, 190))]
    groups, _ = rows_of_records([record(tmp_path, *cases)], H100)
    fitted = calibration_of_rows(H100, "kvperf", groups, "2026-11-22", "made-up record").families["decode_attention"]
    (group,) = groups["decode_attention"]
    ratio = DECODE.seconds(group.rows.launch, H100, fitted.numbers()) / group.rows.measured_s
    assert np.abs(ratio - 1).mean() < 0.1
