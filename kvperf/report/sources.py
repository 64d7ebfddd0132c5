"""Every source that the other sections cite, by its key."""

from __future__ import annotations

from collections.abc import Iterable

from kvperf.report.document import Cite, Section, Table, Text, line, row, section_parts, text
from kvperf.report.subject import Subject
from kvperf.report.values import word

MODEL = "model"


def section(subject: Subject, sections: Iterable[Section]) -> Section:
    cited: dict[str, str] = {}
    for part in (part for found in sections for part in section_parts(found)):
        if isinstance(part, Cite):
            cited[part.key] = part.text
    rows = [row(Cite(key, said), said) for key, said in cited.items()]
    rows += [row(Cite(MODEL, said), said) for said in subject.model.source]
    table = Table("What the figures come from", ("key", "source"), tuple(rows))
    return Section("sources", "Sources", (table, _notes(subject)))


def _notes(subject: Subject) -> Text:
    """What the profile itself warns of."""
    warned = (*subject.gpu.profile.notes, *subject.gpu.architecture.notes)
    if not warned:
        return text(line("The profile {} has no notes.", subject.gpu.name))
    return Text(tuple(line("{}", word(f"note.{n}", note)) for n, note in enumerate(warned)), listed=True)
