"""Reports on shipped and on changed profiles and models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kvperf import api
from kvperf.files import folder
from kvperf.inputs import DEFAULT_STACK
from kvperf.layout import Parallelism
from kvperf.report.build import report
from kvperf.report.document import Document, Value
from kvperf.report.subject import Subject

H100 = folder("hardware") / "h100-sxm.yaml"
LLAMA = folder("models") / "llama-3.1-8b.yaml"


def document(gpu: str | Path = "h100", model: str | Path = "llama-3.1-8b", **step: Any) -> Document:
    tp, record = step.pop("tp", 1), step.pop("record", None)
    kept = {"stack": step.pop("stack", DEFAULT_STACK), "cuda_graphs": step.pop("cuda_graphs", True)}
    step = {"batch": 4} | step if "contexts" not in step else step
    return report(Subject(*api.prepare(gpu, model, **step), parallelism=Parallelism(tp=tp), record=record, **kept))


def changed(source: Path, target: Path, *edits: tuple[str, str]) -> Path:
    """A copy of a profile or model with each pattern, found once, replaced; architectures are found beside it."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in edits:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1, pattern
    target.write_text(text, encoding="utf-8")
    return target


def skeleton(found: Document) -> str:
    """All that is no value, with the values' names in their places."""
    return "\n".join(f"{{{part.name}}}" if isinstance(part, Value) else str(part) for part in found.parts())
