"""What a kernel did wrong, with the place and the thread."""

from __future__ import annotations

from kvperf.errors import KvperfError


class Fault(KvperfError):  # noqa: N818 - the field's word
    """The kernel, or the interpreter's knowledge of PTX, ends here.

    kind    one word for the sort of fault: bounds, alignment, uninitialised, deadlock, divergence, unknown, trap …
    line    line of the PTX; 0 where no single instruction is at fault
    buffer  the buffer it concerns, or None
    """

    def __init__(self, kind: str, message: str, hint: str, line: int = 0, buffer: str | None = None) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.line = line
        self.buffer = buffer
