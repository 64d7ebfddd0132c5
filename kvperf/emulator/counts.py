"""What a run asked of the machine: bytes and sectors by buffer, shared-memory wavefronts, arithmetic."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvperf.emulator.company import Company

Array = np.ndarray[Any, Any]

SECTOR_BYTES = 32
BANKS = 32
BANK_BYTES = 4
_REMEMBERED = 4096
SFU_OPCODES = ("ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh")


@dataclass
class Traffic:
    """Requests of one buffer in one direction.

    bytes     requested by threads, each thread's own even where several ask for the same
    sectors   32-byte sectors, each once per warp and instruction
    requests  warps times instructions
    """

    bytes: int = 0
    sectors: int = 0
    requests: int = 0


@dataclass
class Counts:
    """Counters of one run.

    loads, stores      global memory, by buffer; copies to shared memory (cp.async, bulk) are loads
    copied_bytes       those of the loads that cp.async and bulk copies made, by buffer
    atomics            by buffer: one thread's operation is one
    shared_requests    warps times instructions that read or write shared memory
    shared_wavefronts  passes they took; `bank_conflicts` are the passes beyond what the width needs
    fma                fused multiply-adds of threads, fp32, fp64 and both halves of packed ones
    mma                matrix instructions of warps, by shape and operand, as in "m16n8k16.f16"
    sfu                special-function operations of threads, by opcode
    opcodes            every instruction that threads executed, by its opcode with modifiers
    """

    loads: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    stores: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    copied_bytes: Counter[str] = field(default_factory=Counter)
    atomics: Counter[str] = field(default_factory=Counter)
    shared_requests: int = 0
    shared_wavefronts: int = 0
    bank_conflicts: int = 0
    fma: int = 0
    mma: Counter[str] = field(default_factory=Counter)
    sfu: Counter[str] = field(default_factory=Counter)
    opcodes: Counter[str] = field(default_factory=Counter)
    _patterns: dict[tuple[int, bytes, bytes], tuple[int, int, int]] = field(default_factory=dict, repr=False)

    def global_access(self, traffic: Traffic, company: Company, offset: Array, width: int) -> None:
        """One instruction's accesses; an aligned access of up to 32 bytes lies in one sector."""
        traffic.bytes += len(offset) * width
        key = company.warp_key | (offset >> 5)
        if len(key) > 1:
            step = key[1:] - key[:-1]
            if int(np.minimum.reduce(step)) < 0:
                key.sort()
                step = key[1:] - key[:-1]
            traffic.sectors += int(np.count_nonzero(step))
        traffic.sectors += 1
        traffic.requests += company.requests

    def bulk_copy(self, traffic: Traffic, offset: int, size: int) -> None:
        """One bulk copy: a contiguous range, one request."""
        traffic.bytes += size
        traffic.sectors += -(-(offset + size) // SECTOR_BYTES) - offset // SECTOR_BYTES
        traffic.requests += 1

    def shared_access(self, company: Company, offset: Array, width: int) -> None:
        """One instruction's accesses. Blocks mostly repeat each other's pattern: it is worked out once."""
        if company.rows > 1:
            rows = offset.reshape(company.rows, -1)
            if (rows == rows[0]).all():
                self._shared(company, rows[0], width)
                return
            for row in rows:
                self._shared(company._replace(rows=1), row, width)
            return
        self._shared(company, offset, width)

    def _shared(self, company: Company, offset: Array, width: int) -> None:
        key = (width, company.identity, offset.tobytes())
        figures = self._patterns.get(key)
        if figures is None:
            if len(self._patterns) >= _REMEMBERED:
                self._patterns.clear()
            figures = self._patterns[key] = wavefronts(company.thread, offset, width)
        self.shared_requests += figures[0] * company.rows
        self.shared_wavefronts += figures[1] * company.rows
        self.bank_conflicts += figures[2] * company.rows

    def opcode(self, opcode: str, modifiers: tuple[str, ...], executed: int) -> None:
        """Fold in how often threads executed one instruction."""
        self.opcodes[".".join((opcode, *modifiers))] += executed
        if opcode == "fma":
            self.fma += executed * (2 if modifiers[-1].endswith("x2") else 1)
        elif opcode in SFU_OPCODES:
            self.sfu[opcode] += executed
        elif opcode == "mma":
            shape = next(modifier for modifier in modifiers if modifier.startswith("m16n8"))
            self.mma[f"{shape}.{modifiers[-3]}"] += executed // 32


def wavefronts(thread: Array, offset: Array, width: int) -> tuple[int, int, int]:
    """(requests, wavefronts, conflicts) of one instruction on shared memory.

    A warp's access goes in passes of as many lanes as fill the 32 banks: all up to 4 bytes, half a warp at 8, a
    quarter at 16. A pass takes as many wavefronts as its busiest bank has distinct words.
    """
    passes_per_warp = max(1, width // BANK_BYTES)
    group = (thread >> 5) * passes_per_warp + (thread & 31) * passes_per_warp // 32
    words = (offset // BANK_BYTES)[:, None] + np.arange(passes_per_warp)
    key = np.unique((group[:, None] << 32 | (words % BANKS) << 24 | words // BANKS).ravel())
    _, distinct = np.unique(key >> 24, return_counts=True)
    bank = np.unique(key >> 24)
    groups, first = np.unique(bank >> 8, return_index=True)
    needed = int(np.maximum.reduceat(distinct, first).sum())
    return len(np.unique(thread >> 5)), needed, needed - len(groups)
