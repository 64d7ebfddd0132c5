"""Where the profiles, models and kernels lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """The folder `hardware`, `models` or `kernels`, from a checkout and from an installed wheel alike."""
    package = Path(__file__).resolve().parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
