"""One kernel, run on the interpreter on operands made for it, and what it should have given.

Outputs and workspaces are poisoned before the run, and pages that no sequence owns are NaN: what a kernel must not
read or leave unwritten shows in the result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvperf.emulator import Counts, Fault, run
from kvperf.hardware import Architecture, load_gpu
from kvperf.kernel import reference
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.compile import compile_kernel
from kvperf.kernel.geometry import Shape
from kvperf.kernel.launch import Launch, Plan, Workspace, plan

Array = np.ndarray[Any, Any]

# A GPU of each architecture that the kernels are compiled for.
GPUS = {"80": "a100-sxm", "86": "a40", "89": "l40s", "90": "h100-sxm", "100": "b200", "120": "rtx-5090"}
SEED = 20261122
SINK = 12


@functools.cache
def architecture(arch: str) -> Architecture:
    return load_gpu(GPUS[arch]).architecture


@dataclass(frozen=True)
class Case:
    """What to run.

    values  random; rising (scores grow along S); constant (V is 1); sink (the first key's score lies SINK above the
            others, and its value is 0); faint (V is a thousandth); neighbours (all K and V but those of the first KV
            head are NaN)
    """

    kernel: str
    dtype: str = "fp16"
    head_dim: int = 128
    group: int = 4
    seq: int = 77
    schedule: str = "greedy"
    splits: int | None = 1
    batch: int = 1
    kv_heads: int = 2
    q_len: int = 1
    values: str = "random"
    output_fp32: bool = False
    sms: int = 4
    arch: str = "90"
    resident_blocks: int | None = None
    lengths: tuple[int, ...] | None = None

    @property
    def shape(self) -> Shape:
        fp8 = KERNELS[self.kernel].cache == "fp8"
        return Shape(
            batch=self.batch,
            heads=self.kv_heads * self.group,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            seq=self.seq,
            dtype=self.dtype,
            q_len=self.q_len,
            k_scale=0.25 if fp8 else 1,
            v_scale=0.5 if fp8 else 1,
            lengths=self.lengths,
        )

    @property
    def plan(self) -> Plan:
        return plan(
            self.kernel,
            self.shape,
            architecture(self.arch),
            self.sms,
            splits=self.splits,
            output_fp32=self.output_fp32,
        )


def small(name: str, **changes: Any) -> Case:
    """A shape that the kernel supports and that runs quickly, but for the changes."""
    plain = {"head_dim": 576, "group": 16, "kv_heads": 1} if name == "mla" else {"group": 2, "kv_heads": 1}
    return Case(name, **{**plain, **changes})


@dataclass(frozen=True)
class Result:
    """What came out, as float64, what should have, and what the runs of all launches counted."""

    plan: Plan
    found: Array
    expected: Array
    counts: list[Counts]

    @property
    def error(self) -> float:
        return reference.relative_error(self.found, self.expected)

    def loads(self) -> dict[str, int]:
        return _sum([{name: t.bytes for name, t in counts.loads.items()} for counts in self.counts])

    def stores(self) -> dict[str, int]:
        return _sum([{name: t.bytes for name, t in counts.stores.items()} for counts in self.counts])

    def atomics(self) -> dict[str, int]:
        return _sum([dict(counts.atomics) for counts in self.counts])

    def mma(self) -> dict[str, int]:
        return _sum([dict(counts.mma) for counts in self.counts])


def _sum(parts: list[dict[str, int]]) -> dict[str, int]:
    names = {name for part in parts for name in part}
    return {name: total for name in sorted(names) if (total := sum(part.get(name, 0) for part in parts))}


def operands(case: Case) -> tuple[dict[str, Array], Array]:
    """(buffers as the kernel reads them, what it should give)."""
    random = np.random.default_rng(SEED + case.seq)
    shape, chosen = case.shape, kernel(case.kernel)
    D, S, K = shape.head_dim, shape.seq, shape.kv_heads
    q = random.standard_normal((shape.batch, shape.q_len, shape.heads, D))
    k = random.standard_normal((shape.batch, K, S, D))
    v = random.standard_normal((shape.batch, K, S, D))
    scale = shape.score_scale / np.log2(np.e)
    if case.values == "rising":
        q = 1 + 0.1 * q
        k = 0.1 * k + (8 / np.sqrt(D) * np.arange(1, S + 1) / S)[:, None]
    if case.values == "constant":
        v = np.ones_like(v)
    # The value that a key of MLA begins with.
    values = k[..., : shape.output_dim] if case.kernel == "mla" else v
    if case.values == "sink":
        q[..., -1], k[..., -1] = 4, 0
        k[..., 0, -1] = SINK / 4 / scale
        values[..., 0, :] = 0
    if case.values == "faint":
        values *= 1e-3
    buffers = {"q": reference.encode(q, shape.dtype)}
    q = reference.decode(buffers["q"], shape.dtype)
    if case.kernel == "mla":
        buffers["latent"] = reference.encode(k, shape.dtype)
        k = reference.decode(buffers["latent"], shape.dtype)
        v = k[..., : shape.output_dim]
    elif chosen.cache == "int8":
        for name, x in (("k", k), ("v", v)):
            buffers[name], buffers[f"{name}_scales"] = reference.quantise_int8(x)
        k, v = (buffers[n] * buffers[f"{n}_scales"][..., None].astype(np.float64) for n in ("k", "v"))
        if case.kernel == "int8_mma":
            rounded, scales = reference.quantise_int8(q)
            q = rounded * scales[..., None].astype(np.float64)
    else:
        cache = chosen.cache or shape.dtype
        for name, x, unit in (("k", k, shape.k_scale), ("v", v, shape.v_scale)):
            buffers[name] = reference.encode(x / unit, cache)
        k = reference.decode(buffers["k"], cache) * shape.k_scale
        v = reference.decode(buffers["v"], cache) * shape.v_scale
    if case.values == "neighbours":
        for name in {"k", "v", "latent", "k_scales", "v_scales"} & set(buffers):
            buffers[name].reshape(-1, *buffers[name].shape[2:])[1:].view(np.uint8)[...] = 0xFF
    if case.kernel == "paged":
        buffers |= _paged(case, buffers, random)
    return buffers, reference.attention(q, k, v, scale, shape.sequences)


def _paged(case: Case, buffers: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """K and V dealt out to a pool of pages in random order; unused pages and the rest of the last ones are NaN."""
    shape = case.shape
    page, count = shape.page_tokens, shape.pages_per_sequence
    pool = shape.batch * count + 3
    table = random.permutation(pool)[: shape.batch * count].reshape(shape.batch, count).astype(np.int32)
    found = {"pages": table, "lengths": np.array(shape.sequences, np.int32)}
    for name in ("k", "v"):
        dense = buffers[name]
        pages = np.full((pool, shape.kv_heads, page, shape.head_dim), np.nan)
        pages = reference.encode(pages, shape.dtype)
        for batch in range(shape.batch):
            for i in range(count):
                part = dense[batch, :, i * page : min((i + 1) * page, shape.sequences[batch])]
                pages[table[batch, i], :, : part.shape[1]] = part
        found[name] = pages
    return found


def poisoned(shape: tuple[int, ...], dtype: str) -> Array:
    """A buffer that holds NaN, or, of a format without it, a number nobody expects."""
    array = reference.encode(np.full(shape, 0.0), dtype)
    array.reshape(-1).view(np.uint8)[:] = 0xFF
    return array


def workspace(spec: Workspace) -> Array:
    return reference.encode(np.zeros(spec.shape), spec.dtype) if spec.zeroed else poisoned(spec.shape, spec.dtype)


def execute(case: Case, source: Path | None = None) -> Result:
    """Compile (`source` instead of the kernel's own, for faults put in), run all launches, compare."""
    planned = case.plan
    shape = planned.shape
    compiled = compile_kernel(source or kernel(case.kernel).source, planned.defines, case.arch, ptx_only=True)
    buffers, expected = operands(case)
    out_shape = (shape.batch, shape.q_len, shape.heads, shape.output_dim)
    out_dtype = "fp32" if case.output_fp32 else shape.dtype
    buffers["out"] = poisoned(out_shape, out_dtype)
    for name, spec in planned.workspace.items():
        buffers[name] = workspace(spec)
    written = {"out", *(name for name, spec in planned.workspace.items() if not spec.zeroed)}
    initialised = dict.fromkeys(written, False)
    counts = []
    for launch in planned.launches:
        arguments = [buffers[a] if isinstance(a, str) else a for a in launch.arguments]
        names = [a for a in launch.arguments if isinstance(a, str)]
        counts.append(_run(compiled.ptx, launch, arguments, names, case, initialised))
        initialised = dict.fromkeys(initialised, True)
    for name, spec in planned.workspace.items():
        if spec.zeroed and buffers[name].any():
            message = f"{planned.kernel}: {name} is not zero after the launch"
            raise Fault("workspace", message, "the next call counts on zeros", buffer=name)
    return Result(planned, reference.decode(buffers["out"], out_dtype), expected, counts)


def _run(
    ptx: str, launch: Launch, arguments: list[Any], names: list[str], case: Case, initialised: dict[str, bool]
) -> Counts:
    return run(
        ptx,
        launch.entry,
        grid=launch.grid,
        block=launch.block,
        arguments=arguments,
        shared_bytes=launch.dynamic_shared_bytes,
        schedule=case.schedule,
        resident_blocks=case.resident_blocks,
        names=names,
        initialised={name: state for name, state in initialised.items() if name in names},
    ).counts
