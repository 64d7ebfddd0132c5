"""What a record measured of an analysed step: seconds of its stages over their layers, and of the whole step."""

from __future__ import annotations

import math

import msgspec

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.record import Analysis

SHOWN_VALUES = 4  # of a field of the shapes that a record is of


class Measured(msgspec.Struct, frozen=True):
    """Medians. `gpu` is what the driver calls it; step_s is None where no whole step was read."""

    gpu: str
    stages: dict[str, float]
    step_s: float | None

    def whole_s(self, analysis: Analysis) -> float:
        """The step: measured, else its stages one after another, each as measured or at its bound."""
        if self.step_s is not None:
            return self.step_s
        return math.fsum(self.stages.get(stage.name, float(stage.bound_s)) for stage in analysis.stages)


def measured(record: Record, analysis: Analysis) -> Measured:
    """The cold readings of this very step. Raises KvperfError where the record has none."""
    if record.emulated:
        raise KvperfError("an emulated record holds no reading", "give one that a GPU was measured for")
    profile = record.environment.profile
    if profile is not None and profile != analysis.gpu.name:
        raise KvperfError(
            f"the record is of {profile}, not of {analysis.gpu.name}", f"draw it on its own roofs: --gpu {profile}"
        )
    believed = [case for case in record.cases if case.statistics and case.refused is None and case.regime == "cold"]
    stages = {c.subject: _seconds(c) for c in believed if c.family == "stage" and _same_step(c, analysis)}
    whole = next((_seconds(c) for c in believed if c.family == "step" and _same_step(c, analysis)), None)
    if analysis.attention is not None:
        alone = [_seconds(c) for c in believed if c.family == "attention" and _same_attention(c, analysis)]
        stages = {"attention": min(alone)} if alone else {}
    known = {stage.name for stage in analysis.stages}
    if not stages or not set(stages) <= known:
        raise _no_match(record, analysis, set(stages) - known)
    return Measured(record.environment.gpu, stages, whole)


def _seconds(case: Case) -> float:
    """A stage is read one layer at a time."""
    assert case.statistics is not None
    layers = int(case.shape.get("layers", 1)) if case.family == "stage" else 1
    return case.statistics.median_s * layers


def _same_step(case: Case, analysis: Analysis) -> bool:
    work, shape = analysis.workload, case.shape
    names = {stage.name: stage.layers for stage in analysis.stages}
    layers = names.get(case.subject) if case.family == "stage" else None
    return (
        shape.get("model") == analysis.model.name
        and shape.get("batch") == work.batch
        and shape.get("seq") == work.context_tokens
        and shape.get("new_tokens") == work.new_tokens
        and shape.get("dtype") == work.weight_dtype
        and work.tp == 1
        and layers in (None, shape.get("layers"))
    )


def _same_attention(case: Case, analysis: Analysis) -> bool:
    alone, work = analysis.attention, analysis.workload
    assert alone is not None
    wanted = {
        "batch": work.batch,
        "heads": alone.heads,
        "kv_heads": alone.kv_heads,
        "head_dim": alone.head_dim,
        "seq": work.context_tokens,
        "dtype": work.kv_dtype,
    }
    return all(case.shape.get(name) == value for name, value in wanted.items())


def _no_match(record: Record, analysis: Analysis, unknown: set[str]) -> KvperfError:
    if unknown:
        names = ", ".join(stage.name for stage in analysis.stages)
        return KvperfError(f"the record's stage '{min(unknown)}' is not in this step", f"its stages: {names}")
    work, alone = analysis.workload, analysis.attention is not None
    subject = analysis.model.name or "this attention"
    asked = f"{subject}, batch {work.batch}, context {work.context_tokens}, {work.weight_dtype}"
    asked += f", one of {work.tp} GPUs" if work.tp > 1 else ""
    families = {case.family for case in record.cases}
    command = "attention" if alone else "stages"
    if ("attention" if alone else "stage") not in families:
        said = f"the record measured no {'attention' if alone else 'stage'} of {asked}"
        return KvperfError(said, f"{record_of(record)}; `kvperf bench {command}` measures it")
    return KvperfError(
        f"the record measured another step than {asked}, or none of it cold and believed", record_of(record)
    )


def record_of(record: Record) -> str:
    """GPU, families and shapes of a record, on one line."""
    families = ", ".join(dict.fromkeys(case.family for case in record.cases)) or "nothing"
    where = record.environment.profile or record.environment.gpu
    said = []
    for name in ("model", "heads", "kv_heads", "head_dim", "batch", "seq", "new_tokens", "dtype"):
        values = list(dict.fromkeys(str(case.shape[name]) for case in record.cases if name in case.shape))
        if values:
            more = len(values) - SHOWN_VALUES
            shown = "/".join(values[:SHOWN_VALUES]) + (f" and {more} more" if more > 0 else "")
            said.append(f"{name.replace('_', ' ')} {shown}")
    return f"it is of {where}: {families}" + (f" ({', '.join(said)})" if said else "")
