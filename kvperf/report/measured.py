"""What a record of `kvperf bench` measured, beside the bound."""

from __future__ import annotations

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.subject import Subject
from kvperf.report.values import bytes_per_s, count, over, seconds, share, times, word


def section(subject: Subject, record: Record) -> Section:
    place = record.environment
    lines = [
        line(
            "{}; driver {}, CUDA {}; {}.",
            word("measured.gpu", place.gpu),
            word("measured.driver", place.driver),
            word("measured.cuda", place.cuda),
            word("measured.command", record.command),
        )
    ]
    if place.profile not in (None, subject.gpu.name):
        lines.append(line("The record is of {}, not of {}.", word("measured.profile", place.profile), subject.gpu.name))
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
                )
            )
    step = subject.analysis.step
    if found.step_s is not None:
        ratio = times("measured.step.over_bound", found.step_s / step.bound_s)
        rows.append(
            row("step", seconds("measured.step.s", found.step_s, 4), seconds("step.bound_s", step.bound_s, 4), ratio)
        )
    headers = ("stage", "measured", "bound", "over the bound")
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
