"""What each idea of a kernel buys: two kernels that differ in it, and the figure that it changes."""

from __future__ import annotations

from kvperf.kernel.account import KernelAccount
from kvperf.kernel.catalogue import KERNELS
from kvperf.report.document import Block, Line, Table, Value, line, row
from kvperf.report.kernels import Kernels
from kvperf.report.references import cite
from kvperf.report.values import count, held, moved, seconds, times


def blocks(kernels: Kernels) -> list[Block]:
    """A table of the ideas whose kernels are for this shape; none for a shape that one kernel takes."""
    rows = []
    asked = kernels.requests
    if "three_pass" in asked and "cached_attention" in kernels.accounts:
        three, scores = asked["three_pass"], "scores"
        size = three.loads.get(scores, 0) + three.stores.get(scores, 0)
        before = moved("idea.cached_attention.scores.before", size)
        after = moved("idea.cached_attention.scores.after", 0)
        rows.append(row("fusion", "three_pass", "cached_attention", "scores through memory", before, after))
    ideas = (
        ("tiles and an online softmax", "cached_attention", "flash", "shared memory of a block", _shared),
        ("split-KV", "flash", "split_kv", "blocks", _blocks),
        ("split-KV", "flash", "split_kv", "waves", _waves),
        ("one read for a group of heads", "split_kv", "async_ring", "bytes requested", _requested),
        ("one read for a group of heads", "split_kv", "async_ring", "times each is read", _reread),
        ("asynchronous copies", "split_kv", "async_ring", "bytes on their way to an SM", _flight),
        ("bulk copies", "async_ring", "bulk_copy", "issue slots", _issue),
        ("matrix units", "async_ring", "tensor_cores", "arithmetic", _arithmetic),
        ("matrix units", "async_ring", "tensor_cores", "issue slots", _issue),
    )
    for idea, old, new, what, figure in ideas:
        if old in kernels.accounts and new in kernels.accounts:
            key = f"idea.{new}.{what.replace(' ', '_')}"
            before, after = kernels.accounts[old], kernels.accounts[new]
            rows.append(row(idea, old, new, what, figure(f"{key}.before", before), figure(f"{key}.after", after)))
    if not rows:
        return []
    return [
        Table(
            "What each idea changes",
            ("idea", "without", "with", "figure", "before", "after"),
            tuple(rows),
            notes=(
                *_named(),
                line("Issue slots are an estimate from machine code; all other figures follow from shape and tiles."),
                line(
                    "Query heads of a group share K and V: {}. Scores need no second pass: {}.",
                    cite("gqa"),
                    cite("online-softmax"),
                ),
            ),
        )
    ]


def _named() -> list[Line]:
    """The catalogue's kernels by strategies that the table does not show."""
    lines = []
    for strategy in ("coalesced", "persistence"):
        used = {
            title: [name for name, kernel in KERNELS.items() if title in kernel.strategies]
            for kernel in KERNELS.values()
            for title in kernel.strategies
            if title.startswith(strategy)
        }
        lines += [line("{}: {}.", title.capitalize(), ", ".join(names)) for title, names in used.items()]
    warps = [name for name, kernel in KERNELS.items() if "producer warp" in kernel.title]
    if warps:
        lines.append(line("Warp specialisation, a warp that only orders copies: {}.", ", ".join(warps)))
    return lines


def _shared(name: str, found: KernelAccount) -> Value:
    return held(name, found.launches[0].shared_bytes)


def _blocks(name: str, found: KernelAccount) -> Value:
    return count(name, found.launches[0].blocks)


def _waves(name: str, found: KernelAccount) -> Value:
    return count(name, found.launches[0].waves)


def _requested(name: str, found: KernelAccount) -> Value:
    return moved(name, found.requested_bytes)


def _reread(name: str, found: KernelAccount) -> Value:
    return times(name, found.reread_factor)


def _flight(name: str, found: KernelAccount) -> Value:
    return held(name, found.in_flight.held_bytes_per_sm)


def _issue(name: str, found: KernelAccount) -> Value:
    return seconds(name, found.roofs.issue_s)


def _arithmetic(name: str, found: KernelAccount) -> Value:
    return seconds(name, found.roofs.tensor_s)
