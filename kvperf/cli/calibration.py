"""The fits behind `kvperf calibrate`."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvperf import yaml_file
from kvperf.calibrate.writing import text
from kvperf.errors import KvperfError, unknown_name
from kvperf.hardware import load_gpu
from kvperf.inputs import STACKS
from kvperf.predict.calibration import Calibration
from kvperf.render import output as out
from kvperf.silicon.catalogue import TABLES

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.silicon.catalogue import Group

ODD = 3.0
NAMED = tuple(stack for stack in STACKS if stack != "none")


def fit(
    measured: Sequence[Path], gpu: str | None, stack: str, family: str | None, entrant: str | None, output: Path | None
) -> None:
    """Fit and write the YAML; what was taken, left out and reached goes to standard error."""
    if stack not in NAMED:
        raise unknown_name("stack", stack, NAMED)
    chosen = tuple(part.strip().replace("-", "_") for part in family.split(",")) if family else tuple(TABLES)
    for name in chosen:
        if name not in TABLES:
            raise unknown_name("kernel family", name, TABLES)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    if measured:
        made = _from_files(measured, gpu, stack, chosen, entrant, day)
    else:
        made = _from_tables(gpu, stack, chosen, entrant, day)
    _warn_of_units(made)
    for name, found in made.families.items():
        for label, held in found.held_out.items():
            print(
                f"{name} {label}: {held.rows} rows held out, mean error {100 * held.mean:.1f} % "
                f"(bare roofline {100 * held.naive:.1f} %), {100 * held.coverage:.0f} % inside the interval",
                file=sys.stderr,
            )
    out.write(text(_beside(made, output)), output)


def _warn_of_units(made: Calibration) -> None:
    """Rows that even the fit predicts three times off are more often in the wrong unit than right."""
    for name, found in made.families.items():
        for label, held in found.held_out.items():
            if not 1 / ODD <= held.bias <= ODD:
                print(
                    f"warning: {name} {label}: measured times are {1 / held.bias:.2g} x the fitted ones; "
                    "are the rows in seconds?",
                    file=sys.stderr,
                )


def _beside(made: Calibration, output: Path | None) -> Calibration:
    """With the families that the file already has of the same GPU and stack, where this fit says nothing of them."""
    if output is None or not output.is_file():
        return made
    kept = yaml_file.decode(yaml_file.read(output), Calibration)
    if (kept.gpu, kept.stack) != (made.gpu, made.stack):
        raise KvperfError(f"{output} is the calibration of {kept.gpu} and {kept.stack}", "give --output another file")
    others = {name: found for name, found in kept.families.items() if name not in made.families}
    if others:
        print(f"kept from {output}: {', '.join(others)}", file=sys.stderr)
    return msgspec.structs.replace(made, families=made.families | others)


def _from_tables(gpu: str | None, stack: str, chosen: Sequence[str], entrant: str | None, day: str) -> Calibration:
    from kvperf.calibrate.calibration import calibrate
    from kvperf.silicon.tables import SYSTEMS

    if entrant is not None:
        raise KvperfError("--entrant without a record", "name the records of kvperf bench")
    if gpu is None:
        raise KvperfError("nothing says what to calibrate", "give --gpu, or records of kvperf bench")
    name = load_gpu(gpu).name
    if name not in SYSTEMS:
        hint = f"measured: {', '.join(SYSTEMS)}; `kvperf bench attention` measures your own"
        raise KvperfError(f"no table was measured on {name}", hint)
    return calibrate(name, stack, day, chosen)


def _from_files(
    measured: Sequence[Path], gpu: str | None, stack: str, chosen: Sequence[str], entrant: str | None, day: str
) -> Calibration:
    """Records and CSV files do not mix: a record knows its GPU, a CSV is told it."""
    from kvperf.calibrate.records import calibration_of_rows

    device = load_gpu(gpu) if gpu is not None else _gpu_of(measured)
    tables = [path for path in measured if path.suffix == ".csv"]
    if tables and len(tables) < len(measured):
        raise KvperfError("records and CSV files together", "calibrate from one kind")
    groups = _csv_groups(tables, device, stack) if tables else _record_groups(measured, device, stack, entrant)
    kept = {name: same for name, same in groups.items() if name in chosen}
    if not kept:
        raise KvperfError(f"the files measured {', '.join(groups)} only", "leave --family out")
    source = "own measurements: " + ", ".join(path.name for path in measured)
    return calibration_of_rows(device, stack, kept, day, source)


def _csv_groups(paths: Sequence[Path], device: Gpu, stack: str) -> dict[str, list[Group]]:
    from kvperf.validate.own_rows import read_rows

    groups: dict[str, list[Group]] = {}
    for path in paths:
        found, bad = read_rows(path, device, stack)
        for line, why in bad:
            print(f"{path}:{line}: {why}", file=sys.stderr)
        for name, same in found.items():
            groups.setdefault(name, []).extend(same)
    return groups


def _record_groups(paths: Sequence[Path], device: Gpu, stack: str, entrant: str | None) -> dict[str, list[Group]]:
    from kvperf.calibrate.records import rows_of_records

    groups, notes = rows_of_records(paths, device, entrant, stack)
    for note in notes:
        print(note, file=sys.stderr)
    return groups


def _gpu_of(paths: Sequence[Path]) -> Gpu:
    """The GPU that the first record was measured on."""
    from kvperf.bench.record import read

    if paths[0].suffix == ".csv":
        raise KvperfError("a CSV does not say what it was measured on", "give --gpu")
    profile = read(paths[0]).environment.profile
    if profile is None:
        raise KvperfError(f"{paths[0]} is of a GPU without a profile", "give --gpu")
    return load_gpu(profile)
