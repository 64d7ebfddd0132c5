"""One option of a command."""

from typing import Any

import typer


def option(name: str, text: str, **more: Any) -> Any:
    """Its flag and its line of help, which names the default itself."""
    return typer.Option(name, help=text, show_default=False, case_sensitive=False, **more)
