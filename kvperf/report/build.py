"""The whole report: every section in order."""

from __future__ import annotations

from kvperf.report import (
    cached_attention,
    hierarchy,
    measured,
    parallelism,
    predicted,
    sources,
    step,
    tensor_cores,
    traffic,
    tuning,
)
from kvperf.report.document import Document, Line, line
from kvperf.report.kernels import Kernels
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import count, flop_per_s, held, seconds, tokens_per_s, word

REPEATED = "this step does not fit"  # another line says so
VECTOR_UNITS = {"cuda_core": "CUDA cores", "vector_alu": "vector units"}


def report(subject: Subject) -> Document:
    """The document on this subject."""
    kernels = Kernels(subject)
    sections = [
        step.section(subject),
        hierarchy.section(subject),
        cached_attention.section(subject, kernels),
        tensor_cores.section(subject),
        traffic.section(subject, kernels),
        parallelism.section(subject),
        tuning.section(subject),
    ]
    if subject.record is not None:
        sections.append(measured.section(subject, subject.record))
    sections.append(sources.section(subject, sections))
    return Document(_title(subject), _lead(subject), tuple(sections))


def _not_native(subject: Subject) -> list[Line]:
    """Formats of the products that no matrix unit of this GPU takes."""
    return [
        line(
            "{} is not native to the matrix units of this GPU: its products run on {} as {}, at {}.",
            word(f"native.{peak.operand}", peak.operand),
            word(f"native.{peak.operand}.path", VECTOR_UNITS[peak.path]),
            word(f"native.{peak.operand}.as", peak.dtype),
            flop_per_s(f"native.{peak.operand}.peak", peak.flops_per_s),
        )
        for peak in subject.analysis.gpu.peaks
        if peak.path in VECTOR_UNITS
    ]


def _title(subject: Subject) -> Line:
    return line("{} on {}", subject.model.name, subject.gpu.title)


def _lead(subject: Subject) -> tuple[Line, ...]:
    record = subject.analysis
    work, step_, kept = record.workload, record.step, record.memory
    longest = max(record.stages, key=lambda stage: stage.bound_s)
    gpus = line(" on each of {} GPUs", count("asked.tp", work.tp)) if work.tp > 1 else ()
    fits = None if kept.fits is None else "It fits into memory" if kept.fits else "It does not fit into memory"
    return (
        line(
            "A {} step{}: {} sequences, context {}{}, new tokens of each at most {}; {} weights, {} activations, {} KV "
            "cache, {} fusion.",
            work.phase,
            gpus,
            count("asked.batch", work.batch),
            count("asked.context", work.context_tokens),
            " at most" if subject.ragged else "",
            count("asked.new_tokens", work.new_tokens),
            work.weight_dtype,
            work.activation_dtype,
            work.kv_dtype,
            work.fusion,
        ),
        line(
            "No kernels at this precision take less than {}, or give more than {}. The step is bound by {}; the "
            "longest bound of a stage is that of {}.",
            seconds("step.bound_s", step_.bound_s, 4),
            tokens_per_s("step.tokens_per_s", step_.tokens_per_s_bound),
            word("step.bound_by", BOUND_BY[step_.bound_by]),
            word("bottleneck.stage", longest.name.replace("_", " ")),
        ),
        *predicted.lead(subject),
        line(
            "{}: weights {}, KV cache {} of {}.",
            word("asked.fits", fits),
            held("memory.weights", kept.resident_weight_bytes),
            held("memory.kv", kept.kv_cache_bytes),
            held("memory.capacity", kept.capacity_bytes),
        ),
        *_not_native(subject),
        *(
            line("Note: {}.", word(f"warning.{n}", said))
            for n, said in enumerate(record.warnings)
            if not said.startswith((REPEATED, predicted.NONE))
        ),
        line(
            "Every figure is computed from the profile, the model and the step; what nobody knows is said to be "
            "unknown."
        ),
    )
