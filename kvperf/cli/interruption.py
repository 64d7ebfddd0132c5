"""Ctrl-C and SIGTERM while readings are taken.

The first asks to stop, so that what was read is kept; the second stops at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ASKED = threading.Event()
MESSAGE = b"\nstopping after the readings that run; once more stops at once\n"


def stopped() -> bool:
    """Whether somebody asked to stop."""
    return _ASKED.is_set()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Take SIGINT and SIGTERM as a request the first time, as KeyboardInterrupt the second time."""
    _ASKED.clear()
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return
    before = {number: signal.signal(number, _ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _ASKED.clear()


def _ask(number: int, frame: Any) -> None:
    if _ASKED.is_set():
        raise KeyboardInterrupt
    _ASKED.set()
    with contextlib.suppress(OSError):  # straight to the descriptor: a print may be what was interrupted
        os.write(2, MESSAGE)
