"""Calibrate with a user's own measurements: records of `kvperf bench`, or groups that kvperf.validate.own_rows reads.

Few rows are enough: the constants start from the nearest calibration and move as far as the rows ask for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.bench.buildable import parts
from kvperf.bench.record import Case, Record, read
from kvperf.calibrate.family import FEW_SHAPES, HIGH, LOW, cold, coverage, of_next_shape, thinned
from kvperf.calibrate.fit import fit_few
from kvperf.calibrate.grouping import ALIASES, CACHE_FORMATS, Point, grouped
from kvperf.calibrate.score import score
from kvperf.errors import KvperfError, unknown_name
from kvperf.model.library import load_model, model_names
from kvperf.predict import decode_attention
from kvperf.predict.calibration import Calibration, Constants, Fitted, HeldOut, RowCounts, Used
from kvperf.predict.families import FAMILIES
from kvperf.predict.family import Constant, Family
from kvperf.silicon.catalogue import Group
from kvperf.silicon.rows import Rows

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

FOLDS = 10  # of the shapes that are left out in turn; up to as many shapes, each alone
MOST_ROWS = 2000  # of a group, in a fit that is repeated for each fold
SIZES = {"batch": "batch", "heads": "heads", "kv_heads": "kv_heads", "head_dim": "head_dim", "seq": "context"}
LATENT_DIM = 576  # the one KV head of a latent cache: another kernel family


def rows_of_records(
    paths: Iterable[Path], gpu: Gpu, entrant: str | None = None, stack: str = "kvperf"
) -> tuple[dict[str, list[Group]], list[str]]:
    """(groups by kernel family, notes on what was taken and left out) of records of `kvperf bench`.

    Cold and warm readings of decode attention, and of the QKV and output projections of `bench stages`. `entrant` names
    the kernel that attention is of; None: of each shape and regime in a record, the fastest. `stack` is who the kernels
    are taken for. Raises KvperfError for a record of another GPU or of the interpreter, an unknown entrant, and where
    nothing is left.
    """
    points: list[Point] = []
    taken: Counter[str] = Counter()
    names: set[str] = set()
    notes: list[str] = []
    for path in paths:
        record = read(path)
        _check(record, path, gpu)
        cases = [case for case in record.cases if _believed(case)]
        for rivals in _attention(cases):
            names |= {case.subject for case in rivals}
            case = _chosen(rivals, entrant)
            if case is not None:
                taken[case.subject] += 1
                points.append(_attention_point(case))
        points += _products(cases, notes)
    if entrant is not None and not taken and names:
        raise unknown_name("entrant", entrant, sorted(names))
    if entrant is None and len(names) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in taken.most_common())
        notes.append(
            f"attention is the fastest entrant of each shape: {counts}; --entrant takes one of them throughout"
        )
    groups, bad = grouped(points, gpu, stack)
    notes += dict.fromkeys(why for _, why in bad)
    if not groups:
        raise KvperfError("the records hold no reading to calibrate with", "`kvperf bench attention` makes some")
    return groups, notes


def calibration_of_rows(
    gpu: Gpu, stack: str, groups: Mapping[str, Sequence[Group]], day: str, source: str
) -> Calibration:
    """The constants of every family that has rows, fitted from those of the nearest calibration.

    Intervals and errors are of rows whose shape was left out of the fit, and so count every row. `day` is written down,
    as 2026-11-22; `source` says whose rows they are. Deterministic.
    """
    source = re.sub(r"[^\w .,:/()+=-]", "_", source).strip(" -") or "own rows"  # quoted in YAML
    borrowed = Constants(gpu, stack)
    families = {
        name: fitted_few(FAMILIES[name], groups[name], gpu, stack, _start(borrowed, name), source)
        for name in FAMILIES
        if groups.get(name)
    }
    return Calibration(
        schema_version="kvperf.calibration/1",
        gpu=gpu.name,
        architecture=gpu.architecture.name,
        stack=stack,
        fitted=day,
        source=source,
        families=families,
    )


def _start(constants: Constants, family: str) -> Used:
    try:
        return constants.of(family)
    except KvperfError as problem:
        raise KvperfError(problem.message, "few rows need constants of a GPU of that vendor to start from") from None


def fitted_few(family: Family, groups: Sequence[Group], gpu: Gpu, stack: str, borrowed: Used, measured: str) -> Fitted:
    """One family: constants from all rows; per label, an interval and errors of shapes that were left out."""
    import numpy as np

    whole, groups = groups, [msgspec.structs.replace(g, rows=thinned(g.rows, MOST_ROWS)) for g in groups]
    prior = prior_for(family, groups, gpu, stack, borrowed)
    constants: dict[str, float | str] = {**fit_few(family, [g.rows for g in groups], gpu, prior)}
    predicted = _left_out(family, groups, gpu, prior)
    intervals: dict[str, tuple[float, float]] = {}
    held_out: dict[str, HeldOut] = {}
    for label in dict.fromkeys(g.label for g in groups):
        of_label = [(g.rows, p) for g, p in zip(groups, predicted, strict=True) if g.label == label]
        logs = np.concatenate([np.log(rows.measured_s / p) for rows, p in of_label])
        keys = [key for rows, _ in of_label for key in rows.keys]
        intervals[label] = _ends(logs, keys, borrowed.interval(label))
        if len(set(keys)) > 1:
            held_out[label] = _score(family, of_label, gpu, intervals[label])
    read_rows, used = (sum(len(g.rows.keys) for g in some) for some in (whole, groups))
    scored = sum(found.rows for found in held_out.values())
    return Fitted(measured, RowCounts(read_rows, 0, used, used, scored), constants, intervals, held_out)


def prior_for(family: Family, groups: Sequence[Group], gpu: Gpu, stack: str, borrowed: Used) -> dict[str, float]:
    """What constants are expected to be: the borrowed ones of mechanisms that the stack's kernels have.

    Of a mechanism that the borrowed calibration lacks and these rows show, where a fit would begin: one that decode
    attention of this stack has, and one of a label that was not measured there.
    """
    import numpy as np

    decoding = family.name == "decode_attention"
    absent = decode_attention.held(stack, gpu) if decoding else ()
    known = {name: value for name, value in borrowed.constants.items() if name not in absent}
    unknown = [c for c in family.constants if c.name not in known and c.name not in absent]
    whole = known | {c.name: c.start for c in unknown}
    launches = [group.rows.launch for group in groups if decoding or group.label not in borrowed.intervals]

    def matters(constant: Constant) -> bool:
        ends = ({**whole, constant.name: end} for end in (constant.low, constant.high))
        low, high = ([family.seconds(launch, gpu, constants) for launch in launches] for constants in ends)
        return not all(map(np.array_equal, low, high))

    return known | {c.name: c.start for c in unknown if matters(c)}


def _left_out(family: Family, groups: Sequence[Group], gpu: Gpu, prior: Mapping[str, float]) -> list[Any]:
    """What each row is predicted to take by a fit without its shape (of one shape: without the row)."""
    import numpy as np

    shapes = sorted({key for group in groups for key in group.rows.keys})
    counts = [len(group.rows.keys) for group in groups]
    if len(shapes) > 1:
        fold_of = {key: i % FOLDS for i, key in enumerate(shapes)}
        folds = [np.array([fold_of[key] for key in group.rows.keys]) for group in groups]
    else:
        folds = np.split(np.arange(sum(counts)) % FOLDS, np.cumsum(counts)[:-1])
    predicted = [np.empty(count) for count in counts]
    for fold in range(FOLDS):
        if not any((own == fold).any() for own in folds):
            continue
        others = [group.rows.where(own != fold) for group, own in zip(groups, folds, strict=True)]
        constants = fit_few(family, [rows for rows in others if rows.keys], gpu, prior)
        for group, own, target in zip(groups, folds, predicted, strict=True):
            target[own == fold] = family.seconds(group.rows.where(own == fold).launch, gpu, constants)
    return predicted


def _ends(logs: Any, keys: Sequence[str], borrowed: tuple[float, float]) -> tuple[float, float]:
    """Measured over predicted at the ends of the 80 % interval, as in kvperf.calibrate.family.

    One shape, or fewer than 8 rows, cannot say that it is narrower than the borrowed one.
    """
    import numpy as np

    names = np.array(keys)
    shapes = np.unique(names)
    if len(shapes) >= FEW_SHAPES:
        low, high = np.quantile(logs, [LOW, HIGH], method="weibull")
    else:
        low, high = of_next_shape([logs[names == shape] for shape in shapes])
    ends = min(float(np.exp(low)), 1.0), max(float(np.exp(high)), 1.0)
    if len(shapes) > 1 and len(logs) >= FEW_SHAPES:
        return ends
    return min(ends[0], borrowed[0]), max(ends[1], borrowed[1])


def _score(family: Family, of_label: Sequence[tuple[Rows, Any]], gpu: Gpu, ends: tuple[float, float]) -> HeldOut:
    import numpy as np

    measured_s = np.concatenate([rows.measured_s for rows, _ in of_label])
    predicted_s = np.concatenate([p for _, p in of_label])
    floor_s = np.concatenate([family.floor(rows.launch, gpu) for rows, _ in of_label])
    naive_s = np.concatenate([family.floor(cold(rows.launch), gpu) for rows, _ in of_label])
    found = score(predicted_s, measured_s)
    return HeldOut(
        rows=found.rows,
        mean=found.mean,
        median=found.median,
        p90=found.p90,
        bias=found.bias,
        naive=score(naive_s, measured_s).mean,
        coverage=coverage(predicted_s, measured_s, floor_s, ends),
    )


def _check(record: Record, path: Path, gpu: Gpu) -> None:
    """Only readings, and of this GPU."""
    if record.emulated:
        raise KvperfError(f"{path} is of the interpreter: it holds no reading", "measure on a GPU")
    there = record.environment
    if there.profile is not None and there.profile != gpu.name:
        hint = f"calibrate that one: --gpu {there.profile}"
        raise KvperfError(f"{path} is of {there.profile}, not of {gpu.name}", hint)
    if there.profile is None and (f"sm_{there.capability}", there.sms) != (gpu.architecture.name, gpu.sms):
        is_of = f"{there.gpu} (sm_{there.capability}, {there.sms} SMs)"
        raise KvperfError(f"{path} is of {is_of}, not of {gpu.name}", "give the profile of that GPU with --gpu")


def _believed(case: Case) -> bool:
    """A reading of one launch whose cache state is known; calls back to back in a graph (stream) are neither."""
    return case.statistics is not None and case.refused is None and case.regime in ("cold", "warm")


def _attention(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """The rivals on each shape, cache format and regime: decode attention with a cache that is modelled."""
    fields: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        shape = case.shape
        decode = case.family in ("attention", "kernel") and all(isinstance(shape.get(n), int) for n in SIZES)
        if decode and shape.get("q_len", 1) == 1 and shape["head_dim"] != LATENT_DIM and _cache(case) in CACHE_FORMATS:
            fields.setdefault((*(shape[n] for n in SIZES), _cache(case), case.regime), []).append(case)
    yield from fields.values()


def _cache(case: Case) -> str:
    name = str(case.shape.get("kv_dtype", case.shape.get("dtype", "")))
    return ALIASES.get(name, name)


def _chosen(rivals: Sequence[Case], entrant: str | None) -> Case | None:
    """The one that is asked for, else the fastest."""
    named = [case for case in rivals if entrant in (None, case.subject)]
    return min(named, key=_median_s) if named else None


def _median_s(case: Case) -> float:
    return case.statistics.median_s if case.statistics else float("inf")


def _attention_point(case: Case) -> Point:
    sizes = {field: float(case.shape[name]) for name, field in SIZES.items()} | {"window": 0.0}
    return Point("decode_attention", sizes, (_cache(case),), case.regime == "warm", _median_s(case))


def _products(cases: Iterable[Case], notes: list[str]) -> Iterator[Point]:
    """Stages that are one matrix product, by the shape of the model they are of."""
    for case in cases:
        if case.family != "stage" or case.subject not in ("qkv_projection", "output_projection"):
            continue
        name = str(case.shape.get("model"))
        if name not in model_names():
            note = f"stages of {name} are left out: no model of that name ships with kvperf"
            notes += [note] if note not in notes else []
            continue
        model = load_model(name)
        mixer, _ = parts(model)
        queries, keys = mixer.heads * mixer.head_dim, 2 * mixer.kv_heads * mixer.head_dim
        n, k = (queries + keys, model.hidden_size) if case.subject == "qkv_projection" else (model.hidden_size, queries)
        m = int(case.shape["batch"]) * int(case.shape["new_tokens"])
        sizes = {"m": float(m), "n": float(n), "k": float(k)}
        yield Point("gemm", sizes, ("bf16", "bf16"), case.regime == "warm", _median_s(case))
