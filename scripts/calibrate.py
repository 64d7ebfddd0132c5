"""Refit every shipped calibration: hardware/calibration/*.yaml.

The kernels of each GPU and stack come first, from kernel tables alone; then, from the even half of the load tests, what
their host costs. Takes some minutes. `scripts/calibrate.py h100-sxm.vllm` refits one, `scripts/calibrate.py
--family=exchange` one kernel family of each file, which keeps the rest of itself.
"""

from __future__ import annotations

import datetime
import sys

import msgspec

from kvperf.calibrate.calibration import calibrate
from kvperf.calibrate.family import calibrated
from kvperf.calibrate.writing import text
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import folder, load
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import TABLES, tables
from kvperf.silicon.tables import STACKS, SYSTEMS
from kvperf.validate.load_tests import fitted_host, load_tests


def main(arguments: list[str]) -> None:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    family = next((a.removeprefix("--family=") for a in arguments if a.startswith("--family=")), None)
    asked = [a for a in arguments if not a.startswith("--family=")]
    pairs = [(gpu, stack) for gpu in SYSTEMS for stack in STACKS]
    pairs = [pair for pair in pairs if not asked or ".".join(pair) in asked]
    if family:
        refit_family(pairs, family)
        return
    folder().mkdir(exist_ok=True)
    for gpu, stack in pairs:
        try:
            made = calibrate(gpu, stack, day)
        except KvperfError as problem:
            print(f"{gpu} {stack}: {problem.message}")
            continue
        (folder() / f"{gpu}.{stack}.yaml").write_text(text(made), encoding="utf-8")
        print(f"{gpu} {stack}: {sum(len(f.constants) for f in made.families.values())} constants", flush=True)
    load.cache_clear()
    for gpu, stack in pairs:
        path = folder() / f"{gpu}.{stack}.yaml"
        tests, _ = load_tests((gpu,), (stack,))
        host = fitted_host(tests) if tests and path.is_file() else None
        if host:
            made = load(path)
            families = {name: found for name, found in made.families.items() if name != "host"}
            path.write_text(text(msgspec.structs.replace(made, families=families | {"host": host})), encoding="utf-8")
            print(f"{gpu} {stack}: host {host.constants}")


def refit_family(pairs: list[tuple[str, str]], family: str) -> None:
    """One family of every file whose GPU and stack have a table of it. The others, and the day, stay."""
    for gpu, stack in pairs:
        measured, path = tables(family, gpu, stack), folder() / f"{gpu}.{stack}.yaml"
        if measured is None:
            continue
        made = load(path)
        families = made.families | {family: calibrated(FAMILIES[family], measured, load_gpu(gpu))}
        ordered = {name: families[name] for name in (*TABLES, "host") if name in families}
        path.write_text(text(msgspec.structs.replace(made, families=ordered)), encoding="utf-8")
        print(f"{gpu} {stack}: {len(families[family].constants)} constants", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
