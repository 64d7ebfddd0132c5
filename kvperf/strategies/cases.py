"""The steps that the strategies are judged by, each evaluated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES, Memory
from kvperf.errors import KvperfError
from kvperf.evaluation import Step, step
from kvperf.layout import ALONE, Parallelism, micro_batch
from kvperf.predict.step import Options
from kvperf.replication import fullest
from kvperf.strategies.record import Tier

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.workload import Workload


def layout(name: str, degree: int) -> Parallelism:
    """The layout of a strategy. A replica is one GPU with its part of the sequences."""
    if name in ("ring", "ulysses"):
        return Parallelism(cp=degree, context="ring" if name == "ring" else "ulysses")
    return {
        "tensor": Parallelism(tp=degree),
        "sequence": Parallelism(tp=degree, sequence_parallel=degree > 1),
        "pipeline": Parallelism(pp=degree),
        "attention_data": Parallelism(attention_dp=degree),
        "expert": Parallelism(attention_dp=degree, ep=degree),
        "replicas": ALONE,
    }[name]


class Cases:
    """Steps of one workload by strategy, degree and doublings of the batch, each evaluated once."""

    def __init__(self, gpu: Gpu, model: Model, workload: Workload, stack: str, options: Options) -> None:
        self.gpu, self.model, self.workload = gpu, model, workload
        self.stack, self.options = stack, options
        self.found: dict[tuple[str, int, int], Step | KvperfError] = {}
        self.alone = step(gpu, model, workload, ALONE, stack, options)
        self.tier: Tier = "bound" if self.alone.predicted_s is None else "predicted"
        self.alone_memory = fullest(model, self.alone, workload, MEMORY_FRACTION, RESERVE_BYTES)

    def step(self, name: str, degree: int, doublings: int = 0) -> Step:
        """Raises KvperfError where the layout is refused."""
        if degree == 1 and doublings == 0:
            return self.alone
        key = (name, degree, doublings)
        if key not in self.found:
            self.found[key] = self._evaluated(*key)
        if isinstance(found := self.found[key], KvperfError):
            raise found
        return found

    def _evaluated(self, name: str, degree: int, doublings: int) -> Step | KvperfError:
        mine = self.mine(name, degree, doublings)
        try:
            found = step(self.gpu, self.model, mine, layout(name, degree), self.stack, self.options)
        except KvperfError as problem:
            return problem
        if self.tier == "predicted" and found.predicted_s is None:
            return KvperfError(
                next(iter(found.busiest.predicted.warnings), "no prediction"), "leave --stack out for bounds"
            )
        return found

    def mine(self, name: str, degree: int, doublings: int = 0) -> Workload:
        """The workload that the layout gets: of a replica, its part."""
        whole = self.workload
        requests = tuple(msgspec.structs.replace(r, count=r.count << doublings) for r in whole.requests)
        whole = msgspec.structs.replace(whole, requests=requests)
        return micro_batch(whole, degree) if name == "replicas" else whole

    def seconds(self, found: Step) -> Any:
        return found.bound_s if self.tier == "bound" else found.predicted_s

    def per_gpu(self, name: str, degree: int, doublings: int = 0) -> Any:
        """Tokens/s of a GPU."""
        tokens = self.workload.tokens << doublings
        return tokens / self.seconds(self.step(name, degree, doublings)) / degree

    def memory(self, name: str, degree: int) -> Memory:
        found, mine = self.step(name, degree), self.mine(name, degree)
        return fullest(self.model, found, mine, MEMORY_FRACTION, RESERVE_BYTES)
