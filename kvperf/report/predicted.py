"""What is predicted of the step: how long, how sure, on whose constants; or why nothing is."""

from __future__ import annotations

from kvperf.record import Analysis, Figures, StageFigures
from kvperf.report.document import Block, Line, Table, joined, line, row
from kvperf.report.subject import Subject
from kvperf.report.values import count, seconds, share, times, tokens_per_s, word

NONE = "no prediction"  # how the analysis begins to say why
PUBLISHED, BORROWED = "published", ", borrowed"
OWN = "own"


def is_known(record: Analysis) -> bool:
    return record.step.predicted_s is not None


def why_not(record: Analysis) -> str:
    """One sentence without its end."""
    said = [text for text in record.warnings if text.startswith(NONE)]
    return said[0] if said else f"{NONE}: none was asked for (--stack none)"


def within(name: str, found: Figures, digits: int = 3) -> Line:
    """The ends of the interval that four of five times lie in."""
    ends = found.predicted_low_s, found.predicted_high_s
    if None in ends:
        return (word(f"{name}.between", None),)
    return seconds(f"{name}.low_s", ends[0], digits), " to ", seconds(f"{name}.high_s", ends[1], digits)


def borrowed(record: Analysis) -> str | None:
    """Whether any constants are another GPU's or stack's, in a word."""
    if not is_known(record):
        return None
    return "borrowed" if any((stage.calibration or "").endswith(BORROWED) for stage in record.stages) else OWN


def lead(subject: Subject) -> list[Line]:
    """For the opening: the predicted step beside the bound, and borrowed constants at once."""
    record = subject.analysis
    if not is_known(record):
        return [line("There is {}.", word("predicted.why_not", why_not(record)))]
    step, longest = record.step, _longest(record)
    lines = [
        line(
            "With the kernels of {}{} it is predicted to take {}, {} the bound, and to give {}; four of five such "
            "steps take {}. Its longest stage is then {}.",
            word("predicted.stack", record.workload.stack),
            "" if record.workload.cuda_graphs else " without CUDA graphs",
            seconds("predicted.step.s", step.predicted_s, 4),
            times("predicted.over_bound", step.predicted_s / step.bound_s if step.predicted_s else None),
            tokens_per_s("predicted.tokens_per_s", step.tokens_per_s_predicted),
            within("predicted.step", step, 4),
            word("predicted.longest", longest.name.replace("_", " ")),
        )
    ]
    return lines + _borrowed(record)


def _longest(record: Analysis) -> StageFigures:
    return max(record.stages, key=lambda stage: stage.predicted_s or 0)


def _borrowed(record: Analysis) -> list[Line]:
    names: dict[str, list[str]] = {}
    for stage in record.stages:
        if stage.calibration and stage.calibration.endswith(BORROWED):
            names.setdefault(stage.calibration.removesuffix(BORROWED), []).append(stage.name.replace("_", " "))
    return [
        line(
            "Borrowed: nothing was fitted for {} on {} with {}; constants of {} stand in, and the interval is wider.",
            word(f"predicted.borrowed.{label}.stages", ", ".join(stages)),
            record.gpu.name,
            word("predicted.stack", record.workload.stack),
            word(f"predicted.borrowed.{label}", label),
        )
        for label, stages in names.items()
    ]


def blocks(subject: Subject) -> list[Block]:
    """The step's stages as they are predicted; nothing where they are not, as the opening says."""
    record = subject.analysis
    if not is_known(record):
        return []
    step = record.step
    rows = [_stage(stage) for stage in record.stages]
    if step.host_s and step.predicted_s:
        part = share("predicted.host.share", step.host_s / step.predicted_s)
        rows.append(row("host", "", seconds("predicted.host.s", step.host_s), "", part, "", "beside the kernels"))
    rows.append(
        row(
            "step",
            seconds("step.bound_s", step.bound_s, 4),
            seconds("predicted.step.s", step.predicted_s, 4),
            within("predicted.step", step, 4),
            "",
            count("predicted.step.launches", step.launches),
            "",
        )
    )
    headers = ("stage", "bound", "predicted", "four of five", "share", "launches", "constants, or where it is priced")
    return [Table(f"What {record.workload.stack} is predicted to take", headers, tuple(rows), 1, _notes(record))]


def _stage(stage: StageFigures) -> tuple[Line, ...]:
    name, bound = f"predicted.{stage.name}", seconds(f"stage.{stage.name}.bound_s", stage.bound_s)
    title = stage.name.replace("_", " ")
    if stage.covered_by is not None:
        inside = word(f"{name}.covered_by", f"in {stage.covered_by.replace('_', ' ')}")
        return row(title, bound, "", "", "", "", inside)
    return row(
        title,
        bound,
        seconds(f"{name}.s", stage.predicted_s),
        within(name, stage),
        share(f"{name}.share", stage.share),
        count(f"{name}.launches", stage.launches),
        word(f"{name}.constants", stage.calibration),
    )


def _notes(record: Analysis) -> tuple[Line, ...]:
    labels = dict.fromkeys(stage.calibration for stage in record.stages if stage.calibration)
    fitted = [label for label in labels if label and label != PUBLISHED]
    notes = [
        line(
            "Launches priced one after the other, from a cold L2; constants: {}.",
            joined([word(f"predicted.constants.{label}", label) for label in fitted])
            or word("predicted.constants", None),
        ),
        line("Share is of the predicted step. Four of five times that were held out of the fit lie in the interval."),
        line("A stage without a time is done by the kernel of another, as it was measured: it is priced there."),
    ]
    if PUBLISHED in labels:
        notes.append(line("Published: small kernels, which no table measures; figures of publications price them."))
    if record.step.host_s is None:
        notes.append(line("What the host takes beside the kernels is not in it: none was fitted for this stack here."))
    return tuple(notes)
