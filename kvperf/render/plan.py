"""A plan as tables and rows: the front, what is not on it, and how to read both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvperf.plan.layouts import letters
from kvperf.plan.record import Plan, Pool, Serving
from kvperf.render import output as out
from kvperf.render.analysis import folded
from kvperf.render.table import Table, markdown, plain
from kvperf.units import decimal, significant

WIDTH = 80
FORMATS = "weights,\nKV"
TEXTS = ("layout", "GPU", FORMATS)
SHOWN = 12  # rows of the front in a table


def write(found: Plan, format: str, output: Path | None) -> None:
    """The plan in the asked-for format; strategy notes are no rows of CSV."""
    if format == "json":
        out.write(out.json_text(found), output)
    elif format == "csv":
        out.write(out.csv_text(rows(found)), output)
    else:
        draw = markdown if format == "md" else plain
        text = _text(found, draw)
        out.write(text + _strategies(found), output)


def _strategies(found: Plan) -> str:
    if not found.strategies:
        return ""
    from kvperf.render.strategies import text

    return f"\n{folded([_stepped(found)])}\n{text(found.strategies)}"


def _stepped(found: Plan) -> str:
    """The step that the strategy notes are about."""
    context = found.load.prompt_tokens + (found.load.output_tokens + 1) // 2
    if not found.front:
        return f"parallel strategies, of a decode step of one sequence with context {context}:"
    best = found.front[-1]
    return (
        f"parallel strategies, each alone, of the last row's decode step: {best.gpu}, batch {best.pools[-1].batch}, "
        f"context {context}, {best.weight_dtype} weights, {best.kv_dtype} KV:"
    )


def _text(found: Plan, draw: Any) -> str:
    parts = [folded(head(found))]
    if found.front:
        parts.append(draw(front(found)))
        parts.append(folded(legend(found)))
    else:
        parts.append(folded([f"no plan meets it; the closest misses by {found.closest}"]))
    if found.rejected:
        parts.append(folded(rejected(found)))
    return "\n".join(parts)


def head(found: Plan) -> list[str]:
    """What was asked for, defaults included."""
    load, met, best = found.load, found.met, len(found.front)
    verb = "is" if best == 1 else "are"
    targets = f"TTFT {_target(load.ttft_s)}, TPOT {_target(load.tpot_s)}"
    rate = "as many requests as are served" if load.requests_per_s is None else f"{load.requests_per_s:g} requests/s"
    return [
        f"{found.model}{_on(found)}, {found.stack} kernels: prompts of {load.prompt_tokens} tokens, outputs of "
        f"{load.output_tokens}; {targets}; {rate}, at most {load.most_gpus} GPUs",
        f"{found.evaluated} points evaluated, {met} meet this; {best} {verb} beaten by none in both tokens/s a user "
        "and tokens/s a GPU",
    ]


def _on(found: Plan) -> str:
    """The one GPU that every way on the front has."""
    names = {serving.gpu for serving in found.front}
    return f" on {names.pop()}" if len(names) == 1 else ""


def _target(seconds: float | None) -> str:
    return "any" if seconds is None else f"at most {decimal(seconds, 's')}"


def front(found: Plan) -> Table:
    """The front, the fastest for a user first; a long one at even distances."""
    shown = _spaced(found.front)
    several = len({serving.gpu for serving in found.front}) > 1
    columns = [
        ("layout", lambda s: layout(s)),
        *([("GPU", lambda s: s.gpu)] if several else []),
        (FORMATS, lambda s: f"{s.weight_dtype}, {s.kv_dtype}"),
        ("batch", lambda s: str(s.pools[-1].batch)),
        ("TTFT\nms", lambda s: significant(1e3 * s.ttft_s)),
        ("TPOT\nms", lambda s: significant(1e3 * s.tpot_s)),
        ("tok/s\nuser", lambda s: significant(s.tokens_per_s_per_user)),
        ("tok/s\nGPU", lambda s: significant(s.tokens_per_s_per_gpu)),
        ("GPUs", lambda s: str(s.gpus)),
    ]
    if found.load.prices:
        columns.append(("cost\nMtok", lambda s: significant(s.cost_per_million_tokens or 0.0)))
    columns.append(("stopped by", lambda s: s.stopped_by or s.bound_by))
    table = _table(columns, shown)
    if _width(table) > WIDTH:  # what the TPOT says too
        columns = [column for column in columns if column[0] != "tok/s\nuser"]
        table = _table(columns, shown)
    if _width(table) > WIDTH and len(_formats(found)) == 1:  # the legend names them
        table = _table([column for column in columns if column[0] != FORMATS], shown)
    return table


def _formats(found: Plan) -> set[tuple[str, str]]:
    return {(serving.weight_dtype, serving.kv_dtype) for serving in found.front}


def _table(columns: list[tuple[str, Any]], shown: list[Serving]) -> Table:
    cells = tuple(tuple(text(serving) for _, text in columns) for serving in shown)
    return Table(tuple(header for header, _ in columns), cells, left=sum(header in TEXTS for header, _ in columns))


def _width(table: Table) -> int:
    return max(map(len, plain(table).splitlines()))


def rejected(found: Plan) -> list[str]:
    """Why the other points are none."""
    return [
        f"{r.reason}: {r.count}; the closest misses by {r.misses_by} ({r.closest})"
        if r.misses_by
        else f"no layout at all: {r.count}, like {r.closest}: {r.reason}"
        for r in found.rejected
    ]


def legend(found: Plan) -> list[str]:
    """How the table is to be read, and what it rests on."""
    lines = []
    modes = {serving.mode for serving in found.front}
    if "mixed" in modes:
        lines.append("c: each replica reads prompts beside its decoding, so many tokens of them in a step")
    if "apart" in modes:
        lines.append("a > b: prompts are read on a, decoded on b")
    lines += [
        "batch: sequences of one decoding replica; every one has memory for its full length",
        "TTFT and TPOT are means; TTFT with the wait for other prompts (M/D/1)",
        "stopped by: the busiest resource; before it, what forbids the next larger batch where something does",
    ]
    if any("DP" in layout(serving) for serving in found.front):
        lines.append("DP: attention data parallelism, groups with sequences of their own")
    if len(formats := _formats(found)) == 1:
        lines.append("{} weights and {} KV in all rows".format(*next(iter(formats))))
    if any(serving.weight_dtype == "fp8" for serving in found.front):
        lines.append("fp8 weights meet fp8 inputs (W8A8)")
    if len(found.front) > SHOWN:
        lines.append(f"{SHOWN} of {len(found.front)} are shown; --format csv or json has all")
    cautions = dict.fromkeys(warning for serving in found.front for warning in serving.warnings)
    return lines + [f"note: {caution}" for caution in cautions]


def layout(serving: Serving) -> str:
    """`TP8 c2048`, or `2×TP2 > TP4` where prompts are read apart."""
    if serving.mode == "mixed":
        return f"{_pool(serving.pools[0])} c{serving.chunk_tokens}"
    reading, decoding = serving.pools
    return f"{_pool(reading)} > {_pool(decoding)}"


def _pool(pool: Pool) -> str:
    name = letters(pool.degrees)
    return f"{pool.replicas}×{name}" if pool.replicas > 1 else name


def rows(found: Plan) -> list[dict[str, Any]]:
    """One row for each way on the front, in base units."""
    flat = []
    for serving in found.front:
        fields = {
            name: getattr(serving, name) for name in Serving.__struct_fields__ if name not in ("pools", "warnings")
        }
        named = {"model": found.model, "stack": found.stack, "layout": layout(serving)}
        flat.append(named | fields | {"batch": serving.pools[-1].batch})
    return flat


def _spaced(servings: tuple[Serving, ...]) -> list[Serving]:
    """At most SHOWN of them, both ends among them."""
    if len(servings) <= SHOWN:
        return list(servings)
    last = len(servings) - 1
    return [servings[round(step * last / (SHOWN - 1))] for step in range(SHOWN)]
