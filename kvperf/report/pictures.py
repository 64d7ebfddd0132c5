"""What the pictures of the report are drawn of: analyses and readings, made here so that drawing computes nothing."""

from __future__ import annotations

from kvperf.crossings import filling
from kvperf.errors import KvperfError
from kvperf.measured import Measured, measured
from kvperf.report.document import Figure, Line, Memory, Roofline, line
from kvperf.report.subject import Subject
from kvperf.report.values import word


def roofline(subject: Subject) -> Figure:
    """The stages under the roofs, with this step's readings where the record has them."""
    last, read, missing = subject.gpu.levels()[-1], None, ()
    if subject.record is not None:
        found = _measured(subject)
        if isinstance(found, KvperfError):
            missing = line(" No reading is drawn: {}.", word("figure.roofline.unread", found.message))
        else:
            read = found
    drawn = Roofline(subject.analysis, (last.name, last.bandwidth_kind or "spec"), read)
    return Figure(drawn, line("The stages under the roofs of {}.{}", subject.gpu.title, missing))


def _measured(subject: Subject) -> Measured | KvperfError:
    assert subject.record is not None
    try:
        return measured(subject.record, subject.analysis)
    except KvperfError as problem:
        return problem


def memory(subject: Subject) -> Figure | None:
    """Memory over the batch. None where the subject doesn't know the keywords that vary it."""
    if subject.asked is None:
        return None
    caption: Line = line("What fills the memory as the batch grows.")
    asked = {name: value for name, value in subject.asked.items() if name != "batch"}
    try:
        return Figure(Memory(filling("batch", **asked)), caption)
    except KvperfError as problem:
        return Figure(None, line("{} Not drawn: {}.", caption, word("figure.memory.undrawn", problem.message)))
