"""Every kernel on the interpreter: right results under adversarial schedules, and exactly the predicted traffic."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from kvperf.errors import KvperfError
from kvperf.kernel import toolkit
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.traffic import traffic
from tests.kernel.attention import Case, Result, execute

# Relative norm of the error: of half-precision results, and of fp32 ones where all sums were fp32.
LIMIT, LIMIT_FP32 = 2e-3, 1e-5
# Storing a result in bf16 costs 1.7e-3 by itself (half of 2^-7, evenly spread), weights in bf16 1.2e-3 on top of it.
LIMIT_BF16_MATRIX = 2.5e-3
SCHEDULES = ("greedy", "forward", "reverse", "random")
FULL = bool(os.environ.get("KVPERF_TEST_FULL"))


def _has_nvrtc() -> bool:
    try:
        return bool(toolkit.nvrtc())
    except KvperfError:
        return False


needs_nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="NVRTC is not installed (extra `kernels`)")
pytestmark = needs_nvrtc


def agrees(result: Result) -> bool:
    """Whether the run asked for what the closed form says, byte for byte."""
    said = traffic(result.plan)
    found = (result.loads(), result.stores(), result.atomics(), result.mma())
    return found == tuple(dict(sorted(part.items())) for part in (said.loads, said.stores, said.atomics, said.mma))


def check(case: Case, limit: float | None = None) -> None:
    """Run it, and compare the result and every count. NaN fails: no comparison with it holds."""
    result = execute(case)
    assert result.error <= (limit or limit_of(case)), case
    said = traffic(result.plan)
    assert result.loads() == dict(sorted(said.loads.items())), case
    assert result.stores() == dict(sorted(said.stores.items())), case
    assert result.atomics() == said.atomics, case
    assert result.mma() == dict(sorted(said.mma.items())), case


def limit_of(case: Case) -> float:
    in_bf16 = case.dtype == "bf16" and not case.output_fp32 and "tensor cores" in KERNELS[case.kernel].strategies
    return LIMIT_BF16_MATRIX if in_bf16 else LIMIT


def _configurations(name: str) -> list[Case]:
    """Nine of dtype × head_dim × group that hold every pair of values."""
    row = KERNELS[name].support[0]
    if name == "mla":
        return [Case(name, d, 576, g, kv_heads=1, arch=a) for d, g, a in (("fp16", 16, "89"), ("bf16", 40, "90"), ("fp16", 5, "90"))]  # fmt: skip
    groups = (1, 3, row.max_group if row.max_group < 16 and KERNELS[name].shares else 8)
    found = []
    for i, head_dim in enumerate(row.head_dims):
        for j, group in enumerate(groups):
            dtype = row.dtypes[(i + j) % 2]
            found.append(Case(name, dtype, head_dim, group, kv_heads=1 if group > 3 else 2, arch="90"))
    return found


def _cases(name: str) -> list[Case]:
    """Every length with every schedule, dealt out to the configurations; with and without splits."""
    configurations = _configurations(name)
    tile = configurations[0].plan.geometry.tokens
    lengths = (1, tile - 1, tile, tile + 1, 77, 500, 1024)
    pairs = [(length, schedule) for schedule in SCHEDULES for length in lengths]
    if FULL:
        return [
            replace(c, seq=length, schedule=schedule, splits=splits)
            for c in configurations
            for length, schedule in pairs
            for splits in (1, 3)
        ]
    chosen = []
    for i, (length, schedule) in enumerate(pairs):
        # A long sequence on a short tile takes time; two schedules see it.
        if length >= 500 and schedule in ("forward", "reverse"):
            continue
        configuration = configurations[i % len(configurations)]
        if length == 1024 and configuration.group > 3:
            configuration = configurations[0]
        chosen.append(replace(configuration, seq=length, schedule=schedule, splits=1 if i % 2 else 3))
    return chosen


def _label(case: Case) -> str:
    return f"{case.dtype}-d{case.head_dim}-g{case.group}-s{case.seq}-{case.schedule}-x{case.splits}"


ALL = [case for name in KERNELS for case in _cases(name)]


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.kernel}-{_label(c)}")
def test_right_result_and_predicted_traffic(case: Case) -> None:
    check(case)


IN_FP32 = [n for n, k in KERNELS.items() if "tensor cores" not in k.strategies]


@pytest.mark.parametrize("name", IN_FP32)
def test_fp32_sums_are_exact_to_a_hundred_thousandth(name: str) -> None:
    check(Case(name, group=2, seq=333, splits=3, output_fp32=True), LIMIT_FP32)


@pytest.mark.parametrize("name", [n for n in KERNELS if n not in IN_FP32])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_matrix_products_round_only_the_weights(name: str, dtype: str) -> None:
    shape = {"head_dim": 576, "kv_heads": 1, "group": 16} if name == "mla" else {}
    check(Case(name, dtype, seq=333, splits=3, output_fp32=True, **shape), LIMIT)


@pytest.mark.parametrize("name", KERNELS)
def test_rising_scores_and_constant_values(name: str) -> None:
    """A wrong rescale passes where the first tile has the maximum, and a wrong sum where values average out."""
    shape = {"head_dim": 576, "kv_heads": 1, "group": 16} if name == "mla" else {"group": 2, "kv_heads": 1}
    check(Case(name, seq=400, values="rising", splits=2, **shape))
    if name != "mla":
        result = execute(Case(name, seq=400, values="constant", splits=2, **shape))
        np.testing.assert_allclose(result.found, 1, atol=2e-3)


@pytest.mark.parametrize("group", [1, 4, 5, 7, 12, 16])
@pytest.mark.parametrize("name", ["vector_loads", "async_ring", "tensor_cores", "int8_mma"])
def test_any_group(name: str, group: int) -> None:
    check(Case(name, group=group, seq=130, kv_heads=1, schedule="random"))


@pytest.mark.parametrize(("group", "q_len"), [(1, 2), (4, 3), (8, 4), (3, 7)])
def test_several_query_tokens(group: int, q_len: int) -> None:
    for splits in (1, 4):
        check(Case("tensor_cores", group=group, q_len=q_len, seq=200, batch=2, kv_heads=1, splits=splits))


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if n != "mla"])
def test_batches_and_heads_keep_apart(name: str) -> None:
    check(Case(name, batch=2, kv_heads=3, group=2, seq=45, schedule="random"))


@pytest.mark.parametrize("name", KERNELS)
def test_reread_factor(name: str) -> None:
    """Exactly the group for one block per query head, exactly 1 for one block per KV head."""
    shape = {"head_dim": 576, "kv_heads": 1, "group": 16} if name == "mla" else {"group": 4}
    planned = Case(name, seq=100, splits=2, **shape).plan
    assert traffic(planned).reread_factor == (1 if KERNELS[name].shares else 4)


def test_128_heads_of_mla_are_read_twice_where_64_fit() -> None:
    planned = Case("mla", head_dim=576, group=128, kv_heads=1, seq=40).plan
    assert planned.defines["HEADS"] == 64
    assert traffic(planned).reread_factor == 2
    check(Case("mla", head_dim=576, group=128, kv_heads=1, seq=40))


def test_padding_of_matrix_rows_is_shown_apart() -> None:
    assert traffic(Case("tensor_cores", group=4).plan).useful_mma_share == 0.25
    assert traffic(Case("mla", head_dim=576, group=16, kv_heads=1).plan).useful_mma_share == 1
    assert traffic(Case("vector_loads").plan).useful_mma_share == 1
