"""What a report is about: a GPU, a model and a step, and everything that is computed from them once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kvperf.analysis import analyse
from kvperf.errors import KvperfError
from kvperf.inputs import stack_options
from kvperf.layout import ALONE, Layout, Parallelism, one_rank
from kvperf.pipeline import Part, StageWork, pipeline
from kvperf.report.document import Cite
from kvperf.stages.kv_update import span_of
from kvperf.workload import FULL, Requests

if TYPE_CHECKING:
    from kvperf.bench.record import Record
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.record import Analysis
    from kvperf.workload import Workload


PREDICTION = ("stack", "cuda_graphs")  # what is asked for beside the workload
OPTIONS = ("cuda_graphs", "all_reduce", "overlap")  # how the stack runs its launches
# What binds, in words.
BOUND_BY = {"hbm": "memory", "tensor": "matrix units", "link": "links"}


class Subject:
    """The inputs of a report, its analysis, and what others would be.

    asked  the keywords of `api.analyze` that say the same, for figures that vary them
    """

    def __init__(
        self,
        gpu: Gpu,
        model: Model,
        workload: Workload,
        *,
        parallelism: Parallelism = ALONE,
        record: Record | None = None,
        asked: dict[str, Any] | None = None,
        analysis: Analysis | None = None,
        **kept: Any,
    ) -> None:
        self.gpu, self.model, self.workload, self.parallelism = gpu, model, workload, parallelism
        self.record, self.asked, self.kept = record, asked, kept
        self.analysis = analysis or self.at()

    def at(self, gpu: Gpu | None = None, tp: int | None = None, **changes: Any) -> Analysis:
        """The analysis with another GPU, degree, workload or prediction. Raises KvperfError."""
        kept = self.kept | {name: changes.pop(name) for name in PREDICTION if name in changes}
        workload = replace(self.workload, **changes)
        parallelism = self.parallelism if tp is None else replace(self.parallelism, tp=tp)
        kept["options"] = stack_options(**{name: kept.pop(name) for name in OPTIONS if name in kept})
        return analyse(gpu or self.gpu, self.model, workload, parallelism, **kept)

    def tried(self, **changes: Any) -> Analysis | KvperfError:
        """The same, or why there is none."""
        try:
            return self.at(**changes)
        except KvperfError as problem:
            return problem

    @property
    def tp(self) -> int:
        return self.parallelism.tp

    @functools.cached_property
    def layout(self) -> Layout:
        return one_rank(self.model, self.workload, self.parallelism)

    @functools.cached_property
    def stages(self) -> tuple[StageWork, ...]:
        return pipeline(self.layout, self.workload)

    @functools.cached_property
    def attention(self) -> Part | None:
        """The kind of attention layer that the kernel's section is about: full attention first, then the most layers.

        None where no layer attends to cached tokens.
        """
        parts = [part for stage in self.stages if stage.name == "attention" for part in stage.parts]
        return max(parts, key=_importance, default=None)

    @functools.cached_property
    def decode_attention(self) -> Part | None:
        """The same layers in the decode step of these sequences: what they read of the cache."""
        changed = replace(self.workload, **self.decoding())
        stages = pipeline(one_rank(self.model, changed, self.parallelism), changed)
        parts = [part for stage in stages if stage.name == "attention" for part in stage.parts]
        return max(parts, key=_importance, default=None)

    @property
    def growing(self) -> tuple[Requests, ...]:
        """The sequences, without prompt chunks beside them."""
        asked = self.workload.requests
        return asked[:-1] if self.workload.phase == "mixed" else asked

    @property
    def chunks(self) -> tuple[Requests, ...]:
        """Prompt chunks beside a decode step."""
        return self.workload.requests[len(self.growing) :]

    @property
    def sequences(self) -> tuple[int, int]:
        """(batch, longest context) of them: what the kernels are planned for."""
        batch = 0
        for requests in self.growing:
            batch += requests.count
        return batch, max(requests.context_tokens for requests in self.growing)

    @property
    def ragged(self) -> bool:
        """Whether their contexts differ."""
        return len({requests.context_tokens for requests in self.growing}) > 1

    def decoding(self) -> dict[str, Any]:
        """The changes that make this the decode step of its sequences, each at its own context."""
        requests = tuple(Requests(r.count, r.context_tokens, 1) for r in self.growing)
        return {"phase": "decode", "requests": requests, "logits": "last"}

    def prefilling(self) -> dict[str, Any]:
        """The changes that make this the prefill of its sequences."""
        requests = tuple(Requests(r.count, r.context_tokens, r.context_tokens) for r in self.growing)
        return {"phase": "prefill", "requests": requests, "logits": "last"}

    def sources(self, keys: tuple[str, ...]) -> tuple[Cite, ...]:
        """The profile's and the architecture's sources behind these keys."""
        known = (self.gpu.profile.sources, self.gpu.architecture.sources)
        texts = {key: dict.fromkeys(str(sources[key]) for sources in known if key in sources) for key in keys}
        return tuple(Cite(key, "; ".join(found)) for key, found in texts.items())


def _importance(part: Part) -> tuple[bool, int]:
    return span_of(part.shard.mixer) == FULL, part.layers
