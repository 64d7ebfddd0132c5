"""The tables of the small kernels: the bytes of the stages, the resources of real sizes, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvperf.dtypes import dtype as number_format
from kvperf.errors import KvperfError
from kvperf.kernel.pipeline_kernels import PIPELINE, launch
from kvperf.layout import Formats, Shard
from kvperf.model.architecture import Dense, GroupedQuery, Norm
from kvperf.stages import embedding, kv_update, lm_head, mlp, norm, projection, rope, sampling
from kvperf.work import Work
from kvperf.workload import Requests, Workload
from tests.kernel.small import compiled_all, machine_code, times_of
from tests.nvrtc import needs_nvrtc

FORMATS = Formats(*(number_format("fp16"),) * 9)


def _shard(dim: int = 64, value_dim: int = 32, rotated: int = 16, kv: str = "fp16") -> Shard:
    mixer = GroupedQuery(heads=6, kv_heads=2, head_dim=dim, v_head_dim=value_dim, rotary_dim=rotated)
    half = number_format("fp16")
    return Shard(
        hidden_size=200,
        vocab_size=5001,
        mixer=mixer,
        ffn=Dense(intermediate=96),
        norms=2,
        norm=Norm(),
        formats=FORMATS,
        activation=half,
        quantised_input=None,
        kv=number_format(kv),
    )


def _step(tokens: int = 3, choice: str = "argmax") -> Workload:
    return Workload("decode", (Requests(tokens, 500, 1),), sampling=choice)  # type: ignore[arg-type]


def _reads(work: Work) -> float:
    return work.weight_bytes + work.activation_read_bytes + work.kv_read_bytes


def _writes(work: Work) -> float:
    return work.activation_write_bytes + work.kv_write_bytes


APPEND = {"T": 3, "K": 2, "D": 64, "Dv": 32, "page": 16}
BOUNDARIES = [
    (embedding.embedding, {}, [("embedding", {"T": 3, "d": 200})]),
    (norm.input_norm, {}, [("rms_norm", {"T": 3, "d": 200})]),
    (norm.attention_norm, {}, [("add_rms_norm", {"T": 3, "d": 200})]),
    (norm.mlp_norm, {}, [("add_rms_norm", {"T": 3, "d": 200})]),
    (norm.final_norm, {}, [("add_rms_norm", {"T": 3, "d": 200})]),
    (rope.rope, {}, [("rope", {"T": 3, "H": 6, "K": 2, "D": 64, "r": 16})]),
    (kv_update.kv_update, {"kv": "fp16"}, [("kv_append", APPEND)]),
    (kv_update.kv_update, {"kv": "int8"}, [("kv_append_int8", APPEND)]),
    (kv_update.kv_update, {"kv": "fp8"}, [("kv_append_e4m3", APPEND)]),
    (kv_update.kv_update, {"kv": "fp8"}, [("kv_append_e4m3_tensor", APPEND)]),
    (sampling.sampling, {"choice": "argmax"}, [("argmax", {"T": 3, "V": 5001})]),
    (
        sampling.sampling,
        {"choice": "top-k"},
        [(name, {"T": 3, "V": 5001, "top_k": 50}) for name in ("top_k_select", "top_k_draw")],
    ),
    (projection.qkv_projection, {"tokens": 1}, [("gemv", {"k": 200, "n": 8 * 64 + 2 * 32})]),
    (projection.output_projection, {"tokens": 1}, [("gemv", {"k": 6 * 32, "n": 200})]),
    (lm_head.lm_head, {"tokens": 1}, [("gemv", {"k": 200, "n": 5001, "y": 4})]),
]


@pytest.mark.parametrize("case", BOUNDARIES, ids=lambda case: f"{case[0].__name__}-{case[2][0][0]}")
def test_the_table_moves_the_bytes_of_its_stage(case: tuple[Callable[..., Work], dict[str, Any], list[Any]]) -> None:
    stage, options, kernels = case
    shard = _shard(**{name: option for name, option in options.items() if name == "kv"})
    work = stage(shard, _step(**{name: option for name, option in options.items() if name != "kv"}))
    launches = [launch(name, **sizes) for name, sizes in kernels]
    assert all(stage.__name__ in each.kernel.stages for each in launches)
    assert sum(each.stage_loads for each in launches) == _reads(work)
    assert sum(each.stage_stores for each in launches) == _writes(work)
    assert work.kernels == len(launches)


def test_silu_mul_moves_what_the_mlp_has_beside_its_products() -> None:
    work, shape = mlp.mlp(_shard(), _step()), launch("silu_mul", T=3, I=96)
    gate_up, down = launch("gemv", k=200, n=2 * 96), launch("gemv", k=96, n=200)
    x = 2 * 3 * (200 + 96)
    assert shape.stage_loads == work.activation_read_bytes - x
    assert shape.stage_stores == work.activation_write_bytes - 2 * 3 * (2 * 96 + 200)
    assert gate_up.loads["weight"] + down.loads["weight"] == work.weight_bytes


REAL = {
    "embedding": {"T": 8, "d": 8192},
    "rms_norm": {"T": 8, "d": 32767},
    "add_rms_norm": {"T": 8, "d": 32768},
    "rope": {"T": 8, "H": 64, "K": 8, "D": 128, "r": 128},
    "silu_mul": {"T": 8, "I": 28672},
    "gemv": {"k": 8192, "n": 28672},
    "argmax": {"T": 8, "V": 128256},
    "top_k_select": {"T": 8, "V": 128256, "top_k": 50},
    "top_k_draw": {"T": 8, "V": 128256, "top_k": 50},
    **{form: {"T": 8, "K": 8, "D": 128, "Dv": 128, "page": 64} for form in PIPELINE if form.startswith("kv_append")},
}
INSTRUCTIONS = dict.fromkeys(PIPELINE, r"LDG\.E\.128") | {
    "top_k_draw": r"LDG\.E\.64",
    "gemv": r"LDG\.E\.\S*128",
    "rms_norm": r"LDG\.E\.U16",
}


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_nothing_spills(arch: str) -> None:
    shapes = {name: launch(name, **REAL[name]) for name in PIPELINE}
    for name, found in compiled_all(shapes, arch).items():
        resources = found.resources[name]
        spilled = resources.spill_load_bytes + resources.spill_store_bytes + resources.stack_bytes
        assert (name, spilled) == (name, 0)
        assert resources.registers * shapes[name].threads <= 65536, name


@needs_nvrtc
def test_loads_are_wide() -> None:
    shapes = {name: launch(name, **REAL[name]) for name in PIPELINE}
    for name, found in compiled_all(shapes, "90").items():
        assert times_of(machine_code(found, name), INSTRUCTIONS[name]), name


@pytest.mark.parametrize(
    ("name", "dtype", "sizes", "words"),
    [
        ("rope", "fp16", {"T": 1, "H": 1, "K": 1, "D": 64, "r": 65}, "rope cannot run with"),
        ("rms_norm", "fp16", {"T": 1, "d": 40000}, "rms_norm cannot run with"),
        ("top_k_select", "fp16", {"T": 1, "V": 9, "top_k": 2000}, "top_k=2000"),
        ("kv_append", "fp16", {"T": 1, "K": 1, "D": 2048, "Dv": 0, "page": 4}, "kv_append cannot run"),
        ("gemv", "int8", {"k": 8, "n": 8}, "gemv does not support int8"),
        ("gemv", "fp16", {"k": 8}, "gemv needs n"),
        ("gemv", "fp16", {"k": 8, "n": 8, "T": 2}, "gemv has no T"),
        ("embedding", "fp16", {"T": 0, "d": 8}, "T=0 is no size"),
        ("rms_nrom", "fp16", {}, "rms_nrom"),
        ("silu_mul", "fp16", {"T": 1, "I": 65536 * 2048}, "silu_mul cannot run with 65536 blocks along y"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(name: str, dtype: str, sizes: dict[str, int], words: str) -> None:
    with pytest.raises(KvperfError, match=words) as refused:
        launch(name, dtype, **sizes)
    assert refused.value.hint


@pytest.mark.parametrize("name", [name for name in PIPELINE if "T" in PIPELINE[name].sizes])
def test_a_million_tokens_fit_a_grid(name: str) -> None:
    """A grid has at most 65535 blocks along y and z: tokens lie along x."""
    shape = launch(name, **REAL[name] | {"T": 1_000_000})
    assert shape.grid[0] >= 1_000_000
