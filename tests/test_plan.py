"""A plan's figures are those of `analyze`, its front is beaten by nothing, and what is left out is counted."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kvperf
from kvperf import api
from kvperf.capacity import RESERVE_BYTES
from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.files import folder
from kvperf.hardware import load_gpu
from kvperf.layout import Parallelism
from kvperf.model import load_model
from kvperf.plan import Load, Plan, Serving
from kvperf.plan.engine import CHUNKS, Engine, seconds
from kvperf.plan.points import MOST_BUSY, decoding, mixed
from kvperf.plan.pools import FULL, prompts

ISL, OSL = 2048, 512
MIDDLE = ISL + (OSL + 1) // 2


@pytest.fixture(scope="module")
def found() -> Plan:
    return api.plan(
        ["h100"], "llama-3.1-70b", ttft_s=0.6, tpot_s=0.025, most_gpus=8, prompt_tokens=ISL, output_tokens=OSL
    )


def formats(serving: Serving) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if serving.weight_dtype == "fp8":
        named |= {"weight_dtype": "fp8", "activation_dtype": "fp8"}
    return named | ({"kv_dtype": "fp8"} if serving.kv_dtype == "fp8" else {})


def decode_s(serving: Serving, model: str = "llama-3.1-70b") -> float:
    pool = serving.pools[-1]
    step = kvperf.analyze(serving.gpu, model, batch=pool.batch, seq=MIDDLE, **pool.degrees, **formats(serving)).step
    assert step.predicted_s is not None
    return step.predicted_s


def test_every_way_of_the_front_is_what_analyze_says(found: Plan) -> None:
    """TPOT by hand: decode steps, and for `mixed` the share of steps that carry a chunk."""
    assert any(serving.mode == "mixed" and not serving.pools[0].degrees.get("pp") for serving in found.front)
    for serving in found.front:
        plain_s, pool = decode_s(serving), serving.pools[-1]
        if serving.mode == "apart":
            assert serving.tpot_s == pytest.approx(plain_s, rel=1e-9)
            continue
        assert serving.chunk_tokens is not None
        chunk = serving.chunk_tokens
        assert chunk <= ISL
        if pool.degrees.get("pp", 1) > 1:
            continue  # several chunks at once: no option of analyze says so
        cached = 0 if chunk == ISL else (ISL + chunk) // 2 - chunk
        options = {"batch": pool.batch, "seq": MIDDLE, "chunk_tokens": chunk, "chunk_cached": cached}
        both = kvperf.analyze(serving.gpu, "llama-3.1-70b", **options, **pool.degrees, **formats(serving)).step
        share = pool.batch * ISL / (OSL * chunk)
        assert share <= MOST_BUSY
        assert serving.tpot_s == pytest.approx((1 - share) * plain_s + share * (both.predicted_s or 0), rel=1e-9)
        service_s = math.ceil(ISL / serving.chunk_tokens) * (both.predicted_s or 0)
        busy = share * (both.predicted_s or 0) / serving.tpot_s
        wait_s = service_s * busy / (2 * (1 - busy)) + (1 - busy) * plain_s / 2
        assert serving.ttft_s == pytest.approx(service_s + wait_s, rel=1e-9)


def test_targets_are_met_and_memory_holds_every_sequence(found: Plan) -> None:
    for serving in found.front:
        assert serving.ttft_s <= 0.6 * (1 + 1e-8)
        assert serving.tpot_s <= 0.025 * (1 + 1e-8)
        assert serving.gpus <= 8
        assert serving.tokens_per_s_per_user == pytest.approx(1 / serving.tpot_s)
        pool = serving.pools[-1]
        full = kvperf.analyze(
            "h100", "llama-3.1-70b", batch=pool.batch, seq=ISL + OSL, **pool.degrees, **formats(serving)
        )
        assert full.memory.fits
        assert serving.spare_bytes is not None
        chunk = 8 * 8192 * 8192 * 2  # activations of a chunk: at most eight rows of the hidden size for each token
        assert full.memory.spare_bytes is not None
        assert 0 <= full.memory.spare_bytes - serving.spare_bytes <= (chunk if serving.mode == "mixed" else 2**20)


def test_no_way_of_the_front_beats_another_and_all_points_are_accounted_for(found: Plan) -> None:
    users = [serving.tokens_per_s_per_user for serving in found.front]
    gpus = [serving.tokens_per_s_per_gpu for serving in found.front]
    assert users == sorted(users, reverse=True)
    assert gpus == sorted(gpus)
    assert len(set(gpus)) == len(gpus)
    points = sum(r.count for r in found.rejected if r.misses_by is not None)
    assert found.met + points == found.evaluated
    assert found.evaluated > 1000


def test_the_front_is_beaten_by_no_layout_that_analyze_finds(found: Plan) -> None:
    """A second search, point by point: decode pools whose prompts cost no GPU at all bound what any plan gives."""
    best: dict[float, float] = {}
    for tp in (1, 2, 4, 8):
        for kv in ("bf16", "fp8"):
            for batch in (1, 4, 16, 64, 128):
                given: dict[str, Any] = {"batch": batch, "seq": MIDDLE, "tp": tp, "kv_dtype": kv}
                record = kvperf.analyze("h100", "llama-3.1-70b", weight_dtype="fp8", activation_dtype="fp8", **given)
                assert record.step.predicted_s is not None
                best[1 / record.step.predicted_s] = batch / record.step.predicted_s / tp
    for serving in found.front:
        slower = [rate for user, rate in best.items() if user >= serving.tokens_per_s_per_user * 0.8]
        assert serving.tokens_per_s_per_gpu <= 1.3 * max(slower)


def test_looser_targets_and_more_gpus_never_give_less(found: Plan) -> None:
    def most(**changes: Any) -> float:
        asked: dict[str, Any] = {"ttft_s": 0.6, "tpot_s": 0.025, "most_gpus": 8, "weight_dtypes": ("fp8",)}
        front = api.plan(["h100"], "llama-3.1-70b", **asked | {"kv_dtypes": ("fp8",)} | changes).front
        return max((serving.tokens_per_s_per_gpu for serving in front), default=0.0)

    now = most()
    assert now == pytest.approx(max(serving.tokens_per_s_per_gpu for serving in found.front))
    assert most(tpot_s=0.04) > now
    assert most(ttft_s=2.0) >= now
    assert most(most_gpus=16) >= now
    assert most(tpot_s=0.012) < now


def test_pools_serve_what_arrives() -> None:
    plan = api.plan(["h100"], "llama-3.1-8b", tpot_s=0.02, ttft_s=0.5, requests_per_s=40.0, most_gpus=16)
    assert plan.front
    for serving in plan.front:
        assert serving.requests_per_s == 40
        assert serving.gpus == sum(pool.gpus * pool.replicas for pool in serving.pools) <= 16
        assert serving.tokens_per_s_per_gpu == pytest.approx(40 * 512 / serving.gpus)
        decoding = serving.pools[-1]
        capacity = decoding.replicas * decoding.batch / (512 * serving.tpot_s)
        assert capacity >= 40 * (1 - 1e-9)
        assert (decoding.replicas - 1) * decoding.batch / (512 * serving.tpot_s) < 40


def engine(**changes: Any) -> Engine:
    load = Load(ISL, OSL, ttft_s=0.5, tpot_s=0.05, most_gpus=8)
    whole = Engine(
        load_gpu("h100"),
        load_model("llama-3.1-8b"),
        Parallelism(),
        "checkpoint",
        "checkpoint",
        load,
        "vllm",
        0.9,
        RESERVE_BYTES,
    )
    return msgspec.structs.replace(whole, **changes)


def test_a_prefilling_pool_is_as_busy_as_its_target_allows() -> None:
    """M/D/1 solved for the load: the mean wait plus the service is the target."""
    asked = engine()
    reader = prompts(asked)
    assert reader is not None
    alone = kvperf.analyze("h100", "llama-3.1-8b", batch=reader.batch, seq=ISL, phase="prefill").step.predicted_s
    assert reader.service_s == pytest.approx(alone)
    wait = reader.service_s * reader.busy / (2 * (1 - reader.busy))
    moved = asked.handed_over_s(asked.prefilling()[0])
    assert reader.busy == pytest.approx(FULL) or wait + reader.service_s + moved == pytest.approx(0.5)
    tight = msgspec.structs.replace(asked, load=msgspec.structs.replace(asked.load, ttft_s=1.2 * reader.service_s))
    busier = prompts(tight)
    assert busier is not None
    assert busier.busy < reader.busy
    assert not busier.late
    hopeless = msgspec.structs.replace(asked, load=msgspec.structs.replace(asked.load, ttft_s=0.5 * reader.service_s))
    late = prompts(hopeless)
    assert late is not None and late.late


def test_points_of_a_batch_are_those_of_the_batch_alone() -> None:
    """One array pass gives what one batch at a time gives."""
    for points in mixed(decoding(engine())):
        assert points.chunk_tokens in (*CHUNKS, ISL)
        for index in (0, 7, 20):
            batch = int(points.batch[index])
            alone = kvperf.analyze("h100", "llama-3.1-8b", batch=batch, seq=MIDDLE).step.predicted_s
            assert float(points.found.predicted_s[index]) == pytest.approx(alone, rel=1e-12)


def test_an_impossible_target_says_by_how_much_it_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--model", "llama-3.1-70b", "--gpu", "h100", "--tpot", "2ms", "--max-gpus", "8"]
    assert run(options) == 1
    said = capsys.readouterr()
    assert "no plan meets it; the closest misses by" in " ".join(said.out.split())
    assert "of TPOT" in said.out
    assert run(["plan", "--model", "llama-3.1-405b", "--gpu", "h100", "--max-gpus", "1"]) == 1
    assert "GiB" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["mixed", "apart", "both"])
@pytest.mark.parametrize("target", [("--ttft", "1ms"), ("--tpot", "1ms")], ids=" ".join)
def test_no_mode_meets_what_is_impossible(
    mode: str, target: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["plan", "--model", "llama-3.1-8b", "--mode", mode, *target, "--max-gpus", "2"]
    assert run(options) == 1
    assert "no plan meets it; the closest misses by" in " ".join(capsys.readouterr().out.split())
    assert run([*options, "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["front"] == [] and record["met"] == 0
    assert sum(r["count"] for r in record["rejected"] if r["misses_by"]) == record["evaluated"]


def test_more_gpus_that_would_be_enough_are_named_and_are(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--model", "llama-3.1-8b", "--tpot", "15ms", "--rps", "60", "--weight-dtype", "checkpoint"]
    assert run([*options, "--max-gpus", "2"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    (enough,) = re.findall(r"--max-gpus (\d+) would be enough", said)
    assert run([*options, "--max-gpus", enough]) == 0


def test_the_wait_for_the_first_token_is_that_of_a_queue() -> None:
    """Replayed: requests arrive at random, their prompts' chunks join the steps of a full batch one after the other."""
    asked = engine(load=Load(ISL, 128))
    (points,) = [p for p in mixed(decoding(asked)) if p.chunk_tokens == ISL]
    index = int(np.flatnonzero(points.batch == 64)[0])
    plain_s = float(decoding(asked).seconds[index])
    both_s = float(seconds(asked.mixing(points.batch, ISL)[0])[index])
    rate = float(points.batch[index]) / (128 * float(points.tpot_s[index]))
    source, clock, queue, waits, due = random.Random(1), 0.0, [], [], 0.0
    while len(waits) < 40_000:
        while due <= clock:
            queue.append(due)
            due += source.expovariate(rate)
        clock += both_s if queue else plain_s
        if queue:
            waits.append(clock - queue.pop(0))
    assert float(points.ttft_s[index]) == pytest.approx(sum(waits) / len(waits), rel=0.1)


def test_a_gpu_without_predictions_is_no_way_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--gpu", "mi300x"]) == 2
    assert "no prediction" in capsys.readouterr().err
    both = api.plan(["h100", "mi300x"], "llama-3.1-8b", most_gpus=1)
    assert {serving.gpu for serving in both.front} == {"h100-sxm"}
    assert any("no prediction" in rejected.reason for rejected in both.rejected)


def test_each_gpu_has_its_price() -> None:
    plan = api.plan(["h100", "l40s"], "llama-3.1-8b", most_gpus=1, prices=(2.0, 1.0), tpot_s=0.05)
    for serving in plan.front:
        price = {"h100-sxm": 2.0, "l40s": 1.0}[serving.gpu]
        assert serving.cost_per_million_tokens == pytest.approx(price / 3600 / serving.tokens_per_s_per_gpu * 1e6)
    with pytest.raises(KvperfError, match="2 prices for 1 GPUs"):
        api.plan(["h100"], prices=(1.0, 2.0))


def test_strategy_notes_are_of_the_plans_own_gpu_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text((folder("hardware") / "l40s.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    options = ["plan", "--gpu", str(profile), "--tpot", "40ms", "--max-gpus", "2", "--strategies"]
    assert run([*options, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "kvperf.plan/1"
    assert record["strategies"][0]["name"] == "tensor"
    assert run(options) == 0
    assert "parallel strategies, each alone" in " ".join(capsys.readouterr().out.split())


WIDE = (
    ("--model", "deepseek-v3", "--gpu", "h200", "--max-gpus", "16", "--mode", "apart", "--stack", "sglang"),
    ("--gpu", "h100,l40s", "--tpot", "30ms", "--rps", "10", "--price", "2.5,0.9", "--strategies"),
)


@pytest.mark.parametrize("options", WIDE, ids=" ".join)
def test_what_is_printed_fits_80_columns(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *options]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


BAD = (
    ("--isl", "0"),
    ("--osl", "0"),
    ("--ttft", "0ms"),
    ("--tpot", "20"),
    ("--rps", "-1"),
    ("--rps", "nan"),
    ("--max-gpus", "0"),
    ("--max-gpus", "100000"),
    ("--price", "-1"),
    ("--price", "inf"),
    ("--kv-dtype", "fp7"),
    ("--weight-dtype", ""),
    ("--gpu", "h1000"),
    ("--gpu", "h100,"),
    ("--model", "llama-9"),
    ("--network", "carrier-pigeon"),
    ("--memory-fraction", "2"),
    ("--mode", "neither"),
)


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_bad_input_is_one_error_and_one_hint(options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.strip().splitlines()] == ["error", "hint"]


def test_formats_agree(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "plan",
        "--model",
        "llama-3.1-8b",
        "--tpot",
        "20ms",
        "--max-gpus",
        "2",
        "--price",
        "2",
        "--kv-dtype",
        "checkpoint",
    ]
    assert run([*options, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert run([*options, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert record["schema"] == "kvperf.plan/1"
    assert len(rows) == len(record["front"])
    for row, serving in zip(rows, record["front"], strict=True):
        assert float(row["tpot_s"]) == serving["tpot_s"]
        assert serving["cost_per_million_tokens"] == pytest.approx(2 / 3600 / serving["tokens_per_s_per_gpu"] * 1e6)
    for format in ("table", "md"):
        assert run([*options, "--format", format]) == 0
        text = capsys.readouterr().out
        if format == "table":
            assert max(map(len, text.splitlines())) <= 80


def test_a_gpu_of_unknown_memory_or_links_is_no_place_to_plan_for() -> None:
    with pytest.raises(KvperfError, match="no mode to try"):
        api.plan(["h100"], "llama-3.1-8b", weight_dtypes=("checkpoint",), modes=())
    alone = api.plan(["l40s"], "llama-3.1-8b", most_gpus=16, tpot_s=0.05)
    assert any("links between nodes" in rejected.reason for rejected in alone.rejected)
