"""One change at a time: what it saves, and from which batch it no longer pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.record import Analysis, StepFigures
from kvperf.report.document import Line, Table, line, row
from kvperf.report.payoff import LEAST, Batches, Gain, said
from kvperf.report.predicted import within
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import count, over, seconds, share, times, tokens_per_s, word

NARROW, INTEGER, SMALLEST, HALF = "fp8", "int8", "int4", "fp16"
MORE = (2, 8)

ROUNDING = 1e-12  # of the bound: the last bits of sums


def tables(subject: Subject) -> list[Table]:
    """The bounds of the changed steps, and where the stack's kernels are predicted, those of the same steps."""
    batches = Batches(subject)
    found: dict[str, tuple[str | Line, Analysis]] = {"now": ("as asked", subject.analysis)}
    rows = [_row("as asked", "now", subject.analysis, subject, "–", "–")]
    notes: list[Line] = []
    for title, name, changes in _formats(subject):
        changed = subject.tried(**changes)
        if isinstance(changed, KvperfError):
            notes.append(line("{}: {}.", title, word(f"tuning.{name}.refused", changed.message)))
            continue
        found[name] = title, changed
        gain, far = batches.of_formats(**changes), _changed(batches, changes)
        stops = said(f"tuning.{name}", batches, gain, far, changed.memory.max_batch)
        saved = seconds(f"tuning.{name}.saved_if_converted_s", _saved_if_converted(subject.analysis, changed))
        rows.append(_row(title, name, changed, subject, saved, stops))
    for factor in MORE:
        name, size = f"batch_{factor}", (subject.sequences[0] if len(subject.growing) == 1 else 1)
        larger, gain = subject.at(requests=batches.requests(size * factor)), batches.of_growth(factor)
        found[name] = _larger(factor), larger
        rows.append(_row(_larger(factor), name, larger, subject, "–", _grown(name, batches, gain, factor, larger)))
    return [_bounds(subject, rows, notes), *_predicted(found)]


def _bounds(subject: Subject, rows: list[tuple], notes: list[Line]) -> Table:
    return Table(
        "The step after one change at a time",
        (
            "change",
            "bound",
            "saved",
            "saved, if converted",
            "tokens/s at most",
            "gain",
            "largest batch",
            "pays",
        ),
        tuple(rows),
        notes=(*notes, *_bytes_only(subject), *_notes(subject)),
    )


def _predicted(found: dict[str, tuple[str | Line, Analysis]]) -> list[Table]:
    """The same steps as the stack's kernels are predicted to take them; nothing where the step now is not."""
    now = found["now"][1]
    if now.step.predicted_s is None:
        return []
    rows = [
        _predicted_row(title, f"tuning.{name}.predicted", record.step, now) for name, (title, record) in found.items()
    ]
    notes = (
        line(
            "Launches, splits and conversion are in these times, so that a change may save less than its bytes, or "
            "nothing. Caches of {} and {} are priced with the constants of the nearest format that was measured.",
            INTEGER,
            SMALLEST,
        ),
        line("Pays: more tokens a second than now by {} at least, at this batch.", times("tuning.least_gain", LEAST)),
    )
    headers = ("change", "predicted", "four of five", "saved", "tokens/s", "gain", "pays here")
    return [Table(f"The same changes as predicted for {now.workload.stack}", headers, tuple(rows), notes=notes)]


def _predicted_row(title: str | Line, key: str, step: StepFigures, now: Analysis) -> tuple:
    gain = over(step.tokens_per_s_predicted, now.step.tokens_per_s_predicted)
    pays = None if gain is None else "now" if step is now.step else "yes" if gain > LEAST else "no"
    before, after = now.step.predicted_s, step.predicted_s
    saved = None if before is None or after is None else before - after
    return row(
        title,
        seconds(f"{key}.s", step.predicted_s, 4),
        within(key, step),
        seconds(f"{key}.saved_s", saved),
        tokens_per_s(f"{key}.tokens_per_s", step.tokens_per_s_predicted),
        times(f"{key}.gain", gain),
        word(f"{key}.pays", pays),
    )


def _bytes_only(subject: Subject) -> list[Line]:
    if _multiplies(subject, NARROW):
        return []
    return [line("No matrix unit of this GPU multiplies {}: it saves bytes, and no arithmetic.", NARROW)]


def _notes(subject: Subject) -> tuple[Line, ...]:
    step = subject.analysis.step
    return (
        line(
            "Saved is of the bound of one step; gain is of the tokens a second. Bounds, not predictions. A gain of no "
            "more than {} counts as none. Batches are tried at this context, whether or not they fit.",
            times("tuning.least_gain", LEAST),
        ),
        line(
            "Narrow weights and caches are converted on vector units before a wider product, or multiplied in "
            "their own format and scaled afterwards; only block-scaled matrix instructions apply scales. Saved, if "
            "converted: each stage then takes its conversion where that is longer than its bound. {}",
            cite("conversion"),
        ),
        line(
            "K and V are {} of the planned bytes now: that limits what a narrower cache saves.",
            share("step.kv_share", (step.kv_read_bytes + step.kv_write_bytes) / step.hbm_bytes),
        ),
        line("No accuracy is modelled: whether a narrow format is good enough must be tested on the task."),
    )


def _formats(subject: Subject) -> list[tuple[str, str, dict[str, Any]]]:
    """(title, name, changes of the workload) where formats now are wider."""
    narrow, ideas = DTYPES[NARROW], []
    if _is_faster(subject, HALF):
        halves = {"weight_dtype": HALF, "activation_dtype": HALF}
        halves |= {"kv_dtype": HALF} if subject.attention is not None else {}
        ideas.append((f"{HALF} throughout", HALF, halves))
    if subject.attention is not None and subject.attention.shard.kv.bits > narrow.bits:
        ideas.append((f"{NARROW} KV cache", "kv", {"kv_dtype": NARROW}))
        ideas.append((f"{INTEGER} KV cache", f"kv_{INTEGER}", {"kv_dtype": INTEGER}))
    if subject.attention is not None and subject.attention.shard.kv.bits > DTYPES[SMALLEST].bits:
        ideas.append((f"{SMALLEST} KV cache", f"kv_{SMALLEST}", {"kv_dtype": SMALLEST}))
    if DTYPES[subject.analysis.workload.weight_dtype].bits > narrow.bits:
        ideas.append((f"{NARROW} weights", "weights", {"weight_dtype": NARROW}))
        both = {"weight_dtype": NARROW, "activation_dtype": NARROW}
        if _multiplies(subject, NARROW):
            ideas.append((f"{NARROW} weights and inputs", "inputs", both))
    return ideas


def _multiplies(subject: Subject, dtype: str) -> bool:
    """Whether a matrix unit of this GPU takes the format as it is."""
    try:
        peak = subject.gpu.peak(dtype)
    except KvperfError:
        return False
    return peak.is_matrix and peak.dtype == dtype


def _is_faster(subject: Subject, dtype: str) -> bool:
    """Whether products of the format have a higher peak than those of the activations now, at the same width."""
    now = DTYPES[subject.analysis.workload.activation_dtype]
    if now.bits != DTYPES[dtype].bits or not _multiplies(subject, dtype):
        return False
    return subject.gpu.peak(dtype).flops_per_s > subject.gpu.peak(now.operand).flops_per_s


def _changed(batches: Batches, changes: dict[str, Any]) -> Callable[[int], Analysis]:
    return lambda size: batches.at(size, **changes)


def _larger(factor: int) -> Line:
    return line("{} × the batch", count(f"tuning.batch_{factor}.factor", factor))


def _grown(name: str, batches: Batches, gain: Gain, factor: int, found: Analysis) -> Line:
    room = found.memory.max_batch
    return said(f"tuning.{name}", batches, gain, lambda size: batches.at(size * factor), room, factor)


def _saved_if_converted(now: Analysis, changed: Analysis) -> Any:
    """Old bounds of the stages less the longer of new bound and conversion; None where its rate is unknown."""
    saved: Any = 0.0
    for stage in now.stages:
        saved += stage.bound_s
    for stage in changed.stages:
        if stage.ceilings.conversion_s is None:
            return None
        saved -= max(stage.bound_s, stage.ceilings.conversion_s)
    return saved if abs(saved) > ROUNDING * now.step.bound_s else 0.0


def _row(title: str | Line, name: str, found: Analysis, subject: Subject, converted: Any, stops: Any) -> tuple:
    now, key = subject.analysis.step, f"tuning.{name}"
    step = found.step
    return row(
        title,
        seconds(f"{key}.bound_s", step.bound_s, 4),
        seconds(f"{key}.saved_s", now.bound_s - step.bound_s),
        converted,
        tokens_per_s(f"{key}.tokens_per_s", step.tokens_per_s_bound),
        times(f"{key}.gain", step.tokens_per_s_bound / now.tokens_per_s_bound),
        count(f"{key}.max_batch", found.memory.max_batch),
        stops,
    )
