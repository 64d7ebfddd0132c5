"""What changes buy: each the difference of two analyses, with the condition under which it stops paying."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.record import Analysis
from kvperf.report import other_gpus
from kvperf.report.document import Block, Line, Section, Table, joined, line, row, text
from kvperf.report.references import cite
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import bytes_per_s, count, held, over, seconds, share, times, tokens_per_s, word
from kvperf.workload import Requests

NARROW = "fp8"
CHUNK = 512  # prompt tokens, what engines often run beside decode
PAGES = (16, 64, 256)
MORE = (2, 8)


def section(subject: Subject) -> Section:
    blocks: list[Block] = [_changes(subject), _launches(subject), *_products(subject), *_chunk(subject)]
    blocks.append(_pages(subject))
    return Section("tuning", "What to change, and what it buys", (*blocks, *other_gpus.blocks(subject)))


def _changes(subject: Subject) -> Table:
    rows = [_row("as asked", "now", subject.analysis, subject, line("–"))]
    notes: list[Line] = []
    for title, name, changes in _ideas(subject):
        found = subject.tried(**changes)
        if isinstance(found, KvperfError):
            notes.append(line("{}: {}.", title, word(f"tuning.{name}.refused", found.message)))
            continue
        rows.append(_row(title, name, found, subject, _stops(subject, name, found)))
    return Table(
        "The step after one change at a time",
        ("change", "bound", "saved", "tokens/s at most", "gain", "largest batch", "stops paying"),
        tuple(rows),
        notes=(
            *notes,
            line("Saved is of the bound of one step; gain is of the tokens a second. Bounds, not predictions."),
            line(
                "Narrow weights and caches are converted on vector units before a wider product, or multiplied in "
                "their own format and scaled afterwards; only block-scaled matrix instructions apply scales."
            ),
            line("No accuracy is modelled: whether a narrow format is good enough must be tested on the task."),
        ),
    )


def _ideas(subject: Subject) -> list[tuple[str, str, dict[str, Any]]]:
    """(title, name, changes of the workload)."""
    narrow, ideas = DTYPES[NARROW], []
    if subject.attention is not None and subject.attention.shard.kv.bits > narrow.bits:
        ideas.append((f"{NARROW} KV cache", "kv", {"kv_dtype": NARROW}))
    if DTYPES[subject.analysis.workload.weight_dtype].bits > narrow.bits:
        ideas.append((f"{NARROW} weights", "weights", {"weight_dtype": NARROW}))
        both = {"weight_dtype": NARROW, "activation_dtype": NARROW}
        ideas.append((f"{NARROW} weights and inputs", "inputs", both))
    for factor in MORE:
        scaled = tuple(replace(r, count=r.count * factor) for r in _growing(subject)) + _chunks(subject)
        ideas.append((f"{factor} × the batch", f"batch_{factor}", {"requests": scaled}))
    return ideas


def _growing(subject: Subject) -> tuple[Requests, ...]:
    asked = subject.workload.requests
    return asked[:-1] if subject.workload.phase == "mixed" else asked


def _chunks(subject: Subject) -> tuple[Requests, ...]:
    return subject.workload.requests[-1:] if subject.workload.phase == "mixed" else ()


def _row(title: str, name: str, found: Analysis, subject: Subject, stops: Line) -> tuple[Line, ...]:
    now, key = subject.analysis.step, f"tuning.{name}"
    step = found.step
    return row(
        title,
        seconds(f"{key}.bound_s", step.bound_s, 4),
        seconds(f"{key}.saved_s", now.bound_s - step.bound_s),
        tokens_per_s(f"{key}.tokens_per_s", step.tokens_per_s_bound),
        times(f"{key}.gain", step.tokens_per_s_bound / now.tokens_per_s_bound),
        count(f"{key}.max_batch", found.memory.max_batch),
        stops,
    )


def _stops(subject: Subject, name: str, found: Analysis) -> Line:
    """The condition, with the figures that decide it."""
    now, key = subject.analysis, f"tuning.{name}"
    bytes_now = now.step.hbm_bytes
    if name == "kv":
        return line(
            "where K and V are few of the bytes ({} now), or converting them ({}) takes as long as reading did ({}) {}",
            share(f"{key}.share", (now.step.kv_read_bytes + now.step.kv_write_bytes) / bytes_now),
            seconds(f"{key}.conversion_s", found.step.ceilings.conversion_s),
            seconds(f"{key}.read_s", now.step.kv_read_bytes / subject.gpu.hbm_bytes_per_s),
            cite("conversion"),
        )
    if name in ("weights", "inputs"):
        return line(
            "once products bind: above {} tokens a step with these formats",
            count(f"{key}.tokens", _tokens_at_ridge(subject, found)),
        )
    kept = found.memory
    return line(
        "at the memory's limit ({}), and once products bind: bound by {} here",
        word(f"{key}.fits", None if kept.fits is None else "fits" if kept.fits else "does not fit"),
        word(f"{key}.bound_by", BOUND_BY[found.step.bound_by]),
    )


def _tokens_at_ridge(subject: Subject, found: Analysis) -> int | None:
    """Rows at which a product of these weights takes as long as reading them: ridge × bytes of an element ÷ 2."""
    if not found.gpu.peaks:
        return None
    weight = DTYPES[found.workload.weight_dtype].element_bytes
    # The format of most products: that of the layers' matrices.
    peak = max(found.gpu.peaks, key=lambda used: used.flops_per_s).flops_per_s
    return round(peak / subject.gpu.hbm_bytes_per_s * weight / 2)


def _launches(subject: Subject) -> Table:
    """Launches and fusion: what the plan has, and what it would be without."""
    gpu, kernels = subject.gpu, subject.analysis.step.kernels
    eager = subject.at(fusion="eager").step
    stream, node = gpu.stream_launch_s, gpu.graph_launch_s
    rate, now = gpu.hbm_bytes_per_s, subject.analysis.step
    rows = [
        row(
            "fused kernels",
            line("{} kernels", count("launch.eager_kernels", eager.kernels)),
            line("{} kernels", count("launch.kernels", kernels)),
            seconds("launch.fusion_saved_s", (eager.hbm_bytes - now.hbm_bytes) / rate),
            line("where one kernel a step remains; the bytes saved are those between operations"),
        ),
        row(
            "CUDA graphs",
            seconds("launch.stream_s", None if stream is None else kernels * stream),
            seconds("launch.graph_s", None if node is None else kernels * node),
            seconds("launch.graph_saved_s", None if stream is None or node is None else kernels * (stream - node)),
            line(
                "where kernels are longer than a launch: at the bound one takes {} on average",
                seconds("launch.average_s", over(now.bound_s, kernels)),
            ),
        ),
    ]
    if gpu.vendor != "nvidia":
        rows = rows[:1]
    return Table(
        "Launches",
        ("what", "without", "with", "saved", "stops paying"),
        tuple(rows),
        notes=(
            line("Fusion saves bytes at the memory peak; a graph saves gaps between kernels, as measured on this GPU."),
            line("Graphs need fixed shapes: batches are padded to the nearest captured one."),
            line("A layer needs the one before it: only products of one layer can share a launch."),
        ),
    )


def _products(subject: Subject) -> list[Block]:
    """How near to the memory peak products with one row were read on this GPU."""
    gpu, weights = subject.gpu, subject.analysis.step.weight_bytes
    measured = gpu.profile.measured
    read = [m for m in measured if m.what == "gemv_bandwidth" and m.on is None and m.value <= gpu.hbm_bytes_per_s]
    if not read:
        return []
    best = max(read, key=lambda m: m.value)
    rate = float(best.value)
    return [
        text(
            line(
                "Products with few rows read their weights and little else. The best such reading on this GPU is {}, "
                "{} the peak {}: at that rate the step's weights take {} instead of {}. Small matrices stay below.",
                bytes_per_s("gemv.bandwidth", rate),
                times("gemv.share", rate / gpu.hbm_bytes_per_s),
                joined(subject.sources(best.source), " "),
                seconds("gemv.weights_s", weights / rate),
                seconds("gemv.weights_at_peak_s", weights / gpu.hbm_bytes_per_s),
            )
        )
    ]


def _chunk(subject: Subject) -> list[Block]:
    """Prompt tokens beside decode, against the same tokens alone."""
    if subject.workload.phase != "decode":
        return []
    asked, chunk = subject.workload.requests, Requests(1, CHUNK, CHUNK)
    mixed = subject.tried(phase="mixed", requests=(*asked, chunk))
    alone = subject.tried(phase="prefill", requests=(chunk,))
    if isinstance(mixed, KvperfError) or isinstance(alone, KvperfError):
        return []
    now = subject.analysis.step.bound_s
    added = mixed.step.bound_s - now
    return [
        Table(
            "Continuous batching: prompt tokens beside decode",
            ("prompt tokens", "alone", "added to the step", "saved", "step bound by"),
            (
                row(
                    count("chunk.tokens", CHUNK),
                    seconds("chunk.alone_s", alone.step.bound_s),
                    seconds("chunk.added_s", added),
                    seconds("chunk.saved_s", alone.step.bound_s - added),
                    word("chunk.bound_by", BOUND_BY[mixed.step.bound_by]),
                ),
            ),
            notes=(
                line(
                    "Prompt and decode share one read of the weights. It stops paying once products bind. {}",
                    cite("chunked"),
                ),
            ),
        )
    ]


def _pages(subject: Subject) -> Table:
    """What whole pages waste."""
    rows = []
    exact = subject.at(page_tokens=1).memory.kv_cache_bytes
    for tokens in PAGES:
        cached = subject.at(page_tokens=tokens).memory.kv_cache_bytes
        name = f"page_{tokens}"
        rows.append(
            row(
                count(f"{name}.tokens", tokens),
                held(f"{name}.cache", cached),
                share(f"{name}.waste", (cached - exact) / exact if exact else None),
            )
        )
    return Table(
        "Pages of the KV cache",
        ("tokens of a page", "cache of the batch", "unused"),
        tuple(rows),
        notes=(
            line(
                "Half a page of each sequence is unused on average: it matters for short contexts only. {}",
                cite("paging"),
            ),
        ),
    )
