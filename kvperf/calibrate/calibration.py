"""Calibrate a GPU and stack: every kernel family that its tables measure, then what its host costs."""

from __future__ import annotations

from collections.abc import Iterable

from kvperf.calibrate.family import calibrated
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Calibration, Fitted
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import TABLES, tables
from kvperf.silicon.tables import VERSION, WHEEL_SHA256

SOURCE = f"aiconfigurator-core {VERSION} (NVIDIA, Apache-2.0), wheel SHA-256 {WHEEL_SHA256}"
MOST_CONSTANTS, HOST_CONSTANTS = 60, 3
SHARED = ("exchange",)  # kernels of a library that all stacks launch: counted apart


def calibrate(gpu: str, stack: str, day: str, families: Iterable[str] = tuple(TABLES)) -> Calibration:
    """The constants of every family with a table, and what each is worth on the rows held out.

    Deterministic: the same tables give the same constants. `day` is written down, as 2026-11-22.
    Raises KvperfError where nothing was measured, or where the stack's own kernels would need more than 60 constants.
    """
    device = load_gpu(gpu)
    fitted: dict[str, Fitted] = {}
    for name in families:
        measured = tables(name, gpu, stack)
        if measured is not None:
            fitted[name] = calibrated(FAMILIES[name], measured, device)
    count = HOST_CONSTANTS + sum(len(found.constants) for name, found in fitted.items() if name not in SHARED)
    if not fitted:
        raise KvperfError(f"no table measures {stack} on {gpu}", "`kvperf validate lint` lists what there is")
    if count > MOST_CONSTANTS:
        raise KvperfError(f"{count} constants for {gpu} and {stack}: more than {MOST_CONSTANTS}", "take a term out")
    return Calibration(
        schema_version="kvperf.calibration/1",
        gpu=gpu,
        architecture=device.architecture.name,
        stack=stack,
        fitted=day,
        source=SOURCE,
        families=fitted,
    )
