"""Serving rows scored: with kernel tables alone, and with what a stack's host costs, fitted on half of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from kvperf.calibrate.score import score
from kvperf.hardware import load_gpu
from kvperf.model import model_names
from kvperf.predict.calibration import Constants, Fitted, HeldOut, RowCounts, folder, load
from kvperf.silicon.serving import Left, Serving, screened, serving_rows
from kvperf.validate.record import Dropped, Line
from kvperf.validate.serving import replay

DENSE = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b")
FASTER_THAN_PHYSICS = 0.2  # share of a deployment's rows below the bound that condemns all of them
UNQUEUED = 1.5  # times the shortest first token of the same deployment and prompt
TABLE = "silicon_sample.csv"


class Test(msgspec.Struct, frozen=True):
    """One load test: measured, predicted from kernel tables alone, and at the bounds."""

    row: Serving
    tpot_s: float
    ttft_s: float
    naive_tpot_s: float


class Host(msgspec.Struct, frozen=True):
    """What a stack's host costs on a GPU: a step, each request in it, and the way to the first token."""

    step_s: float = 0.0
    request_s: float = 0.0
    first_token_s: float = 0.0

    def tpot_s(self, test: Test) -> float:
        return test.tpot_s + self.step_s + self.request_s * test.row.concurrency

    def ttft_s(self, test: Test) -> float:
        return test.ttft_s + self.first_token_s


def load_tests(gpus: Iterable[str], stacks: Iterable[str]) -> tuple[list[Test], list[Dropped]]:
    """Every row of the file that no rule leaves out, replayed."""
    rows = [row for row in serving_rows() if row.gpu in set(gpus) and row.stack in set(stacks)]
    known = set(model_names())
    kept, left = screened([row for row in rows if row.model in known])
    unknown = sum(row.model not in known for row in rows)
    left.append(Left("unknown_model", "kvperf ships no such model", unknown))
    replayed, impossible = replay(kept)
    left.append(
        Left("impossible_layout", "the ranks do not divide the model, or the GPU lacks the format", len(impossible))
    )
    tests = [
        Test(row, float(found.tpot_s[i]), float(found.ttft_s[i]), float(found.naive_tpot_s[i]))
        for found in replayed
        for i, row in enumerate(found.rows)
    ]
    believed = _believed(tests)
    reason = "a fifth of the file's rows take less than their bound: prompts were cached, or fewer requests in flight"
    left.append(Left("faster_than_physics", reason, len(tests) - len(believed)))
    total = len(rows)
    return believed, [
        Dropped(TABLE, "all", "all", rule.rule, rule.reason, rule.rows, total) for rule in left if rule.rows
    ]


def _believed(tests: Sequence[Test]) -> list[Test]:
    """Without the deployments of which many rows are faster than physics."""
    deployments: dict[tuple[str, ...], list[Test]] = {}
    for test in tests:
        row = test.row
        deployments.setdefault((row.model, row.gpu, row.stack, row.weight, row.version), []).append(test)
    believed = []
    for same in deployments.values():
        impossible = sum(test.naive_tpot_s > test.row.tpot_s for test in same)
        if impossible <= FASTER_THAN_PHYSICS * len(same):
            believed += same
    return believed


def unqueued(tests: Sequence[Test]) -> list[Test]:
    """Those whose first token took no more than 1.5 times the shortest of the same deployment and prompt length."""

    def place(row: Serving) -> tuple[Any, ...]:
        return row.model, row.gpu, row.stack, row.version, row.weight, row.tp, row.ep, row.isl

    shortest: dict[tuple[Any, ...], float] = {}
    for test in tests:
        shortest[place(test.row)] = min(test.row.ttft_s, shortest.get(place(test.row), test.row.ttft_s))
    return [test for test in tests if test.row.ttft_s <= UNQUEUED * shortest[place(test.row)]]


def fit_host(tests: Sequence[Test]) -> Host:
    """The host constants with the smallest mean relative error on the even half of the rows."""
    import numpy as np
    from scipy.optimize import minimize

    even = [test for test in tests if test.row.half == "even"]
    first = [test for test in unqueued(tests) if test.row.half == "even"]
    if not even or not first:
        return Host()

    def tpot_error(x: Any) -> float:
        host = Host(abs(x[0]) * 1e-3, abs(x[1]) * 1e-6)
        return float(np.mean([abs(host.tpot_s(test) / test.row.tpot_s - 1) for test in even]))

    def ttft_error(x: Any) -> float:
        host = Host(first_token_s=abs(x[0]) * 1e-3)
        return float(np.mean([abs(host.ttft_s(test) / test.row.ttft_s - 1) for test in first]))

    options = {"xatol": 1e-3, "fatol": 1e-5}
    starts = ((1.0, 10.0), (0.1, 30.0), (2.0, 1.0))
    fits = [minimize(tpot_error, start, method="Nelder-Mead", options=options) for start in starts]
    step_ms, request_us = np.abs(min(fits, key=lambda fit: fit.fun).x).tolist()
    first_ms = abs(float(minimize(ttft_error, [50.0], method="Nelder-Mead", options=options).x[0]))
    # Less than a microsecond is none.
    return Host(
        step_ms * 1e-3 if step_ms > 1e-3 else 0.0, request_us * 1e-6 if request_us > 0.1 else 0.0, first_ms * 1e-3
    )


def host_of(gpu: str, stack: str) -> Host:
    """What the calibration of a GPU and stack says its host costs; nothing where none was fitted."""
    path = folder() / f"{gpu}.{stack}.yaml"
    fitted = load(path).families.get("host") if path.is_file() else None
    return Host(**fitted.numbers()) if fitted else Host()


def fitted_host(tests: Sequence[Test]) -> Fitted | None:
    """The host constants of one GPU and stack, as its calibration keeps them."""
    host = fit_host(tests)
    even, odd = ([t for t in tests if t.row.half == half] for half in ("even", "odd"))
    if not even or not odd:
        return None
    intervals = {kind: _interval(chosen, host) for kind, chosen in _kinds(even) if chosen}
    lines = {
        kind: _line("host", chosen, host.tpot_s, intervals.get(kind, (1.0, 1.0)), "")
        for kind, chosen in _kinds(odd)
        if chosen
    }
    return Fitted(
        measured=f"{TABLE}, {len(tests)} load tests",
        rows=RowCounts(read=len(tests), dropped=0, fit=len(even), interval=0, scored=len(odd)),
        constants=msgspec.structs.asdict(host),
        intervals=intervals,
        held_out={
            kind: HeldOut(x.rows, x.mean, x.median, x.p90, x.bias, x.naive, x.coverage or 0.0)
            for kind, x in lines.items()
        },
    )


def _kinds(tests: Sequence[Test]) -> tuple[tuple[str, list[Test]], ...]:
    """Dense models, and those with experts."""
    dense = [test for test in tests if test.row.model in DENSE]
    return ("dense", dense), ("experts", [test for test in tests if test.row.model not in DENSE])


def _interval(tests: Sequence[Test], host: Host) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile([t.row.tpot_s / host.tpot_s(t) for t in tests], [0.1, 0.9], method="weibull")
    return min(float(low), 1.0), max(float(high), 1.0)


def serving_lines(tests: Sequence[Test], hosts: dict[tuple[str, str], Host]) -> list[Line]:
    """Both results on the odd half: kernel tables alone, and with host constants; then the time to the first token."""
    odd = [test for test in tests if test.row.half == "odd"]
    none = Host()

    def host(test: Test) -> Host:
        return hosts.get((test.row.gpu, test.row.stack), none)

    lines = []
    for name, chosen in _groups(odd):
        lines.append(_line("serving TPOT, kernel tables", chosen, none.tpot_s, None, name))
        lines.append(_line("serving TPOT, host fitted", chosen, lambda t: host(t).tpot_s(t), _ends, name))
    for name, chosen in _groups([test for test in unqueued(tests) if test.row.half == "odd"]):
        lines.append(_line("serving TTFT, unqueued", chosen, lambda t: host(t).ttft_s(t), None, name, first=True))
    return lines


def _ends(test: Test) -> tuple[float, float]:
    """The 80 % interval of whole steps of this deployment."""
    kind = "dense" if test.row.model in DENSE else "experts"
    return Constants(load_gpu(test.row.gpu), test.row.stack).whole_step(kind) or (0.5, 2.0)


def _groups(tests: Sequence[Test]) -> list[tuple[str, list[Test]]]:
    """All dense models, all others, and each deployment's model and weights."""
    dense = [test for test in tests if test.row.model in DENSE]
    others = [test for test in tests if test.row.model not in DENSE]
    several = [test for test in dense if test.row.tp > 1]
    found = [("all dense", dense), ("dense on 2 to 8 GPUs", several), ("all MoE and MLA", others)]
    names = sorted({(t.row.model, t.row.gpu, t.row.stack, t.row.weight) for t in tests})
    for model, gpu, stack, weight in names:
        same = [t for t in tests if (t.row.model, t.row.gpu, t.row.stack, t.row.weight) == (model, gpu, stack, weight)]
        found.append((f"{model} {weight}|{gpu}|{stack}", same))
    return [(name, chosen) for name, chosen in found if chosen]


def _line(
    family: str,
    tests: Sequence[Test],
    predicted: Callable[[Test], float],
    ends: tuple[float, float] | Callable[[Test], tuple[float, float]] | None,
    name: str,
    first: bool = False,
) -> Line:
    import numpy as np

    group, gpu, stack = (*name.split("|"), "all", "all")[:3]
    predicted_s = np.array([predicted(test) for test in tests])
    measured_s = np.array([test.row.ttft_s if first else test.row.tpot_s for test in tests])
    naive_s = np.array([test.naive_tpot_s for test in tests])
    found = score(predicted_s, measured_s)
    inside = width = None
    if ends is not None:
        of_test = np.array([ends(test) if callable(ends) else ends for test in tests])
        low_s, high_s = predicted_s * of_test[:, 0], predicted_s * of_test[:, 1]
        inside, width = (
            float(np.mean((measured_s >= low_s) & (measured_s <= high_s))),
            float(np.median(np.ptp(of_test, 1))),
        )
    naive = float("nan") if first else score(naive_s, measured_s).mean
    return Line(
        family, gpu, stack, group, found.rows, found.mean, found.median, found.p90, found.bias,
        naive, naive, inside, width, "",
    )  # fmt: skip
