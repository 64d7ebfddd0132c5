"""What a record of `kvperf bench` measured, beside the bound."""

from __future__ import annotations

from msgspec.structs import replace

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.subject import Subject
from kvperf.report.values import bytes_per_s, count, over, seconds, share, times, word

SHAPED = ("attention", "stage", "step", "kernel")


def matching(subject: Subject, record: Record) -> Record:
    """The record with the readings of this GPU, model and shape. Raises KvperfError where it is of others.

    Readings without a shape of a step (ceilings, the host) are of the GPU alone.
    """
    profile = record.environment.profile
    if profile not in (None, subject.gpu.name):
        raise KvperfError(
            f"the record is of {profile} ({record.environment.gpu}), not of {subject.gpu.name}",
            f"write the report on its own GPU: --gpu {profile}",
        )
    kept = tuple(case for case in record.cases if _matches(case, subject))
    if not any(case.family in SHAPED and case.shape for case in kept):
        other = next((case for case in record.cases if case.family in SHAPED and case.shape), None)
        if other is not None:
            batch, context = subject.sequences
            raise KvperfError(
                f"the record is of another step than {subject.model.name}, batch {batch}, context {context}, "
                f"{subject.analysis.workload.weight_dtype}: its first case is {_shape(other)}",
                "give the model and the shape of the record, or another record",
            )
    return replace(record, cases=kept)


def _shape(case: Case) -> str:
    return f"{case.subject} {' '.join(f'{name}={value}' for name, value in case.shape.items())}".strip()


def _matches(case: Case, subject: Subject) -> bool:
    """Whether all that the case says of its shape is so of the subject."""
    if case.family not in SHAPED:
        return True
    batch, context = subject.sequences
    work, part = subject.analysis.workload, subject.attention
    wanted: dict[str, object] = {"model": subject.model.name, "batch": batch, "seq": context}
    if case.family in ("stage", "step"):
        wanted |= {"new_tokens": work.new_tokens, "dtype": work.weight_dtype}
    elif part is not None:
        mixer = part.shard.mixer
        for name in ("heads", "kv_heads", "head_dim"):
            if hasattr(mixer, name):
                wanted[name] = getattr(mixer, name)
    same = all(case.shape[name] == value for name, value in wanted.items() if name in case.shape)
    return same and not subject.ragged and (subject.tp == 1 or case.family not in ("stage", "step"))


def section(subject: Subject, record: Record) -> Section:
    whole, record = record, matching(subject, record)
    place, left_out = record.environment, len(whole.cases) - len(record.cases)
    lines = [
        line(
            "{}; driver {}, CUDA {}; {}.",
            word("measured.gpu", place.gpu),
            word("measured.driver", place.driver),
            word("measured.cuda", place.cuda),
            word("measured.command", record.command),
        )
    ]
    if place.profile is None:
        lines.append(line("Its GPU has no profile: its readings stand beside bounds of {}.", subject.gpu.title))
    if left_out:
        lines.append(line("Left out as of another model or shape: {} readings.", count("measured.left_out", left_out)))
    if record.emulated:
        lines.append(line("It was made on the interpreter: counts and errors, and no time of any GPU."))
        return Section("measured", "Measured", (Text(tuple(lines)),))
    if not record.complete:
        lines.append(line("The run was interrupted: the record is not complete."))
    blocks: list[Block] = [Text(tuple(lines)), _step(subject, record), *_cases(record)]
    return Section("measured", "Measured", tuple(blocks))


def _step(subject: Subject, record: Record) -> Block:
    """The stages of this very step, where the record has them."""
    from kvperf.measured import measured

    try:
        found = measured(record, subject.analysis)
    except KvperfError as problem:
        return text(line("No stage of this step was measured: {}.", word("measured.step.refused", problem.message)))
    rows = []
    for stage in subject.analysis.stages:
        took, name = found.stages.get(stage.name), f"measured.stage.{stage.name}"
        if took is not None:
            rows.append(
                row(
                    stage.name.replace("_", " "),
                    seconds(f"{name}.s", took, 4),
                    seconds(f"stage.{stage.name}.bound_s", stage.bound_s),
                    times(f"{name}.over_bound", over(took, stage.bound_s)),
                    seconds(f"predicted.{stage.name}.s", None if stage.covered_by else stage.predicted_s),
                )
            )
    step = subject.analysis.step
    if found.step_s is not None:
        rows.append(
            row(
                "step",
                seconds("measured.step.s", found.step_s, 4),
                seconds("step.bound_s", step.bound_s, 4),
                times("measured.step.over_bound", found.step_s / step.bound_s),
                seconds("predicted.step.s", step.predicted_s, 4),
            )
        )
    headers = ("stage", "measured", "bound", "over the bound", "predicted")
    return Table("The stages of this step", headers, tuple(rows), totals=int(found.step_s is not None))


def _cases(record: Record) -> list[Block]:
    """All readings that were believed, and why others were not."""
    read = [case for case in record.cases if case.statistics is not None and case.refused is None]
    refused = [case for case in record.cases if case.refused is not None]
    blocks: list[Block] = []
    if read:
        rows = tuple(_row(f"measured.case.{place}", case) for place, case in enumerate(read))
        headers = (
            "reading",
            "median",
            "from",
            "to",
            "samples",
            "bound",
            "over the bound",
            "bandwidth",
            "of the read ceiling",
        )
        notes = (line("From and to bracket the median with high confidence; every sample stands in the record."),)
        blocks.append(Table("Readings", headers, rows, notes=notes))
        gaps = [
            line(
                "{}: {}", word(f"measured.case.{n}.case", case.label), word(f"measured.case.{n}.verdict", case.verdict)
            )
            for n, case in enumerate(read)
            if case.verdict
        ]
        if gaps:
            blocks += [Text((line("Where the time beyond the bound goes:"),)), Text(tuple(gaps), listed=True)]
    if refused:
        lines: list[Line] = [
            line(
                "{}: {}",
                word(f"measured.refused.{n}.case", case.label),
                word(f"measured.refused.{n}.why", case.refused),
            )
            for n, case in enumerate(refused)
        ]
        blocks += [Text((line("Readings that cannot be right:"),)), Text(tuple(lines), listed=True)]
    return blocks


def _row(name: str, case: Case) -> tuple[Line, ...]:
    found = case.statistics
    assert found is not None
    return row(
        word(f"{name}.case", case.label),
        seconds(f"{name}.median_s", found.median_s, 4),
        seconds(f"{name}.low_s", found.low_s, 4),
        seconds(f"{name}.high_s", found.high_s, 4),
        count(f"{name}.samples", found.count),
        seconds(f"{name}.bound_s", case.bound_s),
        times(f"{name}.over_bound", over(found.median_s, case.bound_s)),
        bytes_per_s(f"{name}.bandwidth", case.bytes_per_s),
        share(f"{name}.of_read", case.share_of_read),
    )
