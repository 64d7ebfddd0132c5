"""A page: lines of text and tables in turn, for a terminal, a pipe, a file or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_page(parts: Any, format: str, output_file: Path | None) -> None:
    """Lines and tables in turn, an empty line between them."""
    from kvperf.render import output, table

    if format == "md":
        texts = ["\n\n".join(part) + "\n" if isinstance(part, list) else table.markdown(part) for part in parts]
        output.write("\n".join(texts), output_file)
        return
    if output_file is not None or not table.is_terminal():
        texts = [_wrapped(part) if isinstance(part, list) else table.plain(part) for part in parts]
        output.write("\n".join(texts), output_file)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for i, part in enumerate(parts):
        output.write("\n" * (i > 0), None)
        if isinstance(part, list):
            output.write(_wrapped(part), None)
        else:
            table.on_terminal(part, console)


def _wrapped(lines: list[str]) -> str:
    """Lines no wider than a terminal, continued with an indent; what belongs together stays so."""
    import re
    from textwrap import wrap

    glued = (re.sub(r"(?<=[0-9]) (?=[%A-Zµmn])(?!\w+=)", "\0", _listed(line)) for line in lines)
    parts = (p for line in glued for p in wrap(line, 80, subsequent_indent="  ", break_on_hyphens=False))
    return "".join(f"{part}\n" for part in parts).replace("\0", " ")


def _listed(line: str) -> str:
    """What stands between two dots stays together where it is short."""
    parts = line.split(" · ")
    return line if len(parts) == 1 else " · ".join(p.replace(" ", "\0") if len(p) <= 30 else p for p in parts)
