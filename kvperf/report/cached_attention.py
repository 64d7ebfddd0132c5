"""The cached-attention kernel: its launch, what it takes of an SM, what it asks of memory, and what each idea buys."""

from __future__ import annotations

from typing import Any

from kvperf.arith import most
from kvperf.errors import KvperfError
from kvperf.kernel.account import KernelAccount
from kvperf.pipeline import Part
from kvperf.report import strategies
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.kernels import Kernels
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import between, count, held, moved, seconds, share, times, word
from kvperf.stages.kv_update import span_of
from kvperf.workload import read_tokens

ROOFS = {"hbm": "memory", "tensor": "arithmetic", "l2": "L2", "flight": "too few bytes in flight"}


def section(subject: Subject, kernels: Kernels) -> Section:
    blocks: list[Block] = [_layer(subject)]
    if kernels.obstacle is not None:
        blocks.append(text(line("No kernel is planned here: {}", _refused("kernel.obstacle", kernels.obstacle))))
    else:
        blocks += _kernels(subject, kernels)
    return Section("attention", "Cached attention: the design of its kernel", tuple(blocks))


def _refused(name: str, problem: KvperfError) -> Line:
    return line("{}; {}.", word(name, problem.message), word(f"{name}.hint", problem.hint))


def _layer(subject: Subject) -> Text:
    """The attention that the kernel computes."""
    part = subject.decode_attention
    if part is None:
        return text(
            line(
                "No layer of {} attends to cached tokens; its recurrent states take {}.",
                subject.model.name,
                held("memory.states", subject.analysis.memory.recurrent_state_bytes),
            )
        )
    mixer: Any = part.shard.mixer
    batch, context = subject.sequences
    heads = getattr(mixer, "kv_heads", 1)
    lines = [
        line(
            "Layers that are alike: {}; query heads: {}; KV heads that they share: {}. Decoding attends from one new "
            "token of each sequence ({} of them) to its cached ones ({}{}).",
            count("attention.layers", part.layers),
            count("attention.heads", mixer.heads),
            count("attention.kv_heads", heads),
            count("attention.batch", batch),
            count("attention.context", read_tokens(context, 1, span_of(mixer))),
            " at most" if subject.ragged else "",
        ),
        line(
            "Each key must be read once for its score, and each value once for its output. No design reads less; "
            "what differs is how often the same bytes are asked for, and how many of them are on their way at once."
        ),
    ]
    return Text((*lines, *_warm(subject), *_ragged(subject, part)))


def _ragged(subject: Subject, part: Part) -> list[Line]:
    """The kernels' batch against the real one: they are planned for sequences alike."""
    if not subject.ragged:
        return []
    batch, context = subject.sequences
    span = span_of(part.shard.mixer)
    tokens = part.work.kv_read_bytes / part.layers
    alike = batch * read_tokens(context, 1, span)
    real = 0
    for group in subject.growing:
        real += group.count * read_tokens(group.context_tokens, 1, span)
    return [
        line(
            "The sequences differ in length. The kernels below are planned for all of them at the longest context: "
            "they read {} of K and V in a layer, this batch {}.",
            moved("ragged.kernels_read", tokens * alike / real),
            moved("ragged.step_reads", tokens),
        )
    ]


def _warm(subject: Subject) -> list[Line]:
    """One layer's cache against the L2."""
    gpu, part = subject.gpu, subject.decode_attention
    if part is None or gpu.l2_capacity_bytes is None:
        return []
    size = part.work.compulsory_bytes / part.layers
    beyond = most(0, size - gpu.l2_capacity_bytes) / gpu.hbm_bytes_per_s
    rate = gpu.l2_bytes_per_s
    reads = (
        line(
            ", and takes {} at least, where every re-read hits, instead of {}",
            seconds("attention.warm_s", most(size / rate, beyond)),
            seconds("attention.cold_s", size / gpu.hbm_bytes_per_s),
        )
        if rate
        else ()
    )
    return [
        line(
            "K and V of one layer, {}, are {} what the L2 holds. Between two steps the other layers and the weights "
            "push them out, so that a step reads them from memory; a benchmark that repeats one kernel reads what is "
            "left of them in the L2{}.",
            moved("attention.layer_bytes", size),
            times("attention.layer_over_l2", size / gpu.l2_capacity_bytes),
            reads,
        )
    ]


def _kernels(subject: Subject, kernels: Kernels) -> list[Block]:
    blocks: list[Block] = []
    if kernels.design is not None and kernels.best is not None:
        shown = {found.kernel: found for found in (kernels.design, kernels.best)}
        blocks += [_designs(subject, list(shown.values())), _shared(subject, list(shown.values()))]
        blocks += [_ladder(kernels), *_in_flight(kernels), *strategies.blocks(kernels)]
    refused = [_refused(f"kernel.{name}.refused", problem) for name, problem in kernels.refused.items()]
    if refused:
        blocks += [Text((line("Not for this shape:"),)), Text(tuple(refused), listed=True)]
    return blocks


def _extent(sizes: tuple[int, int, int]) -> str:
    return f"({', '.join(str(size) for size in sizes)})"


def _designs(subject: Subject, shown: list[KernelAccount]) -> Table:
    """The launch of the original design beside that of the best one."""
    columns = [_launch(found) for found in shown]
    rows = [row(title, *(column[title] for column in columns)) for title in columns[0]]
    uncompiled = shown[0].uncompiled
    why = (
        [line("Registers and occupancy are unknown: {}.", word("kernel.uncompiled", uncompiled))] if uncompiled else []
    )
    return Table(
        "The launch that reads K and V",
        ("", *(found.kernel for found in shown)),
        tuple(rows),
        notes=(
            *(line("{}: {}.", found.kernel, word(f"kernel.{found.kernel}.title", found.title)) for found in shown),
            *why,
            line("Splits are chosen by the rule of {}; occupancy follows from the limits of an SM.", cite("split-kv")),
        ),
    )


def _launch(found: KernelAccount) -> dict[str, Any]:
    first, name = found.launches[0], f"kernel.{found.kernel}"
    holds = first.occupancy
    threads = first.block[0] * first.block[1] * first.block[2]
    return {
        "grid": word(f"{name}.grid", _extent(first.grid)),
        "block": word(f"{name}.block", _extent(first.block)),
        "blocks": count(f"{name}.blocks", first.blocks),
        "threads of a block": count(f"{name}.threads", threads),
        "splits of a sequence": count(f"{name}.splits", found.splits),
        "tokens of a split": count(f"{name}.split_tokens", found.split_tokens),
        "registers of a thread": count(f"{name}.registers", first.registers),
        "bytes spilled": count(f"{name}.spilled", first.spill_bytes),
        "shared memory of a block": held(f"{name}.shared", first.shared_bytes),
        "blocks an SM holds": count(f"{name}.blocks_per_sm", holds.blocks_per_sm if holds else None),
        "warps of an SM in use, at most": share(f"{name}.occupancy", holds.warps_share if holds else None),
        "limited by": word(f"{name}.limited_by", " and ".join(holds.limited_by) if holds else None),
        "waves": count(f"{name}.waves", first.waves),
        "launches": count(f"{name}.launches", len(found.launches)),
        "reads of K and V": times(f"{name}.reread", found.reread_factor),
        "bytes requested": moved(f"{name}.requested", found.requested_bytes),
        "bytes no kernel avoids": moved(f"{name}.compulsory", found.compulsory_bytes),
        "at the memory peak": seconds(f"{name}.hbm_s", found.roofs.hbm_s),
        "at the L2 bandwidth": seconds(f"{name}.l2_s", found.roofs.l2_s),
        "arithmetic, padding included": seconds(f"{name}.arithmetic_s", found.roofs.tensor_s),
        "this design, at least": seconds(f"{name}.design_s", found.design_s),
        "because of": word(f"{name}.because", ROOFS[found.slowest_roof]),
    }


def _shared(subject: Subject, shown: list[KernelAccount]) -> Table:
    """Shared memory line by line."""
    limit = subject.gpu.architecture.limits.shared_per_block
    most_bytes = int(limit.value) if limit else None
    rows = []
    for found in shown:
        first = found.launches[0]
        for what, size in first.shared.items():
            key = f"kernel.{found.kernel}.shared.{what.replace(' ', '_')}"
            if size:
                rows.append(row(found.kernel, what, held(key, size), ""))
        used = None if not most_bytes else first.shared_bytes / most_bytes
        total = held(f"kernel.{found.kernel}.shared", first.shared_bytes)
        rows.append(row(found.kernel, "together", total, share(f"kernel.{found.kernel}.shared_share", used)))
    return Table(
        "Shared memory of a block, line by line",
        ("kernel", "for", "bytes", "of what a block may take"),
        tuple(rows),
        notes=(line("A block may take {}.", held("limits.shared_per_block", most_bytes)),),
    )


def _ladder(kernels: Kernels) -> Table:
    rows = []
    for name, found in kernels.accounts.items():
        launch = _launch(found)
        shown = (
            "blocks",
            "splits of a sequence",
            "waves",
            "reads of K and V",
            "bytes requested",
            "at the L2 bandwidth",
        )
        rows.append(row(name, *(launch[title] for title in (*shown, "this design, at least", "because of"))))
    notes = [
        line(
            "The least time is the longest of the roofs known for the design: memory, arithmetic, L2, bytes in flight."
        ),
        line("The time at the L2 is a floor in which every re-read hits; what misses comes from memory again."),
    ]
    if kernels.cache is not None:
        notes.append(
            line("The cache is {}: kernels without this format stand here as if it were half precision.", kernels.cache)
        )
    headers = ("kernel", "blocks", "splits", "waves", "K and V read", "requested", "L2 time", "at least", "because of")
    return Table("Designs side by side", headers, tuple(rows), notes=tuple(notes))


def _in_flight(kernels: Kernels) -> list[Block]:
    """Little's law: what must be on its way to run at the peak."""
    found = kernels.best
    if found is None:
        return []
    flight = found.in_flight
    verdict = None if flight.limits is None else "too little" if flight.limits else "enough to read at the peak"
    return [
        text(
            line(
                "To run at its peak the memory needs {} on their way to each SM, at the latencies of an idle memory; a "
                "loaded one needs more. {} keeps {} on their way: {}. {}",
                between("flight.needed", flight.needed_bytes_per_sm, "capacity"),
                found.kernel,
                held(f"flight.{found.kernel}.held", flight.held_bytes_per_sm),
                word("flight.verdict", verdict),
                cite("little"),
            )
        )
    ]
