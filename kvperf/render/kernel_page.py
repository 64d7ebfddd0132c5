"""One kernel on one shape, line by line: its idea, launches, shared memory, traffic and times."""

from __future__ import annotations

from kvperf.kernel.account import KernelAccount
from kvperf.kernel.launch_facts import LaunchFacts
from kvperf.render.analysis import folded
from kvperf.render.table import Table, markdown
from kvperf.units import binary, decimal, significant

# Plain names of buffers and of lines of shared memory.
NAMES = {
    "partial_o": "partial outputs",
    "partial_ml": "partial maxima and sums",
    "arrived": "arrival counters",
    "k_scales": "scales of k",
    "v_scales": "scales of v",
    "pages": "page table",
    "ticket": "order of arrival",
    "outputs of owners": "outputs of the lanes of each key",
    "alignment": "padding to 1 KiB",
}
ROOFS = {
    "hbm": "HBM, compulsory bytes",
    "tensor": "arithmetic",
    "l2": "L2, requested bytes",
    "flight": "waiting for bytes in flight",
    "issue": "issue slots (an estimate)",
}


def page(found: KernelAccount) -> str:
    """All of it as text, no wider than a terminal."""
    parts = [folded([where(found)]), folded(_idea(found))]
    parts += [folded([f"launch {launch.entry}", *_launch_lines(launch, found)]) for launch in found.launches]
    times = [f"  {name}: {told}" for name, told in _times(found)]
    parts += [folded(_traffic_lines(found)), folded(["times:", *times, *_verdict_lines(found)])]
    return "\n".join(parts)


def markdown_page(found: KernelAccount) -> str:
    """All of it as Markdown: headings, lists and tables."""
    parts = [f"# {found.kernel}: {found.title}", where(found), _listed(_idea(found)[1:])]
    for launch in found.launches:
        parts += [f"## Launch {launch.entry}", _listed(_launch_lines(launch, found))]
    buffers = tuple(
        (_name(name), *(str(part.get(name, "")) for part in (found.loads, found.stores, found.atomics)))
        for name in dict.fromkeys((*found.loads, *found.stores, *found.atomics))
    )
    asked = markdown(Table(("buffer", "loads B", "stores B", "atomics"), buffers)).rstrip()
    times = markdown(Table(("what", "time"), tuple(_times(found)), left=2)).rstrip()
    parts += ["## Requests", asked, _listed(_traffic_lines(found))]
    parts += ["## Times", times, _listed(_verdict_lines(found))]
    return "\n\n".join(parts) + "\n"


def where(found: KernelAccount) -> str:
    """The GPU and the shape."""
    shape = f"batch {found.batch} · {found.heads} heads · {found.kv_heads} KV heads · head_dim {found.head_dim}"
    return f"{found.gpu} ({found.architecture}) · {shape} · {found.seq} cached tokens · {found.dtype}"


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _name(buffer: str) -> str:
    return NAMES.get(buffer, buffer)


def _idea(found: KernelAccount) -> list[str]:
    strategies = ", ".join(found.strategies)
    lines = [
        f"{found.kernel}: {found.title}",
        f"against {found.against}: {found.changes}" if found.against else found.changes,
        f"buys: {found.buys}",
        f"uses: {strategies}" if strategies else "uses none of the strategies",
    ]
    if found.page_tokens is not None:
        lines.append(f"pages of {found.page_tokens} tokens")
    if "split-KV" in found.strategies:
        lines.append(_splits(found))
    if found.uncompiled:
        assumed = "; splits are chosen as if an SM held one block"
        lines.append(f"registers and occupancy unknown: {found.uncompiled}{assumed}")
    return lines


def _splits(found: KernelAccount) -> str:
    last = found.seq - (found.splits - 1) * found.split_tokens
    if found.splits == 1:
        line = "splits 1: a block takes the whole sequence"
    elif last == found.split_tokens:
        line = f"splits {found.splits} of {found.split_tokens} tokens"
    else:
        line = f"splits {found.splits} of {found.split_tokens} tokens, {last} in the last"
    if found.requested_splits in (None, found.splits):
        return line
    return f"{line}; {found.requested_splits} were asked for: whole tiles give {found.splits}"


def _launch_lines(launch: LaunchFacts, found: KernelAccount) -> list[str]:
    lines = [f"grid {_extent(launch.grid)} = {launch.blocks} blocks of {_extent(launch.block)} threads"]
    shared = ", ".join(f"{_name(name)} {binary(size)}" for name, size in launch.shared.items() if size)
    lines.append(f"shared memory {binary(launch.shared_bytes)}" + (f": {shared}" if shared else ""))
    if launch.registers is not None:
        lines.append(f"registers {launch.registers} a thread, {launch.spill_bytes} bytes spilled")
    if launch.occupancy:
        by = " and ".join(launch.occupancy.limited_by)
        share = f"{launch.occupancy.warps_per_sm} warps, {launch.occupancy.warps_share:.0%}"
        lines.append(f"occupancy {launch.occupancy.blocks_per_sm} blocks an SM ({share}), limited by {by}")
    if launch.waves is not None:
        lines.append(f"waves {launch.waves:.2f}")
    if launch.main_loop_instructions is not None:
        lines.append(f"{launch.main_loop_instructions} instructions of a warp for a tile of keys and values")
    return lines


def _extent(sizes: tuple[int, int, int]) -> str:
    return f"({', '.join(str(size) for size in sizes)})"


def _traffic_lines(found: KernelAccount) -> list[str]:
    lines = [
        f"requested loads {_bytes(found.loads)}",
        f"requested stores {_bytes(found.stores)}",
    ]
    if found.atomics:
        atomics = ", ".join(f"{_name(name)} {count:,}" for name, count in found.atomics.items())
        lines.append(f"atomic operations: {atomics}")
    lines.append(
        f"compulsory {decimal(found.compulsory_bytes, 'B', 4)}; K and V are read {found.reread_factor:.2f} times; "
        f"{significant(found.flops_per_byte, 3)} FLOP/B compulsory, "
        f"{significant(found.requested_flops_per_byte, 3)} FLOP/B requested"
    )
    if found.mma and found.mma_utilisation is not None:
        counts = ", ".join(f"{count:,} × {name}" for name, count in found.mma.items())
        lines.append(f"matrix instructions {counts}")
        lines.append(f"MMA utilisation {found.mma_utilisation:.0%}: query rows over rows of the tile")
    return [*lines, *_flight_lines(found)]


def _bytes(parts: dict[str, int]) -> str:
    total = 0
    for size in parts.values():
        total += size
    listed = ", ".join(f"{_name(name)} {decimal(size, 'B')}" for name, size in parts.items())
    return f"{decimal(total, 'B')}: {listed}"


def _flight_lines(found: KernelAccount) -> list[str]:
    flight = found.in_flight
    if flight.held_bytes_per_sm is None:
        return ["K and V in flight unknown"]
    line = f"K and V in flight {binary(flight.held_bytes_per_sm)} an SM at most"
    if len([launch for launch in found.launches if launch.entry != "combine"]) > 1:
        line += ", in the launch that holds least"
    if flight.needed_bytes_per_sm is None or flight.latency_s is None:
        return [f"{line}; the latency of this memory is unknown"]
    low, high = (binary(size) for size in flight.needed_bytes_per_sm)
    fast, slow = (decimal(seconds, "s") for seconds in flight.latency_s)
    readings = f"{low} at {fast}" if low == high else f"{low} at {fast}, {high} at {slow}"
    return [
        f"{line}; the HBM peak needs {readings} (latency of an idle memory; a loaded one needs 1.5 to 2 times that)"
    ]


def _times(found: KernelAccount) -> list[tuple[str, str]]:
    flight = found.in_flight
    told = []
    for roof, name in ROOFS.items():
        seconds = getattr(found.roofs, f"{roof}_s")
        text = "unknown" if seconds is None else decimal(seconds, "s")
        if roof == "tensor":
            text += f" ({_rates(found)})"
        elif roof == "flight" and flight.limits is False:
            text = "not a limit"
        elif roof == "flight" and seconds is not None and flight.latency_s is not None:
            text += f" (at {decimal(flight.latency_s[0], 's')}, the lowest latency of the idle memory)"
        told.append((name, text))
    return told


def _rates(found: KernelAccount) -> str:
    return ", ".join(
        f"{name} {'at an unknown rate' if rate is None else decimal(rate, 'FLOP/s', 4)}"
        for name, rate in found.arithmetic_rates.items()
    )


def _verdict_lines(found: KernelAccount) -> list[str]:
    lines = [
        f"bound {decimal(found.bound_s, 's', 4)} ({found.bound_by}) for any kernel",
        f"this design: at least {decimal(found.design_s, 's', 4)}, because of {ROOFS[found.slowest_roof]}",
    ]
    missing = [ROOFS[roof] for roof in ("tensor", "l2") if getattr(found.roofs, f"{roof}_s") is None]
    if found.roofs.flight_s is None and found.in_flight.limits is None:
        missing.append(ROOFS["flight"])
    if missing:
        lines.append(f"that leaves out what is unknown here: {'; '.join(missing)}")
    return [*lines, "predicted time: unknown, not calibrated"]
