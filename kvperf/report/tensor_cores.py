"""Matrix units: instructions, peaks, the rows that decode leaves empty, and intensity against the ridge."""

from __future__ import annotations

import re

from kvperf.arith import ceil_div
from kvperf.hardware.peaks import derived, of
from kvperf.model.architecture import GroupedQuery
from kvperf.report.document import Block, Line, Section, Table, Text, joined, line, row, text
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import count, flop, flop_per_s, intensity, moved, over, seconds, share, times, word

WHOLE = re.compile(r"m?(\d+)[nx](\d+)[kx](\d+)")
ANY_WIDTH = re.compile(r"m(\d+)nNk(\d+)")


def section(subject: Subject) -> Section:
    blocks: list[Block] = [_instructions(subject), _peaks(subject), *_products(subject), _padding(subject)]
    return Section("tensor", "Matrix units and decode attention", tuple(blocks))


def _instructions(subject: Subject) -> Table | Text:
    """FLOP of one instruction: twice its multiply-adds."""
    found = subject.gpu.architecture.mma
    if not found:
        return text(line("The matrix instructions of {} are {}.", subject.gpu.title, word("mma", None)))
    rows, keys = [], tuple(dict.fromkeys(key for path in found for key in path.source))
    for path in found:
        for shape in path.shapes:
            name = f"mma.{path.path}.{shape}"
            whole, wide = WHOLE.search(shape), ANY_WIDTH.search(shape)
            adds = rows_of = None
            per = ""
            if whole:
                m, n, k = (int(size) for size in whole.groups())
                adds, rows_of = m * n * k, m
            elif wide:
                m, k = (int(size) for size in wide.groups())
                adds, rows_of, per = m * k, m, " a column of N"
            rows.append(
                row(
                    path.path,
                    word(f"{name}.shape", shape),
                    count(f"{name}.rows", rows_of),
                    (count(f"{name}.multiply_adds", adds), per),
                    (flop(f"{name}.flop", over(adds, 1 / 2), 4), per),
                )
            )
    return Table(
        "Matrix instructions",
        ("path", "shape and operands", "rows", "multiply-adds", "one instruction"),
        tuple(rows),
        notes=(
            line("A multiply-add counts as two operations, here and in every peak."),
            line("Sources: {}.", joined(subject.sources(keys), " ")),
        ),
    )


def _peaks(subject: Subject) -> Table:
    gpu, unit = subject.gpu, subject.gpu.profile.unit
    rows = []
    for stated in gpu.profile.peaks:
        peak = of(stated)
        name = f"peak.{peak.dtype}.{peak.accumulator}.{peak.path}"
        rows.append(
            row(
                peak.dtype,
                peak.accumulator,
                peak.path,
                flop_per_s(f"{name}.stated", peak.flops_per_s),
                flop_per_s(f"{name}.derived", derived(stated, gpu.profile, gpu.architecture)),
                intensity(f"{name}.ridge", peak.flops_per_s / gpu.hbm_bytes_per_s),
                peak.kind,
                joined(subject.sources(peak.source), " "),
            )
        )
    return Table(
        "Dense peaks",
        ("operand", "adds in", "path", "peak", f"{unit}s × clock × rate", "ridge", "kind", "sources"),
        tuple(rows),
        notes=(
            line("Peaks are dense: sparse figures of data sheets are twice as high and mean nothing here."),
            line(
                "The ridge is the peak over the memory bandwidth: below it a product waits for memory. {}",
                cite("roofline"),
            ),
        ),
    )


def _products(subject: Subject) -> list[Block]:
    """The attention of one layer at the peaks."""
    part, gpu = subject.attention, subject.gpu
    if part is None:
        return [text(line("No layer of {} attends to cached tokens.", subject.model.name))]
    work, layers, shard = part.work, part.layers, part.shard
    (operand,) = work.matrix_by_operand
    peak, size = gpu.peak(operand), work.hbm_bytes / layers
    products = work.matrix_flops / layers
    tensor_s, hbm_s = products / peak.flops_per_s, size / gpu.hbm_bytes_per_s
    rows = []
    if isinstance(shard.mixer, GroupedQuery):
        keys = shard.mixer.head_dim / (shard.mixer.head_dim + shard.mixer.value_dim)
        rows += [
            row("queries × keys", flop("attention.qk", products * keys, 4)),
            row("weights × values", flop("attention.av", products * (1 - keys), 4)),
        ]
    rows += [
        row("both products", flop("attention.flop", products, 4)),
        row("K and V read", moved("attention.kv_read", work.kv_read_bytes / layers, 4)),
        row("all bytes of its kernel", moved("attention.bytes", size, 4)),
        row("intensity", intensity("attention.intensity", products / size)),
        row(f"ridge of {operand}", intensity("attention.ridge", peak.flops_per_s / gpu.hbm_bytes_per_s)),
        row("at the matrix peak", seconds("attention.tensor_s", tensor_s, 4)),
        row("at the memory peak", seconds("attention.hbm_s", hbm_s, 4)),
        row("bound by", word("attention.bound_by", "memory" if hbm_s >= tensor_s else "the matrix units")),
        row("memory time over matrix time", times("attention.memory_over_matrix", hbm_s / tensor_s)),
    ]
    return [
        Table(
            "Attention of one layer, all sequences of the step",
            ("what", "value"),
            tuple(rows),
            notes=(line("The products are {}; the rate is that of {}. {}", operand, peak.path, cite("formulas")),),
        )
    ]


def _padding(subject: Subject) -> Table | Text:
    """Query rows that share a KV head, in whole tiles of each path."""
    part, paths = subject.attention, [path for path in subject.gpu.architecture.mma if path.rows]
    if part is None or not paths:
        return text(line("Padding of query rows: {}.", word("padding", None)))
    (operand,) = part.work.matrix_by_operand
    if not subject.gpu.peak(operand).is_matrix:
        return text(
            line(
                "No tile is padded: products of {} run outside the matrix units here.",
                word("padding.operand", operand),
            )
        )
    group, new = _group(subject), max(request.new_tokens for request in subject.workload.requests)
    rows = []
    for path in paths:
        name, tile = f"padding.{path.path}", int(path.rows or 1)
        padded = int(ceil_div(group * new, tile)) * tile
        rows.append(
            row(
                path.path,
                count(f"{name}.tile", tile),
                count(f"{name}.rows", group * new),
                count(f"{name}.padded", padded),
                share(f"{name}.useful", group * new / padded),
            )
        )
    return Table(
        "Rows of a matrix tile that hold a query",
        ("path", "rows of a tile", "query rows of a KV head", "padded to", "useful"),
        tuple(rows),
        notes=(
            line(
                "Query heads of a KV head: {}; new tokens of a sequence: {} at most.",
                count("padding.group", group),
                count("padding.new_tokens", new),
            ),
            _cost(subject),
        ),
    )


def _cost(subject: Subject) -> Line:
    """Whether the empty rows matter."""
    part, tile = subject.attention, subject.gpu.mma_rows
    if part is None or tile is None or tile not in part.work.padded_flops:
        return line("What the empty rows cost is {}.", word("padding.cost", None))
    (operand,) = part.work.matrix_by_operand
    peak = subject.gpu.peak(operand).flops_per_s
    products_s = part.work.matrix_flops / peak
    padded_s = part.work.padded_flops[tile] / peak
    hbm_s = part.work.hbm_bytes / subject.gpu.hbm_bytes_per_s
    return line(
        "The products of all these layers take {} at the peak, with the empty rows of {} {}; their bytes take {}: {}.",
        seconds("padding.products_s", products_s),
        line("{}-row tiles", count("padding.used_tile", tile)),
        seconds("padding.tensor_s", padded_s),
        seconds("padding.hbm_s", hbm_s),
        word("padding.verdict", verdict(products_s, padded_s, hbm_s)),
    )


def verdict(products_s: float, padded_s: float, hbm_s: float) -> str:
    """What the empty rows change."""
    if products_s > hbm_s:
        return "the products bind with or without them"
    return "the padding binds" if padded_s > hbm_s else "memory binds with or without them"


def _group(subject: Subject) -> int:
    assert subject.attention is not None
    mixer = subject.attention.shard.mixer
    return mixer.heads // mixer.kv_heads if isinstance(mixer, GroupedQuery) else mixer.heads  # pyright: ignore[reportAttributeAccessIssue]
