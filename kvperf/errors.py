"""What a user sees when the input is wrong: one `error:` line, one `hint:` line, exit 2."""

from __future__ import annotations

from collections.abc import Iterable


class KvperfError(Exception):
    """Bad input. `message` says what is wrong and where, `hint` what to do about it."""

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoGpuError(KvperfError):
    """There is no usable GPU, because of `why`."""

    exit_code = 3

    def __init__(self, why: str) -> None:
        hint = "`--emulate` runs the kernels on the interpreter, untimed; `kvperf bench show` reads records"
        super().__init__(f"no GPU to measure on: {why}", hint)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None where none is close."""
    import difflib

    by_folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str | None = None) -> KvperfError:
    """The error for a `kind` (GPU, model, stage …) called `name` that nobody knows.

    `listing` is the command that prints the known names; without one the hint prints them itself.
    """
    known = list(known)
    close = nearest(name, known)
    hint = f"did you mean '{close}'? " if close else ""
    hint += f"{listing} lists what there is" if listing else f"known: {', '.join(known)}"
    return KvperfError(f"unknown {kind} '{name}'", hint)
