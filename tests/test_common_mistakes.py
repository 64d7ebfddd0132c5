"""docs/common-mistakes.md: every figure in bold is recomputed here, and every command in it runs."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kvperf import analyze
from kvperf.arith import ceil_div
from kvperf.cli import run
from kvperf.dtypes import dtype
from kvperf.hardware import load_gpu
from kvperf.hardware.levels import Level
from kvperf.model import load_model
from kvperf.model.architecture import Experts, GroupedQuery, Latent, Model
from kvperf.record import StageFigures
from kvperf.stages.moe import expected_experts
from kvperf.units import parse

DOCUMENT = Path(__file__).parent.parent / "docs" / "common-mistakes.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    """The text under each heading of the third level."""
    found = {}
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = re.split(r"^(?:## |\[\^)", body, flags=re.MULTILINE)[0]
    return found


def commands() -> list[str]:
    """Every line of every fenced block."""
    return [
        line
        for block in re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
        for line in block.split("\n")
        if line
    ]


# ------------------------------------------------------------------------------ figures as the document writes them


def kib(size: float) -> str:
    return f"{size / 2**10:.3g} KiB"


def gib(size: float) -> str:
    return f"{size / 2**30:.4g} GiB"


def tera(rate: float) -> str:
    return f"{rate / 1e12:.4g}"


def percent(share: float, digits: int = 0) -> str:
    return f"{share * 100:.{digits}f} %"


def between(ends: tuple[float, float] | None, digits: int = 0) -> str:
    assert ends is not None
    low, high = (f"{end:.{digits}f}" for end in ends)
    return low if low == high else f"{low}–{high}"


# --------------------------------------------------------------------------------------------- where they come from

record = functools.cache(analyze)


def stage(name: str, **options: object) -> StageFigures:
    return next(s for s in record(**options).stages if s.name == name)  # type: ignore[arg-type]


def level(gpu: str, name: str) -> Level:
    return next(one for one in load_gpu(gpu).levels() if one.name == name)


def limit(gpu: str, name: str) -> float:
    return getattr(load_gpu(gpu).architecture.limits, name).value


def peak(gpu: str, operand: str, accumulator: str, path: str | None = None) -> float:
    """The highest stated peak of this very operand and accumulator."""
    stated = load_gpu(gpu).profile.peaks
    return max(
        float(p.value)
        for p in stated
        if p.dtype == operand and p.accumulator == accumulator and (path is None or p.path == path)
    )


def has_unit(gpu: str, operand: str) -> bool:
    return any(p.dtype == operand for p in load_gpu(gpu).profile.peaks)


def best_share(gpu: str, experiment: str) -> str:
    """The best reading of an experiment over the peak of device memory."""
    loaded = load_gpu(gpu)
    readings = [float(m.value) for m in loaded.profile.measured if m.what == experiment and m.on is None]
    return percent(max(readings) / loaded.hbm_bytes_per_s)


def attention_of(name: str) -> GroupedQuery:
    mixer = next(iter(load_model(name).mixers.values()))
    assert isinstance(mixer, GroupedQuery)
    return mixer


def layers(model: Model) -> int:
    return len(model.layer_sequence())


def direction(bytes_per_s: float | None) -> str:
    assert bytes_per_s is not None
    return f"{bytes_per_s / 1e9:.3g}"


# ------------------------------------------------------------------------------------------------- memory hierarchy


def hierarchy() -> list[str]:
    registers, shared, l2 = level("h100", "registers"), level("h100", "shared memory"), level("h100", "L2 cache")
    hbm, far = level("h100", "HBM3"), level("a100", "L2 cache")
    assert limit("h100", "shared_per_sm") - limit("h100", "shared_reserved_per_block") == limit(
        "h100", "shared_per_block"
    )
    return [
        kib(registers.size_bytes or 0),
        between(registers.latency_cycles),
        kib(shared.size_bytes or 0),
        kib(limit("h100", "shared_per_block")),
        between(shared.latency_cycles, 1),
        f"{(l2.size_bytes or 0) / 2**20:.0f} MiB",
        between(l2.latency_cycles),
        gib(hbm.size_bytes or 0),
        between(hbm.latency_cycles),
        between(hbm.latency_ns),
        f"{limit('h100', 'registers_per_thread')}",
        kib(limit("a100", "shared_per_sm")),
        kib(limit("a100", "shared_per_block")),
        f"{limit('a100', 'shared_per_block'):,.0f}",
        kib(limit("a100", "shared_reserved_per_block")),
        between(far.latency_cycles),
        between(far.far_latency_cycles),
    ]


def prefixes() -> list[str]:
    added = parse("1 GiB", "B") / parse("1 GB", "B") - 1
    return [percent(added, 1), gib(load_gpu("h100").hbm_capacity_bytes), gib(load_gpu("b200").hbm_capacity_bytes)]


def links() -> list[str]:
    assert load_gpu("l40s").link_bytes_per_s is None
    nvlink = [direction(load_gpu(name).link_bytes_per_s) for name in ("a100", "h100", "b200")]
    return [*nvlink, *(direction(load_gpu(name).host_bytes_per_s) for name in ("h100", "l40s"))]


def copies() -> list[str]:
    assert "cp.async" in load_gpu("a100").architecture.features
    assert "tma" not in load_gpu("a100").architecture.features
    assert {"cp.async", "tma"} <= set(load_gpu("h100").architecture.features)
    return []


def tiles() -> list[str]:
    shapes = (1 * 128, 32 * 128, 32 * 32)
    sizes = [elements * dtype(name).element_bytes for elements in shapes for name in ("fp16", "fp32")]
    alone = record(heads=1, kv_heads=1, head_dim=128, seq=32).attention
    assert alone is not None and (alone.query_bytes, alone.key_bytes) == (sizes[0], sizes[2])
    return [f"{size:.0f} B" if size < 1024 else kib(size) for size in sizes]


def blocks() -> list[str]:
    small = ("a10", "a40", "rtx-3090", "l4", "l40s", "rtx-4090", "rtx-5090")
    held = {limit(name, "threads_per_sm") for name in small}
    threads = 32 * 32
    assert len(held) == 1 and limit("h100", "threads_per_sm") // threads == 2
    (on_an_sm,) = held
    return [
        f"{limit('l40s', 'threads_per_block')}",
        f"{limit('l40s', 'registers_per_block') // threads}",
        f"{on_an_sm}",
        percent(on_an_sm // threads * threads / on_an_sm),
    ]


# ----------------------------------------------------------------------------------------------------- tensor cores


def dense() -> list[str]:
    gpu = load_gpu("h100")
    tensor, boost = gpu.profile.clocks.tensor, gpu.profile.clocks.boost
    assert tensor and boost
    return [
        *(tera(peak(name, "bf16", "fp32")) for name in ("h100", "h100-nvl", "h100-pcie")),
        tera(peak("h100", "fp8", "fp32")),
        f"{tensor.value / 1e6:.0f}",
        f"{boost.value / 1e6:.0f}",
        percent(boost.value / tensor.value - 1),
    ]


def mma_flops() -> list[str]:
    rate = load_gpu("h100").architecture.rate("bf16", "fp32", "wgmma", geforce=False)
    assert rate is not None and rate.value == 2 * 16 * 8 * 16
    return [f"{2 * 16 * 16 * 16}", f"{rate.value:.0f}"]


def padding() -> list[str]:
    mha, gqa = record(heads=32, kv_heads=32).attention, record(heads=32, kv_heads=8).attention
    assert mha and gqa and load_gpu("h100").mma_rows == 64
    aligned = [f"{16 // dtype(name).element_bytes:.0f}" for name in ("fp16", "fp8")]
    filled = [facts.mma_utilisation_by_tile_rows[rows] for facts in (mha, gqa) for rows in ("16", "64")]
    return [*aligned, *(f"{share * 100:.3g} %" for share in filled)]


def geforce() -> list[str]:
    cards = ("rtx-3090", "rtx-4090", "rtx-5090")
    pairs = [tera(peak(card, "fp16", kept, "mma.sync")) for card in cards for kept in ("fp16", "fp32")]
    return [*pairs, tera(peak("rtx-pro-6000", "fp16", "fp32")), tera(peak("rtx-5090", "fp8", "fp32"))]


def fp8_on_ampere() -> list[str]:
    assert not has_unit("a100", "fp8")
    narrow = record(gpu="a100", weight_dtype="fp8", activation_dtype="fp8")
    used = next(p for p in narrow.gpu.peaks if p.operand == "fp8")
    bounds = [f"{r.step.bound_s * 1e3:.2f}" for r in (record(gpu="a100"), narrow)]
    return [tera(used.flops_per_s), *bounds, tera(peak("a100", "int8", "int32"))]


def int4_on_hopper() -> list[str]:
    assert not has_unit("h100", "int4")
    narrow = record(gpu="h100", weight_dtype="int4")
    (used,) = narrow.gpu.peaks
    weights = [f"{r.step.weight_bytes / 1e9:.3g}" for r in (record(gpu="h100"), narrow)]
    return [tera(peak("a100", "int4", "int32")), tera(used.flops_per_s), *_with_zero(weights)]


def _with_zero(figures: list[str]) -> list[str]:
    """Three digits, the last a zero as well: 15 is 15.0."""
    return [figure if "." in figure else f"{figure}.0" for figure in figures]


def blackwell_ultra() -> list[str]:
    pair = ("b300", "b200")
    exponentials = [load_gpu(name).architecture.per_clock.exponentials for name in pair]
    used = record(gpu="b300", weight_dtype="int8", activation_dtype="int8").gpu.peaks
    return [
        *(tera(peak(name, "int8", "int32")) for name in pair),
        *(tera(peak(name, "fp64", "fp64")) for name in pair),
        *(f"{reading.value:.0f}" for reading in exponentials if reading),
        *{tera(p.flops_per_s) for p in used if p.operand == "int8" and p.dtype == "fp16"},
    ]


def instructions() -> list[str]:
    slow, fast = peak("h100", "bf16", "fp32", "mma.sync"), peak("h100", "bf16", "fp32", "wgmma")
    return [percent(slow / fast), tera(slow), tera(fast)]


def conversion() -> list[str]:
    gpu, step = load_gpu("h100"), stage("attention", gpu="h100", kv_dtype="fp8")
    assert gpu.conversions_per_s is not None and dtype("fp8").element_bytes == 1
    return [
        f"{gpu.conversions_per_s / 1e12:.2f}",
        f"{gpu.hbm_bytes_per_s / 1e12:.2f}",
        f"{step.ceilings.conversion_s * 1e6:.0f}",
        f"{step.resources.hbm_s * 1e6:.1f}",
    ]


# -------------------------------------------------------------------------------------------------------- attention


def flash() -> list[str]:
    plain, fused = stage("attention", fusion="eager"), stage("attention", fusion="serving")
    assert plain.kv_read_bytes == fused.kv_read_bytes
    saved = []
    for group in (1, 4, 8):
        eager, serving = (record(heads=32, kv_heads=32 // group, fusion=f).step for f in ("eager", "serving"))
        saved.append(percent((eager.hbm_bytes - serving.hbm_bytes) / serving.kv_read_bytes, 1))
    return [f"{fused.kv_read_bytes // fused.layers:,}", *saved]


def splitting() -> list[str]:
    gpu, kv_heads = load_gpu("h100"), attention_of("llama-3.1-8b").kv_heads
    assert gpu.sms
    streamed = kv_heads * parse("67 GB/s", "B/s")
    batch = ceil_div(gpu.sms, kv_heads)
    return [f"{kv_heads}", f"{gpu.sms}", percent(streamed / gpu.hbm_bytes_per_s), f"{batch}"]


def wrong_softmax(scores: np.ndarray, values: np.ndarray, tile: int) -> np.ndarray:
    """The recurrence as it is often written: normalised and unnormalised mixed."""
    m, l_sum, out = -np.inf, 0.0, np.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        part = scores[start : start + tile]
        new_m = max(m, part.max())
        weights = np.exp(part - new_m)
        new_l = l_sum * np.exp(m - new_m) + weights.sum()
        out = out * (l_sum / new_l) + weights @ values[start : start + tile]
        m, l_sum = new_m, new_l
    return out / l_sum


def unnormalised_softmax(scores: np.ndarray, values: np.ndarray, tile: int) -> np.ndarray:
    m, l_sum, out = -np.inf, 0.0, np.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        part = scores[start : start + tile]
        new_m = max(m, part.max())
        weights, a = np.exp(part - new_m), np.exp(m - new_m)
        l_sum = a * l_sum + weights.sum()
        out = a * out + weights @ values[start : start + tile]
        m = new_m
    return out / l_sum


def normalised_softmax(scores: np.ndarray, values: np.ndarray, tile: int) -> np.ndarray:
    m, l_sum, out = -np.inf, 0.0, np.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        part = scores[start : start + tile]
        new_m = max(m, part.max())
        weights, a = np.exp(part - new_m), np.exp(m - new_m)
        new_l = a * l_sum + weights.sum()
        out = (a * l_sum / new_l) * out + weights @ values[start : start + tile] / new_l
        m, l_sum = new_m, new_l
    return out


def exact_softmax(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


def recurrences() -> list[str]:
    tile, found = 32, []
    for count in (1, 2, 4, 128):
        scores, values = np.full(count * tile, 0.7), np.ones((count * tile, 1))
        found += [f"{f(scores, values, tile)[0]:.4f}" for f in (wrong_softmax, unnormalised_softmax)]
    return found


def grouped() -> list[str]:
    mixer, per_token = attention_of("llama-3.1-8b"), record().memory.kv_bytes_per_token
    read = stage("attention").kv_read_bytes
    every_head = 2 * mixer.heads * mixer.head_dim * 4096 * 2 * layers(load_model("llama-3.1-8b"))
    return [f"{mixer.heads}", f"{mixer.kv_heads}", kib(per_token), f"{every_head / read:.0f}×"]


def read_and_written() -> list[str]:
    step = record().step
    return [f"{step.kv_read_bytes:,}", f"{step.kv_write_bytes:,}"]


def latent() -> list[str]:
    model = load_model("deepseek-v3")
    (mixer,) = model.mixers.values()
    assert isinstance(mixer, Latent)
    assert (mixer.kv_lora_rank, mixer.rope_head_dim, mixer.heads) == (512, 64, 128)
    cached = mixer.kv_lora_rank + mixer.rope_head_dim
    expanded = mixer.heads * (mixer.nope_head_dim + mixer.rope_head_dim + mixer.v_head_dim)
    per_token = record(model="deepseek-v3").memory.kv_bytes_per_token
    assert per_token == cached * layers(model) * 2
    return [f"{cached}", f"{per_token / 2**10:.1f} KiB", f"{expanded / cached:.0f}×"]


def causal() -> list[str]:
    spent, seq = stage("attention", phase="prefill").matrix_flops, 4096
    return [f"{flops / 1e12:.2f}" for flops in (spent, spent * seq**2 / (seq * (seq + 1) // 2))]


def one_row() -> list[str]:
    return [best_share(name, "gemv_bandwidth") for name in ("h100", "a100")]


# ------------------------------------------------------------------------------------------------------ parallelism


def all_reduces() -> list[str]:
    return [f"{2 * layers(load_model('llama-3.1-70b'))}"]


def scaling() -> list[str]:
    mixer, model = attention_of("llama-3.1-70b"), "llama-3.1-70b"
    found = [f"{mixer.heads}", f"{mixer.kv_heads}"]
    for tp in (4, 8, 16):
        options = {"gpu": "h100", "model": model, "tp": tp, "batch": 64, "seq": 16384}
        found.append(kib(record(**options).memory.kv_bytes_per_token))
        found.append(f"{stage('attention', **options).bound_s * 1e3:.1f}")
    one, eight = (record(model="deepseek-v3", tp=tp).memory.kv_bytes_per_token for tp in (1, 8))
    assert one == eight
    return [
        *found,
        f"{eight / 2**10:.1f} KiB",
        f"{record(gpu='h100', model=model, tp=8).step.resources.hbm_s * 1e3:.2f}",
    ]


def divided_weights() -> list[str]:
    found = []
    for tp in (4, 1):
        step = record(gpu="h100", model="llama-3.1-70b", tp=tp).step
        found += [f"{step.weight_bytes / 1e9:.3g}", f"{step.resources.hbm_s * 1e3:.3g}"]
    return found


def kernels_together() -> list[str]:
    return [f"{stage('qkv_projection', qkv_gemms=gemms).kernels}" for gemms in (3, 1)]


# -------------------------------------------------------------------------------------------------- modelling tools


def efficiency() -> list[str]:
    return [best_share(name, "decode_attention_bandwidth") for name in ("a100", "h100", "h200", "b200")]


def experts() -> list[str]:
    tables = [
        next(f for f in load_model(m).ffns.values() if isinstance(f, Experts)) for m in ("mixtral-8x7b", "deepseek-v3")
    ]
    assert [(f.experts, f.top_k) for f in tables] == [(8, 2), (256, 8)]
    expected = [expected_experts(ffn, tokens) for tokens in (1, 4, 8, 32, 64) for ffn in tables]
    return [f"{hit:.2f}" if hit < 10 else f"{hit:.3g}" for hit in expected]


def embedding() -> list[str]:
    facts, model, step = record().model, load_model("llama-3.1-8b"), record().step
    assert facts.parameters and facts.streamed_parameters
    row = model.hidden_size * dtype("bf16").element_bytes
    assert stage("embedding").compulsory_bytes == row + 4
    table = row * model.vocab_size
    return [
        f"{row:,}",
        f"{facts.parameters / 1e9:.2f}",
        f"{facts.streamed_parameters / 1e9:.2f}",
        percent(table / step.compulsory_bytes, 1),
    ]


def none() -> list[str]:
    return []


# The figures in bold under each heading, in their order.
FIGURES: dict[str, Callable[[], list[str]]] = {
    '"Registers 1 cycle, shared memory 1–3, L2 20, HBM 300–400"': hierarchy,
    '"GB and GiB are the same"': prefixes,
    '"NVLink moves 900 GB/s"': links,
    '"The H100\'s copy engine streams the tiles of K and V"': copies,
    '"1 × 128 in fp16 is 512 bytes, a 32 × 32 tile is 4 KB"': tiles,
    '"(32, 32) is a good block"': blocks,
    '"An H100 does 1,979 TFLOP/s in bf16"': dense,
    '"One 16×16×16 MMA is 4096 FLOP"': mma_flops,
    '"M, N and K must be multiples of 16"': padding,
    '"A 4090 does 330 TFLOP/s in fp16"': geforce,
    '"FP8 doubles the compute of an A100"': fp8_on_ampere,
    '"INT4 doubles INT8 on Hopper"': int4_on_hopper,
    '"A B300 is a B200 with more memory"': blackwell_ultra,
    '"`mma.sync` reaches the peak of an H100"': instructions,
    '"INT8 tensor cores dequantise K and V inside the MMA"': conversion,
    '"Flash attention cuts KV traffic from O(S·d) to O(S·d/BLOCK)", "from 4 reads of K and V to 2"': flash,
    '"Flash decoding is 2–4× faster on long sequences"': splitting,
    '"Flash attention is two passes: the backward one recomputes"': none,
    '"output = output·(l_old/l) + Σexp(S − m)·V, divided by l at the end"': recurrences,
    '"KV traffic grows with the query heads"': grouped,
    '"The KV cache is loaded and stored in each step"': read_and_written,
    '"DeepSeek-V3 caches 128 KV heads"': latent,
    '"Prefill attention computes S² scores"': causal,
    '"cuBLAS is not optimised for M = 1"': one_row,
    '"Tensor parallelism splits K and V by head_dim, with an all-to-all in attention"': all_reduces,
    '"It scales linearly up to the number of heads"': scaling,
    '"Decode bytes do not depend on the number of GPUs"': divided_weights,
    '"Batch the small GEMMs of all layers"': kernels_together,
    '"Every GPU reaches 0.8 of its bandwidth"': efficiency,
    '"A MoE step reads min(E, k·T) experts"': experts,
    '"All parameters are read in each step"': embedding,
}


def test_every_heading_has_its_figures() -> None:
    assert list(sections()) == list(FIGURES)


@pytest.mark.parametrize("heading", FIGURES)
def test_the_figures_in_bold_are_what_kvperf_computes(heading: str) -> None:
    assert re.findall(r"\*\*(.+?)\*\*", sections()[heading]) == FIGURES[heading]()


def test_every_footnote_is_used_and_defined() -> None:
    named = set(re.findall(r"\[\^(\w+)\](?!:)", TEXT))
    assert named == set(re.findall(r"^\[\^(\w+)\]:", TEXT, re.MULTILINE))


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_the_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "kvperf"
    assert run(arguments) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("tile_count", [1, 2, 3, 7, 64, 1000])
def test_the_wrong_recurrence_gives_half_the_answer(tile_count: int) -> None:
    scores, values = np.full(tile_count * 16, -3.2), np.ones((tile_count * 16, 3))
    expected = (tile_count + 1) / (2 * tile_count)
    assert wrong_softmax(scores, values, 16) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("right", [unnormalised_softmax, normalised_softmax])
@pytest.mark.parametrize("scores", ["equal", "random", "rising", "falling"])
@pytest.mark.parametrize("length", [1, 32, 33, 4096])
def test_the_right_recurrences_are_exact(right: Callable[..., np.ndarray], scores: str, length: int) -> None:
    generator = np.random.default_rng(7)
    given = {
        "equal": np.zeros(length),
        "random": generator.normal(size=length) * 4,
        "rising": np.linspace(-50, 700, length),
        "falling": np.linspace(700, -50, length),
    }[scores]
    values = generator.normal(size=(length, 8))
    exact = exact_softmax(given, values)
    np.testing.assert_allclose(right(given, values, 32), exact, rtol=0, atol=1e-13)
    if scores == "random" and length == 4096:
        error = wrong_softmax(given, values, 32) - exact
        assert np.linalg.norm(error) > 0.1 * np.linalg.norm(exact)
    if length <= 32:
        np.testing.assert_allclose(wrong_softmax(given, values, 32), exact, rtol=0, atol=1e-13)
