"""The formulas run on arrays as on plain numbers: no branch asks a numeric axis for its truth."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from kvperf.bound import achievable_s, resources
from kvperf.capacity import activation_peak_bytes, kv_bytes_per_token, kv_cache_bytes, resident_weight_bytes
from kvperf.ceilings import ceilings, mma_utilisation
from kvperf.hardware import load_gpu
from kvperf.layout import one_rank
from kvperf.model import load_model, model_names
from kvperf.pipeline import pipeline, total_work
from kvperf.workload import Requests, Workload


class Unasked:
    """A number whose truth nobody may ask; `==` and `<` give another such number."""

    __array_priority__ = 1000

    def __init__(self, value: Any) -> None:
        self.value = value

    def __bool__(self) -> bool:
        raise AssertionError("a formula branched on a numeric axis")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Unasked:
        return Unasked(getattr(ufunc, method)(*(_plain(i) for i in inputs), **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Unasked:
        return Unasked(function(*(_plain(a) for a in args), **kwargs)[()])

    def __neg__(self) -> Unasked:
        return Unasked(-self.value)

    def __int__(self) -> int:
        """What a rule that searches is looked up by."""
        return int(self.value)

    __hash__ = None  # type: ignore[assignment]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Unasked) else value


def _binary(name: str) -> Any:
    function = getattr(operator, name)
    return lambda self, other: Unasked(function(self.value, _plain(other)))


def _reflected(name: str) -> Any:
    function = getattr(operator, name)
    return lambda self, other: Unasked(function(_plain(other), self.value))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod"):
    setattr(Unasked, f"__{_name}__", _binary(_name))
    setattr(Unasked, f"__r{_name}__", _reflected(_name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Unasked, f"__{_name}__", _binary(_name))
for _name in ("and", "or"):
    setattr(Unasked, f"__{_name}__", _binary(f"{_name}_"))
    setattr(Unasked, f"__r{_name}__", _reflected(f"{_name}_"))


def test_the_number_type_itself_raises() -> None:
    with pytest.raises(AssertionError):
        bool(Unasked(1.0) > 0)


WORKLOADS = [
    {"phase": "decode"},
    {"phase": "decode", "fusion": "eager", "kv_dtype": "fp8", "weight_dtype": "int4"},
    {"phase": "prefill", "fusion": "megakernel", "sampling": "top-p"},
    {"phase": "verify", "logits": "all", "sampling": "cpu", "kv_dtype": "int8"},
]


def _requests(number: Any, phase: str) -> tuple[Requests, ...]:
    new = {"decode": 1, "prefill": number(2048.0), "verify": number(5.0)}[phase]
    return Requests(number(8.0), number(2048.0), new), Requests(number(3.0), number(70000.0), new)


def _figures(model: Any, workload: Workload, gpu: Any) -> list[Any]:
    """Every number that a point of a sweep has."""
    layout = one_rank(model, workload)
    stages = pipeline(layout, workload)
    figures: list[Any] = []
    for stage in stages:
        work, busy = stage.work, resources(stage.work, gpu)
        figures += [work.flops, work.hbm_bytes, work.compulsory_bytes, busy.longest_s]
        figures += [mma_utilisation(work, gpu), achievable_s(work, gpu)]
        figures += [getattr(ceilings(work, gpu), name) for name in ("cuda_core_s", "sfu_s", "conversion_s", "l2_s")]
    whole = total_work(tuple(s.work for s in stages))
    figures += [resources(whole, gpu).longest_s, whole.kernels]
    figures.append(resident_weight_bytes(model, layout, workload, stages))
    figures += [kv_cache_bytes(layout, workload), kv_bytes_per_token(layout)]
    return [*figures, activation_peak_bytes(stages)]


@pytest.mark.parametrize("options", WORKLOADS, ids=lambda o: o["phase"] + "-" + o.get("fusion", "serving"))
def test_no_stage_bound_or_memory_branches_on_a_numeric_axis(options: dict[str, Any]) -> None:
    gpu = load_gpu("h100")
    for name in model_names():
        model = load_model(name)
        asked = _figures(model, Workload(requests=_requests(float, options["phase"]), **options), gpu)
        unasked = _figures(model, Workload(requests=_requests(Unasked, options["phase"]), **options), gpu)
        for plain, wrapped in zip(asked, unasked, strict=True):
            if plain is None:
                assert wrapped is None
            else:
                assert _plain(wrapped) == pytest.approx(plain, rel=1e-12), name


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "deepseek-v3.2", "gpt-oss-120b", "qwen3-next-80b-a3b", "deepseek-v4-pro"]
)
def test_an_array_of_points_equals_the_points(name: str) -> None:
    gpu, model = load_gpu("h100"), load_model(name)
    batches, contexts = np.array([1.0, 7.0, 256.0]), np.array([1.0, 4095.0, 131072.0])
    together = _figures(model, Workload("decode", (Requests(batches, contexts, 1),)), gpu)
    for i in range(3):
        alone = _figures(model, Workload("decode", (Requests(int(batches[i]), int(contexts[i]), 1),)), gpu)
        for many, one in zip(together, alone, strict=True):
            if one is not None:
                at = np.broadcast_to(many, 3)[i]
                assert at == pytest.approx(one, rel=1e-12)
