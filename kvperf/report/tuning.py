"""What changes buy: each the difference of two analyses, with the condition under which it stops paying."""

from __future__ import annotations

from typing import Any

from kvperf.arith import least, most
from kvperf.errors import KvperfError
from kvperf.hardware import gpu_names
from kvperf.record import StepFigures
from kvperf.report import changes, other_gpus
from kvperf.report.document import Block, Line, Section, Table, Text, joined, line, row, text
from kvperf.report.references import cite
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import bytes_per_s, count, held, over, seconds, share, times, word
from kvperf.workload import Requests

CHUNK = 512  # prompt tokens, what engines often run beside decode
PAGES = (16, 64, 256)
FEW_ROWS = 64  # of a product: one tile of the widest matrix instruction


def section(subject: Subject) -> Section:
    blocks: list[Block] = [*changes.tables(subject), _launches(subject), *_products(subject), *_chunk(subject)]
    blocks.append(_pages(subject))
    return Section("tuning", "What to change, and what it buys", (*blocks, *other_gpus.blocks(subject)))


def _launches(subject: Subject) -> Table:
    """Launches and fusion: what the plan has, and what it would be without."""
    gpu, kernels = subject.gpu, subject.analysis.step.kernels
    eager = subject.at(fusion="eager").step
    stream, node = gpu.stream_launch_s, gpu.graph_launch_s
    now = subject.analysis.step
    rows = [
        row(
            "fused kernels",
            line("{} kernels", count("launch.eager_kernels", eager.kernels)),
            line("{} kernels", count("launch.kernels", kernels)),
            seconds("launch.fusion_saved_s", _planned_s(subject, eager) - _planned_s(subject, now)),
            line("where one kernel a step remains"),
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
    rows += _predicted_graphs(subject)
    notes = [
        line(
            "Fusion saves the bytes between operations: the difference of the two plans, each as long as its bytes at "
            "the memory peak or its products at the matrix peak. It is nothing where the matrix units bind both."
        )
    ]
    if gpu.vendor != "nvidia":
        rows = rows[:1]
    else:
        if stream is None or node is None:
            del rows[1]
            notes.append(_elsewhere(subject))
        else:
            notes.append(line("A graph saves gaps between kernels, as measured on this GPU."))
        notes.append(line("Graphs need fixed shapes: batches are padded to the nearest captured one."))
    return Table(
        "Launches",
        ("what", "without", "with", "saved", "stops paying"),
        tuple(rows),
        notes=(*notes, line("A layer needs the one before it: only products of one layer can share a launch.")),
    )


def _predicted_graphs(subject: Subject) -> list[tuple[Line, ...]]:
    """The predicted step without CUDA graphs and with them."""
    stack = subject.analysis.workload.stack
    without, graphs = (subject.at(cuda_graphs=used).step for used in (False, True))
    if without.predicted_s is None or graphs.predicted_s is None:
        return []
    kernels_s = graphs.predicted_s - (graphs.host_s or 0)
    return [
        row(
            f"CUDA graphs, the step predicted for {stack}",
            seconds("launch.predicted.stream_s", without.predicted_s),
            seconds("launch.predicted.graph_s", graphs.predicted_s),
            seconds("launch.predicted.saved_s", without.predicted_s - graphs.predicted_s),
            line(
                "where kernels are longer than a launch: a predicted one takes {} on average",
                seconds("launch.predicted.average_s", over(kernels_s, graphs.launches)),
            ),
        )
    ]


def _planned_s(subject: Subject, step: StepFigures) -> Any:
    """The planned bytes at the memory peak, or the products where they take longer."""
    return most(step.hbm_bytes / subject.gpu.hbm_bytes_per_s, step.resources.tensor_s)


def _elsewhere(subject: Subject) -> Line:
    """What graphs save where launches were measured: not on this GPU."""
    step, saved = subject.analysis.step, {}
    for name in gpu_names():
        gpu = other_gpus.shipped(name)
        if gpu.stream_launch_s is not None and gpu.graph_launch_s is not None:
            saved[name] = gpu.stream_launch_s - gpu.graph_launch_s
    low, high = min(saved.values()), max(saved.values())
    return line(
        "CUDA graphs: no launch was measured on this GPU; on {} a graph saves {} to {} a kernel, of these kernels {} "
        "to {} together. At the bound a kernel takes {} on average: where that is longer than a launch, launches hide.",
        ", ".join(sorted(saved)),
        seconds("launch.elsewhere.kernel_low_s", low),
        seconds("launch.elsewhere.kernel_high_s", high),
        seconds("launch.elsewhere.low_s", step.kernels * low),
        seconds("launch.elsewhere.high_s", step.kernels * high),
        seconds("launch.average_s", over(step.bound_s, step.kernels)),
    )


def _products(subject: Subject) -> list[Block]:
    """How near to the memory peak products with one row were read on this GPU."""
    gpu, weights = subject.gpu, subject.analysis.step.weight_bytes
    if subject.workload.tokens > FEW_ROWS:
        return []
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
    now, step = subject.analysis.step.bound_s, subject.analysis.step
    added = mixed.step.bound_s - now
    rows = [
        row(
            count("chunk.tokens", CHUNK),
            line("bound by {}", word("chunk.bound_by", BOUND_BY[mixed.step.bound_by])),
            seconds("chunk.alone_s", alone.step.bound_s),
            seconds("chunk.added_s", added),
            seconds("chunk.saved_s", alone.step.bound_s - added),
        )
    ]
    without, prompt, together = step.predicted_s, alone.step.predicted_s, mixed.step.predicted_s
    if without is not None and prompt is not None and together is not None:
        rows.append(
            row(
                count("chunk.tokens", CHUNK),
                "predicted",
                seconds("chunk.predicted.alone_s", prompt),
                seconds("chunk.predicted.added_s", together - without),
                seconds("chunk.predicted.saved_s", prompt + without - together),
            )
        )
    return [
        Table(
            "Continuous batching: prompt tokens beside decode",
            ("prompt tokens", "step", "alone", "added to the step", "saved"),
            tuple(rows),
            notes=(
                line(
                    "Prompt and decode share one read of the weights. Once products bind the saving saturates: at the "
                    "bound it is never more than the shorter of the two steps takes alone, {} here. {}",
                    seconds("chunk.saved_at_most_s", least(alone.step.bound_s, now)),
                    cite("chunked"),
                ),
                line(
                    "The bound has the bytes of decode read while the prompt's products run; kernels that run one "
                    "after the other, as the predicted ones do, save only the second read of the weights."
                ),
            ),
        )
    ]


def _pages(subject: Subject) -> Table | Text:
    """What whole pages leave unused, as a share of the cache."""
    if subject.attention is None:
        return text(line("No layer caches tokens: there are no pages."))
    rows, unused = [], False
    exact = subject.at(page_tokens=1).memory.kv_cache_bytes
    for tokens in PAGES:
        cached = subject.at(page_tokens=tokens).memory.kv_cache_bytes
        name = f"page_{tokens}"
        unused = unused or cached > exact
        rows.append(
            row(
                count(f"{name}.tokens", tokens),
                held(f"{name}.cache", cached),
                share(f"{name}.unused", over(cached - exact, cached)),
            )
        )
    if not unused:
        return text(
            line(
                "Pages of {} tokens divide what each sequence caches here: the KV cache takes {} with any of them, and "
                "none of it is unused. {}",
                joined([count(f"page_{tokens}.tokens", tokens) for tokens in PAGES]),
                held("memory.kv", subject.analysis.memory.kv_cache_bytes),
                cite("paging"),
            )
        )
    return Table(
        "Pages of the KV cache",
        ("tokens of a page", "cache of the batch", "unused"),
        tuple(rows),
        notes=(
            line(
                "Unused is a share of the cache of the batch. Half a page of each sequence is unused on average: "
                "it matters for short contexts only. {}",
                cite("paging"),
            ),
        ),
    )
