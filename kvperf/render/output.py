"""Where rendered text goes: standard output, or a file that is whole or not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kvperf.errors import KvperfError
from kvperf.record import json_text as json_text

FORMATS = ("table", "json", "csv", "md")


def write(text: str, output: Path | None) -> None:
    """Print `text`, or put it into a file by way of a temporary one beside it.

    A link is followed; a device or a pipe is written to, never replaced.
    """
    if output is None or str(output) == "-":
        if sys.stdout is None:
            raise KvperfError("standard output is closed", "name a file with --output FILE")
        sys.stdout.write(text)
        return
    write_bytes(text.encode("utf-8"), output)


def write_bytes(content: bytes, output: Path) -> None:
    """Put `content` into a file by way of a temporary one beside it. Raises KvperfError where it cannot be written."""
    import tempfile

    target = Path(os.path.realpath(output))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as problem:
        raise _unwritable(output, problem) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except OSError as problem:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(output, problem) from None


def _unwritable(output: Path, problem: OSError) -> KvperfError:
    return KvperfError(
        f"cannot write {output}: {problem.strerror}", "name a file in a folder that exists and can be written"
    )


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of one shape as CSV in base units; unknown values are empty cells."""
    import csv
    import io

    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
