"""The small kernels of a decode step: right on the interpreter, and the bytes of their tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kvperf.emulator import e4m3_values
from kvperf.kernel.pipeline_kernels import launch
from tests.kernel.small import SCHEDULES, Array, close, execute, poisoned, random, values
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
DTYPES = ("fp16", "bf16")
WIDTHS = list(zip([8, 77, 520, 8200], SCHEDULES, strict=True))
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


@by_dtype
@pytest.mark.parametrize("width", [8, 100, 4104])
def test_embedding(width: int, dtype: str) -> None:
    table, _ = random(1, 7, width, dtype=dtype)
    ids = np.array([6, 0, 6], np.int32)
    table[1:6] = poisoned(5, width, dtype=dtype)
    out = poisoned(3, width, dtype=dtype)
    execute(launch("embedding", dtype, T=3, d=width), {"table": table, "ids": ids, "out": out}, ("out",))
    assert (out.view(np.uint16) == table[ids].view(np.uint16)).all()


def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


@by_dtype
@pytest.mark.parametrize(("width", "schedule"), WIDTHS)
def test_rms_norm(width: int, schedule: str, dtype: str) -> None:
    (x, exact), (weight, weights) = random(1, 3, width, dtype=dtype), random(2, width, dtype=dtype)
    out = poisoned(3, width, dtype=dtype)
    arguments = {"x": x, "weight": weight, "out": out, "epsilon": np.float32(0.1)}
    execute(launch("rms_norm", dtype, T=3, d=width), arguments, ("out",), schedule)
    assert close(out, _norm(exact, weights, 0.1), dtype)


@by_dtype
@pytest.mark.parametrize(("width", "schedule"), WIDTHS)
def test_add_rms_norm(width: int, schedule: str, dtype: str) -> None:
    (x, update), (weight, weights) = random(1, 3, width, dtype=dtype), random(2, width, dtype=dtype)
    (residual, before), out = random(3, 3, width, dtype=dtype), poisoned(3, width, dtype=dtype)
    arguments = {"residual": residual, "x": x, "weight": weight, "out": out, "epsilon": np.float32(0.1)}
    execute(launch("add_rms_norm", dtype, T=3, d=width), arguments, ("out",), schedule)
    after = values(residual, dtype)
    assert close(residual, before + update, dtype)
    assert close(out, _norm(after, weights, 0.1), dtype)


@by_dtype
@pytest.mark.parametrize(("width", "rotated"), [(128, 128), (128, 32), (80, 20), (64, 16)])
def test_rope(width: int, rotated: int, dtype: str) -> None:
    shape = launch("rope", dtype, T=2, H=3, K=2, D=width, r=rotated)
    (q, queries), (k, keys) = random(1, 2, 3, width, dtype=dtype), random(2, 2, 2, width, dtype=dtype)
    positions, half = np.array([5, 2], np.int32), rotated // 2
    angles = np.arange(7)[:, None] / 10000 ** (np.arange(half) / half)
    table = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    table[[0, 1, 3, 4, 6]] = np.nan
    q_out, k_out = poisoned(*q.shape, dtype=dtype), poisoned(*k.shape, dtype=dtype)
    arguments = {"q": q, "k": k, "positions": positions, "table": table, "q_out": q_out, "k_out": k_out}
    execute(shape, arguments, ("q_out", "k_out"), "greedy")

    turn = np.exp(1j * angles[positions])[:, None]
    for found, given in ((q_out, queries), (k_out, keys)):
        pairs = (given[..., :half] + 1j * given[..., half:rotated]) * turn
        expected = np.concatenate([pairs.real, pairs.imag, given[..., rotated:]], -1)
        assert close(found, expected, dtype)
        assert (values(found, dtype)[..., rotated:] == given[..., rotated:]).all()


@by_dtype
@pytest.mark.parametrize("width", [8, 77, 2056])
def test_silu_mul(width: int, dtype: str) -> None:
    gate_up, exact = random(1, 2, 2, width, dtype=dtype, spread=4)
    gate_up[0, 0, :2] = np.array([-300, 300], np.float32).view(np.uint32) >> 16 if dtype == "bf16" else [-300, 300]
    exact[0, 0, :2] = [-300, 300]
    out = poisoned(2, width, dtype=dtype)
    execute(launch("silu_mul", dtype, T=2, I=width), {"gate_up": gate_up, "out": out}, ("out",))
    gate, up = exact[:, 0], exact[:, 1]
    assert close(out, gate / (1 + np.exp(-gate)) * up, dtype)


@by_dtype
@pytest.mark.parametrize(
    ("inputs", "outputs", "logits"), [(1032, 9, False), (77, 5, True), (8, 1, False), (2048, 8, True)]
)
def test_gemv(inputs: int, outputs: int, logits: bool, dtype: str) -> None:
    (weight, weights), (x, given) = random(1, outputs, inputs, dtype=dtype), random(2, inputs, dtype=dtype)
    y = np.full(outputs, np.nan, np.float32) if logits else poisoned(outputs, dtype=dtype)
    shape = launch("gemv", dtype, k=inputs, n=outputs, y=4 if logits else 2)
    counts = execute(shape, {"weight": weight, "x": x, "y": y, "outputs": 0}, ("y",), "greedy")
    assert counts.fma == -(-outputs // 4) * 4 * inputs  # whole teams of 4 rows
    assert close(y, weights @ given, "fp32" if logits else dtype)


APPENDED = [(4, 2, 64, 64, 16), (3, 3, 128, 64, 8), (2, 1, 576, 0, 4), (3, 2, 20, 7, 4), (1, 8, 256, 256, 64)]
FORMS = ("kv_append", "kv_append_int8", "kv_append_e4m3", "kv_append_e4m3_tensor")


# Before sm_89 the conversion to e4m3 is software.
APPENDS = [("80", *each) for each in itertools.product(FORMS, range(5))]
APPENDS += [("89", *each) for each in itertools.product(FORMS[2:], range(5))]


@pytest.mark.parametrize(("arch", "form", "case"), APPENDS)
def test_kv_append(arch: str, form: str, case: int) -> None:
    tokens, heads, dim, value_dim, page = APPENDED[case]
    dtype = DTYPES[case % 2]
    shape = launch(form, dtype, T=tokens, K=heads, D=dim, Dv=value_dim, page=page)
    slots = np.random.default_rng(case).permutation(3 * page)[:tokens].astype(np.int64)
    arguments, outputs = {}, ["k_cache", "v_cache"]
    exact = {}
    for name, width in (("k", dim), ("v", value_dim)):
        arguments[name], exact[name] = random(case, tokens, heads, max(width, 1), dtype=dtype, spread=3)
    arguments["k"][0, 0] = exact["k"][0, 0] = 0
    arguments["slots"] = slots
    kind = np.uint8 if form != "kv_append" else arguments["k"].dtype
    for name, width in (("k", dim), ("v", value_dim)):
        arguments[f"{name}_cache"] = np.full((3, heads, page, max(width, 1)), 0x7F, kind)
    if form in ("kv_append_int8", "kv_append_e4m3"):
        arguments |= {f"{name}_scales": np.full((3, heads, page), np.nan, np.float32) for name in "kv"}
        outputs += ["k_scales", "v_scales"]
    given = {"k": 0.05, "v": 0.04}
    if form.endswith("tensor"):
        arguments |= {f"{name}_scale": np.float32(given[name]) for name in "kv"}
    arguments |= {"tokens": 0, "k_stride": 0, "v_stride": 0}
    execute(shape, arguments, tuple(outputs), arch=arch)

    pages, places = slots // page, slots % page
    for name in "kv" if value_dim else "k":
        found = arguments[f"{name}_cache"][pages, :, places]
        if form == "kv_append":
            assert (values(found, dtype) == exact[name]).all()
            continue
        largest = abs(exact[name]).max(-1)
        scale, step = np.full_like(largest, given[name]), 2**-4
        if f"{name}_scales" in arguments:
            scale = arguments[f"{name}_scales"][pages, :, places].astype(np.float64)
            assert np.allclose(scale, largest / (127 if "int8" in form else 448), rtol=1e-6)
        numbers = found.view(np.int8).astype(np.float64) if "int8" in form else e4m3_values(found).astype(np.float64)
        # Rounded to the nearest: half a step of int8, 2^-4 of a number of e4m3 (half of 2^-9 near 0).
        off = abs(numbers * scale[..., None] - exact[name])
        allowed = 0.5 * 1.001 if "int8" in form else np.maximum(step * abs(numbers) * 1.07, 2**-10 * 1.001)
        assert (off <= allowed * scale[..., None]).all()


@pytest.mark.parametrize(("form", "nan"), [("kv_append_int8", 0), ("kv_append_e4m3", 0x7F)])
@pytest.mark.parametrize("arch", ["80", "89"])
def test_a_nan_does_not_touch_its_neighbours(form: str, nan: int, arch: str) -> None:
    """It is NaN in e4m3 and 0 in int8, which has none; the scale is that of the numbers beside it."""
    k = np.full((1, 1, 64), 2, np.float16)
    k[0, 0, [0, 7, 63]] = np.nan, -4, -np.nan
    cache, scales = np.full((1, 1, 4, 64), 0x55, np.uint8), np.full((1, 1, 4), np.nan, np.float32)
    arguments = {"k": k, "v": k, "slots": np.array([1], np.int64), "k_cache": cache, "v_cache": cache.copy()}
    arguments |= {"k_scales": scales, "v_scales": scales.copy(), "tokens": 0, "k_stride": 0, "v_stride": 0}
    execute(launch(form, T=1, K=1, D=64, Dv=0, page=4), arguments, ("k_cache", "k_scales"), arch=arch)
    largest = 127 if form == "kv_append_int8" else 448
    assert np.isclose(scales[0, 0, 1], 4 / largest)
    found = cache[0, 0, 1]
    assert (found[[0, 63]] & 0x7F).tolist() == [nan, nan]
    numbers = found.view(np.int8) if form == "kv_append_int8" else e4m3_values(found)
    assert numbers[7] == -largest
    assert set(numbers[1:7]) == ({64} if form == "kv_append_int8" else {224})


def test_a_padding_slot_is_left_out() -> None:
    k, _ = random(1, 3, 1, 64)
    cache, slots = poisoned(1, 1, 4, 64), np.array([2, -1, 0], np.int64)
    shape = launch("kv_append", T=3, K=1, D=64, Dv=0, page=4)
    arguments = {"k": k, "v": k, "slots": slots, "k_cache": cache, "v_cache": cache.copy()}
    arguments |= {"tokens": 0, "k_stride": 0, "v_stride": 0}
    counts = execute(shape, arguments, as_declared=False)
    assert counts.stores["k_cache"].bytes == 2 * 128 and counts.loads["k"].bytes == 2 * 128
    assert (cache[0, 0, [2, 0]] == k[[0, 2], 0]).all()
    assert np.isnan(cache[0, 0, [1, 3]]).all()


@pytest.mark.parametrize(
    ("vocabulary", "sms", "schedule"), [(1, 4, "forward"), (4100, 4, "random"), (9999, 6, "greedy")]
)
def test_argmax(vocabulary: int, sms: int, schedule: str) -> None:
    logits = np.random.default_rng(vocabulary).normal(0, 3, (3, vocabulary)).astype(np.float32)
    logits[1, [0, vocabulary // 2, vocabulary - 1]] = 40  # the lowest index of equal ones
    logits[2, vocabulary - 1] = -np.nan
    ids, best, arrived = np.full(3, -1, np.int64), np.zeros(3, np.uint64), np.zeros(3, np.int32)
    shape = launch("argmax", sms=sms, T=3, V=vocabulary)
    arguments = {"logits": logits, "ids": ids, "best": best, "arrived": arrived, "stretch": 0}
    execute(shape, arguments, ("ids",), schedule)
    assert ids.tolist() == [int(np.argmax(row)) for row in logits]
    assert not best.any() and not arrived.any()


def _draw(logits: Array, top_k: int, uniform: Array, sms: int, temperature: float, schedule: str) -> Array:
    rows, vocabulary = logits.shape
    select = launch("top_k_select", sms=sms, T=rows, V=vocabulary, top_k=top_k, threads=256)
    draw = launch("top_k_draw", sms=sms, T=rows, V=vocabulary, top_k=top_k, threads=256)
    kept = np.zeros((rows, select.symbols["splits"], top_k), np.uint64)
    execute(select, {"logits": logits, "kept": kept, "stretch": 0}, ("kept",), schedule)
    ids = np.full(rows, -1, np.int64)
    arguments = {"kept": kept, "uniforms": uniform.astype(np.float32), "ids": ids, "splits": 0}
    execute(draw, arguments | {"inverse_temperature": np.float32(1 / temperature)}, ("ids",), schedule)
    return ids


@pytest.mark.parametrize(
    ("vocabulary", "top_k", "sms", "schedule"),
    [(3000, 50, 8, "random"), (5001, 7, 1, "greedy"), (2050, 300, 9, "reverse"), (20, 50, 4, "forward")],
)
def test_top_k(vocabulary: int, top_k: int, sms: int, schedule: str) -> None:
    random_numbers = np.random.default_rng(vocabulary)
    logits = random_numbers.normal(0, 2, (3, vocabulary)).astype(np.float32)
    uniform = np.array([0.0, 0.999, random_numbers.random()])
    found = _draw(logits, top_k, uniform, sms, 1.5, schedule)
    for row, number, chosen in zip(logits.astype(np.float64), uniform, found, strict=True):
        order = np.argsort(-row, kind="stable")[:top_k]
        weights = np.exp((row[order] - row[order[0]]) / 1.5)
        upto = np.cumsum(weights) / weights.sum()
        rank = order.tolist().index(chosen)
        assert (upto[rank - 1] if rank else 0) - 1e-5 <= number <= upto[rank] + 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
def test_top_k_of_equal_logits_takes_the_lowest_indices(schedule: str) -> None:
    """More candidates than the sort holds: the select goes on digit by digit, down to the index."""
    logits = np.ones((1, 2000), np.float32)
    logits[0, [700, 1500]] = 9
    select = launch("top_k_select", sms=1, T=1, V=2000, top_k=4, threads=128)
    kept = np.zeros((1, 1, 4), np.uint64)
    arguments = {"logits": logits, "kept": kept, "stretch": 0}
    counts = execute(select, arguments, ("kept",), schedule, as_declared=False)
    assert counts.loads["logits"].bytes == 4 * 2000 * (5 + 1)
    # Counted by digit: all, then four times the equal ones; collected: the four, no more.
    added = sum(times for opcode, times in counts.opcodes.items() if opcode.startswith("atom.shared.add"))
    assert added == 2000 + 4 * 1998 + 4
    assert (0x7FFFFF - (kept & 0x7FFFFF)).tolist() == [[[700, 1500, 0, 1]]]
