"""One replica of a layout at all batches at once: decode steps, with chunks of prompts in them or without; memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import most
from kvperf.bound import resources
from kvperf.capacity import memory
from kvperf.dtypes import dtype
from kvperf.errors import KvperfError
from kvperf.evaluation import Step, step
from kvperf.layout import Parallelism
from kvperf.plan.layouts import AS_PUBLISHED
from kvperf.plan.record import Load
from kvperf.predict.calibration import Constants
from kvperf.predict.step import COLLECTIVES
from kvperf.workload import Phase, Requests, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model

# New tokens of one step while prompts are read: vLLM's --max-num-batched-tokens on large GPUs, and less for less delay.
CHUNKS = (512, 2048, 8192)


class Engine(msgspec.Struct, frozen=True):
    """What one replica is asked to do, and the constants that predict it."""

    gpu: Gpu
    model: Model
    parallelism: Parallelism
    weight_dtype: str
    kv_dtype: str
    load: Load
    stack: str
    memory_fraction: float
    reserve_bytes: int
    constants: Constants | None = None
    price: float | None = None

    @property
    def groups(self) -> int:
        """Sequences that must run side by side for no GPU to be idle: attention groups, pipeline stages."""
        return self.parallelism.attention_dp * self.parallelism.pp

    @property
    def stored(self) -> str:
        """The format of the weights by its own name."""
        checkpoint = self.model.checkpoint
        return (checkpoint.quantised or checkpoint.dtype) if self.weight_dtype == AS_PUBLISHED else self.weight_dtype

    @property
    def cached(self) -> str:
        """The format of the cache by its own name."""
        return self.model.checkpoint.dtype if self.kv_dtype == AS_PUBLISHED else self.kv_dtype

    @property
    def narrowed(self) -> bool:
        """Whether a format is narrower than the checkpoint's."""
        published = dtype(self.model.checkpoint.quantised or self.model.checkpoint.dtype).bits
        base = dtype(self.model.checkpoint.dtype).bits
        return dtype(self.stored).bits < published or dtype(self.cached).bits < base

    def decoding(self, batch: Any) -> Step:
        """A decode step in the middle of the output, on average. Raises KvperfError where it cannot be predicted."""
        context = self.load.prompt_tokens + (self.load.output_tokens + 1) // 2
        found = self._step("decode", (Requests(batch, context, 1),))
        if found.predicted_s is None:
            raise KvperfError("; ".join(found.busiest.predicted.warnings), "choose another GPU or stack")
        return found

    def mixing(self, batch: Any, chunk_tokens: int) -> tuple[Step, int]:
        """The same with a piece of a prompt in it for each group, and how many prompt tokens these are.

        Whole prompts, where they are short: as many as a step of the smallest chunk holds.
        """
        prompt = self.load.prompt_tokens
        context = prompt + (self.load.output_tokens + 1) // 2
        if chunk_tokens >= prompt:  # whole prompts
            count, seen, new = self.groups * max(1, CHUNKS[0] // prompt), prompt, prompt
        else:
            count, seen, new = self.groups, (prompt + chunk_tokens) // 2, chunk_tokens
        found = self._step("mixed", (Requests(batch, context, 1), Requests(count, seen, new)))
        return found, count * new

    def prefilling(self) -> tuple[Step, int]:
        """Prompts alone, and how many at once: for each group as many as make a good step, at least one."""
        count = self.groups * max(1, CHUNKS[1] // self.load.prompt_tokens)
        prompt = self.load.prompt_tokens
        return self._step("prefill", (Requests(count, prompt, prompt),)), count

    def spare_bytes(self, found: Step, batch: Any) -> Any:
        """Usable memory that a step and `batch` sequences at their full length leave on the fullest GPU."""
        full = self.load.prompt_tokens + self.load.output_tokens
        requests = (Requests(batch, full, 1),)
        spare: Any = float("inf")
        for rank in {id(rank.layout): rank for rank in found.ranks}.values():
            workload, reserve = self._workload("decode", requests), self.reserve_bytes
            kept = memory(self.model, rank.layout, workload, rank.stages, None, reserve_bytes=reserve)
            left = self.gpu.hbm_capacity_bytes * self.memory_fraction - kept.needed_bytes
            spare = -most(-spare, -left)
        return spare

    def handed_over_s(self, found: Step) -> Any:
        """The time to bring a prompt's cache from one pool to another, each GPU its part over its network or link."""
        requests = (Requests(1, self.load.prompt_tokens, 1),)
        rate = self.network_bytes_per_s(found)
        moved: Any = 0.0
        for rank in found.ranks:
            kept = memory(self.model, rank.layout, self._workload("decode", requests), rank.stages, None)
            moved = most(moved, kept.kv_cache_bytes)
        return moved / rate if rate else 0.0

    def network_bytes_per_s(self, found: Step) -> float | None:
        """Of the network that usual machines with this GPU have, else of its links."""
        gpu = found.gpu
        if gpu.network_bytes_per_s is None and gpu.network is not None:
            from kvperf.hardware.network import load_network

            return load_network(gpu.network).bytes_per_s
        return gpu.network_bytes_per_s or gpu.link_bytes_per_s or gpu.host_bytes_per_s

    def _workload(self, phase: Phase, requests: tuple[Requests, ...]) -> Workload:
        weight, kv = _asked(self.weight_dtype), _asked(self.kv_dtype)
        # Where a unit multiplies fp8, engines convert the inputs of fp8 weights too (W8A8).
        activation = weight if weight in ("fp8", "fp8-block", "mxfp8") else None
        return Workload(phase, requests, weight_dtype=weight, activation_dtype=activation, kv_dtype=kv)

    def _step(self, phase: Phase, requests: tuple[Requests, ...]) -> Step:
        workload = self._workload(phase, requests)
        return step(self.gpu, self.model, workload, self.parallelism, self.stack, constants=self.constants)


def _asked(dtype: str) -> str | None:
    return None if dtype == AS_PUBLISHED else dtype


def seconds(found: Step) -> Any:
    """What the step is predicted to take."""
    return found.predicted_s


def chunks(prompt_tokens: int) -> list[int]:
    """Pieces to try: smaller than a prompt, and the whole of it where a step takes it."""
    return [*(size for size in CHUNKS if size < prompt_tokens), min(prompt_tokens, CHUNKS[-1])]


def busiest_resource(found: Step, index: int) -> str:
    """The resource whose peak is closest in a step of one of its batches; link where talking takes most of the time."""
    rank = found.busiest
    busy = resources(rank.work, found.gpu)
    at = {"hbm": _at(busy.hbm_s, index), "tensor": _at(busy.tensor_s, index), "link": _at(busy.link_s, index)}
    if rank.predicted.stages:
        talking = 0.0
        for stage, priced in zip(rank.stages, rank.predicted.stages, strict=True):
            talking += _at(priced.seconds, index) if stage.name in COLLECTIVES else 0.0
        if talking > 0.5 * _at(rank.predicted.seconds, index):
            return "link"
    return max(at, key=lambda name: at[name])


def _at(value: Any, index: int) -> float:
    """One point of a figure that may be the same for all."""
    return float(value[index]) if hasattr(value, "__getitem__") else float(value)
