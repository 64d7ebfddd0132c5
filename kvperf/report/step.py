"""The step, stage by stage: where its bound comes from, what implementations pay beside it, and what fits."""

from __future__ import annotations

from typing import Any

from kvperf.record import StageFigures, StepFigures
from kvperf.report import fitting, pictures, predicted
from kvperf.report.document import Block, Line, Section, Table, Text, joined, line, row
from kvperf.report.references import cite
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import count, flop, held, intensity, moved, seconds, share, tokens_per_s, word


def section(subject: Subject) -> Section:
    record = subject.analysis
    blocks: list[Block] = [_stages(subject), _bottleneck(subject), *predicted.blocks(subject)]
    blocks += [pictures.roofline(subject), _beside(subject)]
    if record.workload.routing:
        blocks.append(Text((line("Expert weights are the expectation under {} routing.", record.workload.routing),)))
    blocks += [_memory(subject), _capacity(subject)]
    picture = pictures.memory(subject)
    if picture is not None:
        blocks.append(picture)
    return Section("step", "The step, stage by stage", tuple(blocks))


def _stages(subject: Subject) -> Table:
    record = subject.analysis
    whole_s = record.step.serial_bound_s

    def cells(found: StageFigures | StepFigures) -> tuple[Line, ...]:
        stage = found.name if isinstance(found, StageFigures) else "step"
        name = f"stage.{stage}"
        return row(
            stage.replace("_", " "),
            count(f"{name}.kernels", found.kernels),
            flop(f"{name}.flop", found.flops),
            moved(f"{name}.plan_bytes", found.hbm_bytes),
            moved(f"{name}.floor_bytes", found.compulsory_bytes),
            intensity(f"{name}.intensity", found.flops_per_byte) if found.matrix_flops else "–",
            word(f"{name}.bound_by", BOUND_BY[found.bound_by] if found.bound_s else "nothing"),
            seconds(f"{name}.bound_s", found.bound_s),
            share(f"{name}.share", found.bound_s / whole_s) if isinstance(found, StageFigures) else "",
        )

    return Table(
        "The bound of every stage, over all its layers",
        ("stage", "kernels", "work", "bytes as planned", "bytes at least", "intensity", "bound by", "bound", "share"),
        tuple(cells(found) for found in (*record.stages, record.step)),
        totals=1,
        notes=(
            line("Intensity is the FLOP of matrix products over planned bytes; other work does not count."),
            line(
                "Stages may overlap: the bound of the step is its busiest resource, not the sum of the stages, of "
                "which shares are."
            ),
            line(
                "Planned bytes cross the borders of kernels; the least bytes no implementation avoids. {}",
                cite("formulas"),
            ),
        ),
    )


def _bottleneck(subject: Subject) -> Text:
    record = subject.analysis
    step, stages = record.step, sorted(record.stages, key=lambda stage: -stage.bound_s)
    first = stages[0]
    lines = [
        line(
            "The step takes at least {}, because of its {}. That is at most {} over the batch.",
            seconds("step.bound_s", step.bound_s, 4),
            word("step.bound_by", BOUND_BY[step.bound_by]),
            tokens_per_s("step.tokens_per_s", step.tokens_per_s_bound),
        ),
        line(
            "Busy at peak: matrix units {}, memory {}, links {}; if no stages overlap the step takes {}.",
            seconds("step.tensor_s", step.resources.tensor_s),
            seconds("step.hbm_s", step.resources.hbm_s),
            seconds("step.link_s", step.resources.link_s),
            seconds("step.serial_s", step.serial_bound_s, 4),
        ),
        line(
            "The bottleneck at the bound is {}, {} of the stages' bounds: {}.",
            word("bottleneck.stage", first.name.replace("_", " ")),
            share("bottleneck.share", first.bound_s / step.serial_bound_s),
            word("bottleneck.bound_by", f"bound by {BOUND_BY[first.bound_by]}"),
        ),
        line(
            "Of the planned bytes {} are weights, {} are K and V.",
            share("step.weight_share", step.weight_bytes / step.hbm_bytes),
            share("step.kv_share", (step.kv_read_bytes + step.kv_write_bytes) / step.hbm_bytes),
        ),
    ]
    lines.append(
        line("At the best rates measured on this GPU: {}.", seconds("step.achievable_s", step.achievable_s, 4))
    )
    return Text(tuple(lines))


def _beside(subject: Subject) -> Table:
    """Ceilings of an implementation."""
    ceilings: Any = subject.analysis.step.ceilings
    bound = subject.analysis.step.bound_s
    rows = []
    for name, title in (
        ("cuda_core_s", "vector units: norms, softmax, rotations"),
        ("sfu_s", "exponentials"),
        ("conversion_s", "conversion of narrow formats"),
        ("l2_s", "L2: all planned bytes"),
        ("launch_s", "launches, as nodes of a graph"),
    ):
        took = getattr(ceilings, name)
        longer = None if took is None else "longer than the bound" if took > bound else "within the bound"
        rows.append(row(title, seconds(f"beside.{name}", took), word(f"beside.{name}.verdict", longer)))
    return Table(
        "Beside the bound: what an implementation pays unless it overlaps or avoids it",
        ("what", "time", "against the bound"),
        tuple(rows),
    )


def _memory(subject: Subject) -> Table:
    kept = subject.analysis.memory
    buffers = [row("collective buffers", held("memory.buffers", kept.collective_buffer_bytes))]
    usable = None if kept.capacity_bytes is None else kept.capacity_bytes * kept.usable_fraction
    return Table(
        "What the memory holds",
        ("what", "size"),
        (
            row("weights", held("memory.weights", kept.resident_weight_bytes)),
            row("KV cache and states", held("memory.kv", kept.kv_cache_bytes)),
            row("activations at their peak", held("memory.activations", kept.activation_peak_bytes)),
            row("reserve", held("memory.reserve", kept.reserve_bytes)),
            *(buffers if kept.collective_buffer_bytes else ()),
            row("needed", held("memory.needed", kept.needed_bytes)),
            row("usable", (held("memory.usable", usable), " of ", held("memory.capacity", kept.capacity_bytes))),
        ),
        totals=2,
    )


def _capacity(subject: Subject) -> Text:
    kept, limit = subject.analysis.memory, subject.analysis.model.max_context_tokens
    longest = kept.max_context_tokens
    ways = fitting.lines(subject) if kept.fits is False else []
    lines = [
        *ways,
        line(
            "The largest batch at this context is {}.",
            count("memory.max_batch", kept.max_batch),
        ),
        line(
            "The largest context at this batch is {}{}.",
            word("memory.max_context", "any") if longest is None else count("memory.max_context", longest),
            () if limit is None else line("; the model takes {}", count("memory.model_context", limit)),
        ),
        line(
            "A token of context adds {} for good{}.",
            held("memory.kv_per_token", kept.kv_growth_bytes_per_token),
            joined(
                [line("; until windows are full {}", held("memory.kv_per_new_token", kept.kv_bytes_per_token))]
                if kept.kv_bytes_per_token != kept.kv_growth_bytes_per_token
                else []
            ),
        ),
    ]
    if kept.recurrent_state_bytes:
        lines.append(line("Recurrent states take {} of it.", held("memory.states", kept.recurrent_state_bytes)))
    return Text(tuple(lines))
