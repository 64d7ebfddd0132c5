"""Refit every shipped calibration: hardware/calibration/*.yaml.

The kernels of each GPU and stack come first, from kernel tables alone; then, from the even half of the load tests, what
their host costs. Takes some minutes. `scripts/calibrate.py h100-sxm.vllm` refits one.
"""

from __future__ import annotations

import datetime
import sys

import msgspec

from kvperf.calibrate.calibration import calibrate
from kvperf.calibrate.writing import text
from kvperf.errors import KvperfError
from kvperf.predict.calibration import folder, load
from kvperf.silicon.tables import STACKS, SYSTEMS
from kvperf.validate.load_tests import fitted_host, load_tests


def main(asked: list[str]) -> None:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    pairs = [(gpu, stack) for gpu in SYSTEMS for stack in STACKS]
    pairs = [pair for pair in pairs if not asked or ".".join(pair) in asked]
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


if __name__ == "__main__":
    main(sys.argv[1:])
