"""Every kernel on the interpreter: right results under adversarial schedules, and exactly the predicted traffic."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.reference import relative_error
from kvperf.kernel.traffic import traffic
from kvperf.kernel.trial import Case, Result, execute, small
from kvperf.kernel.verify import LIMIT, LIMIT_FP32, error_of
from tests.nvrtc import needs_nvrtc

FULL = bool(os.environ.get("KVPERF_TEST_FULL"))

pytestmark = needs_nvrtc


def check(case: Case, limit: float | None = None) -> None:
    """Run it, and compare the result and every count. NaN fails: no comparison with it holds."""
    result = execute(case)
    assert error_of(case, result) <= (limit or LIMIT), case
    said = traffic(result.plan)
    assert result.loads() == dict(sorted(said.loads.items())), case
    assert result.stores() == dict(sorted(said.stores.items())), case
    assert result.atomics() == said.atomics, case
    assert result.mma() == dict(sorted(said.mma.items())), case


def _configurations(name: str) -> list[Case]:
    """dtype × head_dim × group, such that every pair of values occurs."""
    row = KERNELS[name].support[0]
    if name == "mla":
        shapes = (("fp16", 16, "89"), ("bf16", 40, "90"), ("fp16", 5, "90"))
        return [Case(name, dtype, 576, group, kv_heads=1, arch=arch) for dtype, group, arch in shapes]
    # Where a block serves one query head, the group is a division and no code of its own.
    groups = (1, 3, min(8, row.max_group)) if KERNELS[name].shares else (1, 3)
    return [
        Case(name, row.dtypes[(i + j) % 2], head_dim, group, kv_heads=1 if group > 1 else 2)
        for i, head_dim in enumerate(row.head_dims)
        for j, group in enumerate(groups)
    ]


def _cases(name: str) -> list[Case]:
    """Every length with every schedule, dealt out to the configurations; with and without splits."""
    configurations = _configurations(name)
    if FULL:
        tile = max(c.plan.geometry.tokens for c in configurations)
        short = [
            replace(c, seq=length, schedule=schedule, splits=splits)
            for c in configurations
            for length in (1, tile - 1, tile, tile + 1, 77)
            for schedule in SCHEDULES
            for splits in (1, 3)
        ]
        # Long sequences take long on the interpreter: one schedule each, another for every configuration.
        long = [
            replace(c, seq=length, schedule=SCHEDULES[(i + splits) % len(SCHEDULES)], splits=splits)
            for i, c in enumerate(configurations)
            for length in (500, 1024)
            for splits in (1, 4)
        ]
        return short + long
    chosen = []
    for i in range(5 * len(SCHEDULES)):
        configuration = configurations[i % len(configurations)]
        tile = configuration.plan.geometry.tokens
        length = (1, tile - 1, tile, tile + 1, 77)[i % 5]
        chosen.append(replace(configuration, seq=length, schedule=SCHEDULES[i // 5], splits=1 if i % 2 else 3))
    # Long sequences take long on the interpreter: the plainest shapes, all warps together where there are 32.
    plain = min(configurations, key=lambda c: (c.group * c.kv_heads, c.head_dim))
    plain = replace(plain, kv_heads=1, schedule="greedy" if KERNELS[name].shares else "forward")
    return [*chosen, replace(plain, seq=500, splits=1), replace(plain, seq=1024, splits=4)]


def _label(case: Case) -> str:
    return f"{case.dtype}-d{case.head_dim}-g{case.group}-s{case.seq}-{case.schedule}-x{case.splits}"


ALL = [case for name in KERNELS for case in _cases(name)]


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.kernel}-{_label(c)}")
def test_right_result_and_predicted_traffic(case: Case) -> None:
    check(case)


IN_FP32 = [n for n, k in KERNELS.items() if "tensor cores" not in k.strategies]


@pytest.mark.parametrize("name", IN_FP32)
def test_fp32_sums_are_exact_to_a_hundred_thousandth(name: str) -> None:
    check(small(name, seq=133, splits=3, output_fp32=True), LIMIT_FP32)


@pytest.mark.parametrize("name", [n for n in KERNELS if n not in IN_FP32])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_matrix_products_round_only_the_weights(name: str, dtype: str) -> None:
    check(small(name, dtype=dtype, seq=133, splits=3, output_fp32=True), LIMIT)


@pytest.mark.parametrize("name", KERNELS)
def test_rising_scores_and_constant_values(name: str) -> None:
    """A wrong rescale passes where the first tile has the maximum, and a wrong sum where values average out."""
    check(small(name, seq=200, values="rising", splits=2, schedule="forward"))
    if name != "mla":
        result = execute(small(name, seq=200, values="constant", splits=2, schedule="forward"))
        np.testing.assert_allclose(result.found, 1, atol=2e-3)


@pytest.mark.parametrize("values", ["sink", "faint"])
@pytest.mark.parametrize("name", KERNELS)
def test_an_attention_sink_and_faint_values(name: str, values: str) -> None:
    """Weights that are small, or become so by the scale of their value, keep their digits."""
    for dtype in KERNELS[name].support[0].dtypes:
        check(small(name, dtype=dtype, seq=100, values=values, splits=2 if values == "faint" else 1))


@pytest.mark.parametrize("group", range(1, 17) if FULL else [5, 16])
@pytest.mark.parametrize("name", ["vector_loads", "async_ring", "bulk_copy", "tensor_cores", "int8_mma"])
def test_any_group(name: str, group: int) -> None:
    check(Case(name, group=group, seq=130, kv_heads=1, schedule="random"))


@pytest.mark.parametrize(("group", "q_len"), [(1, 2), (4, 3), (8, 4), (3, 7)])
def test_several_query_tokens(group: int, q_len: int) -> None:
    for splits in (1, 4):
        check(Case("tensor_cores", group=group, q_len=q_len, seq=200, batch=2, kv_heads=1, splits=splits))


@pytest.mark.parametrize("splits", [1, 3, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pages_of_sequences_of_many_lengths(splits: int, schedule: str) -> None:
    """A split past the end of a short sequence reads nothing and leaves an empty piece."""
    lengths = (1, 300, 64, 65, 130)
    check(Case("paged", batch=5, group=2, kv_heads=1, seq=300, lengths=lengths, splits=splits, schedule=schedule))


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if n != "mla"])
def test_batches_and_heads_keep_apart(name: str) -> None:
    check(Case(name, batch=2, kv_heads=3, group=2, seq=45))


@pytest.mark.parametrize("name", KERNELS)
def test_what_lies_beyond_the_sequence_does_no_harm(name: str) -> None:
    """Behind the last key lie those of the next head: NaN here, and the first head must not notice."""
    case = small(name, batch=2, kv_heads=1 if name == "mla" else 2, seq=45, values="neighbours", splits=2)
    result = execute(case)
    mine, others = result.found[0, :, : case.group], result.found[1]
    assert relative_error(mine, result.expected[0, :, : case.group]) <= LIMIT
    assert np.isnan(others).all()


@pytest.mark.parametrize("name", KERNELS)
def test_reread_factor(name: str) -> None:
    """Exactly the group for one block per query head, exactly 1 for one block per KV head."""
    planned = small(name, seq=100, splits=2, dtype="bf16").plan
    assert traffic(planned).reread_factor == (1 if KERNELS[name].shares else planned.shape.group)


def test_128_heads_of_mla_are_read_twice_where_64_fit() -> None:
    planned = Case("mla", head_dim=576, group=128, kv_heads=1, seq=40).plan
    assert planned.defines["HEADS"] == 64
    assert traffic(planned).reread_factor == 2
    check(Case("mla", head_dim=576, group=128, kv_heads=1, seq=40))


def test_mla_reads_its_queries_once_for_16_keys() -> None:
    """With 64 heads shared memory is what a token takes longest from: 143 wavefronts if it were once for 8 keys."""
    plain = Case("mla", head_dim=576, group=64, kv_heads=1, schedule="forward")
    short, long = (execute(replace(plain, seq=seq)).counts[0] for seq in (32, 96))
    assert short.bank_conflicts == long.bank_conflicts == 0
    assert long.shared_wavefronts - short.shared_wavefronts <= 64 * 107


def test_padding_of_matrix_rows_is_shown_apart() -> None:
    assert traffic(Case("tensor_cores", group=4).plan).useful_mma_share == 0.25
    assert traffic(Case("mla", head_dim=576, group=16, kv_heads=1).plan).useful_mma_share == 1
    assert traffic(Case("vector_loads").plan).useful_mma_share == 1


LANES = ["vector_loads", "async_ring", "bulk_copy", "int8_kv", "fp8_kv", "paged", "persistent"]


@pytest.mark.parametrize("name", LANES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_lanes_of_a_key_meet_no_bank_twice(name: str, head_dim: int) -> None:
    """More keys cost no more bank conflicts: those of the merge at the end remain."""
    case = small(name, head_dim=head_dim, schedule="forward")
    short, long = (execute(replace(case, seq=tiles * case.plan.geometry.tokens)) for tiles in (1, 3))
    conflicts = [sum(counts.bank_conflicts for counts in result.counts) for result in (short, long)]
    assert conflicts[0] == conflicts[1]


@pytest.mark.parametrize("name", IN_FP32)
def test_multiply_adds_are_those_executed(name: str) -> None:
    """The multiplications of one more tile of keys are those of the closed form, whatever a launch costs besides."""
    short, long = small(name, seq=128, schedule="forward"), small(name, seq=256, schedule="forward")
    said = traffic(long.plan).multiply_adds - traffic(short.plan).multiply_adds
    found = _multiplications(execute(long)) - _multiplications(execute(short))
    # Rescaling of sums and outputs, and the arithmetic of unpacking, are what a tile costs besides.
    assert said <= found <= 1.35 * said


def _multiplications(result: Result) -> int:
    """fp32 multiplications: compilers turn a·b + c·d into one of them and a fused one."""
    opcodes = [counts.opcodes for counts in result.counts]
    return sum(n for part in opcodes for name, n in part.items() if name.startswith(("mul.", "fma.")) and "f32" in name)
