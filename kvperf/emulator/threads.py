"""The threads that execute instructions together, and their registers."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kvperf.emulator.company import Company
from kvperf.emulator.fault import Fault
from kvperf.emulator.formats import KINDS, Array
from kvperf.emulator.instruction import Address, Instruction, Operand, Register, Symbol
from kvperf.emulator.memory import WIDTHS

if TYPE_CHECKING:
    from kvperf.emulator.machine import Machine

WARP = 32
SIGNED = {size: np.dtype(f"i{size}") for size in (1, 2, 4, 8)}


class Threads:
    """Some threads of the machine, in ascending order; `index` is None where they are all.

    Registers are read from the machine once and written back by `flush`. An array of a register is never modified,
    only replaced, so that a register may share its array with another.
    """

    def __init__(self, machine: Machine, index: Array | None) -> None:
        self.machine = machine
        self.index = index
        self.n = machine.threads if index is None else len(index)
        self.values: dict[str, Array] = {}
        self.written: set[str] = set()
        self._whole: bool | None = True if index is None else None

    @classmethod
    def of(cls, machine: Machine, numbers: Array) -> Threads:
        """The threads of these numbers."""
        return Threads(machine, numbers)

    @cached_property
    def lane(self) -> Array:
        return self._of(self.machine.lane)

    @cached_property
    def warp(self) -> Array:
        return self._of(self.machine.warp)

    @cached_property
    def block(self) -> Array:
        return self._of(self.machine.block)

    @cached_property
    def thread(self) -> Array:
        """Number within the block."""
        return self._of(self.machine.thread)

    @cached_property
    def numbers(self) -> Array:
        """Number within the machine."""
        return self._of(self.machine.numbers)

    @cached_property
    def shared_start(self) -> Array:
        """Where the shared memory of each thread's block starts."""
        return self.block * self.machine.shared.stride_bytes

    @cached_property
    def company(self) -> Company:
        return Company.of(self.warp, self.block, self.thread)

    def _of(self, array: Array) -> Array:
        return array if self.index is None else array[self.index]

    @property
    def whole_warps(self) -> bool:
        """Whether all lanes of each warp are here."""
        if self._whole is None:
            assert self.index is not None
            first, last = self.index[::WARP], self.index[WARP - 1 :: WARP]
            self._whole = bool(
                self.n % WARP == 0 and not (first & (WARP - 1)).any() and (last - first == WARP - 1).all()
            )
        return self._whole

    # Registers

    def _bits(self, register: Register) -> Array:
        bits = self.values.get(register.name)
        if bits is None:
            bits = self.fetch(register)
        return ~bits if register.negated else bits

    def fetch(self, register: Register) -> Array:
        """The register from the machine: its bits, as numbers of any type of that size."""
        bits = self.values[register.name] = self._fetch(register)
        return bits

    def _fetch(self, register: Register) -> Array:
        return self._of(self.machine.register(register))

    def read(self, operand: Operand, kind: str) -> Array:
        """The operand as numbers of a PTX type: one per thread, or one for all where it is a constant."""
        storage, decode, _ = KINDS[kind]
        if type(operand) is Register:
            bits = self._bits(operand)
            size = bits.dtype.itemsize
            if size == storage.itemsize:
                bits = bits if bits.dtype is storage else bits.view(storage)
            else:
                bits = bits if bits.dtype.kind == "u" else bits.view(f"u{size}")
                if kind[0] == "s" and size < storage.itemsize:
                    bits = bits.view(SIGNED[size]).astype(SIGNED[storage.itemsize]).view(storage)
                else:
                    bits = bits.astype(storage)
            return decode(bits)
        return decode(self.machine.constant(operand, storage, self))

    def read_each(self, operand: Operand, kind: str) -> Array:
        """The same, one per thread in any case."""
        values = self.read(operand, kind)
        return values if len(values) == self.n else np.broadcast_to(values, (self.n, *values.shape[1:]))

    def write(self, register: Operand, values: Array, kind: str) -> None:
        """Numbers of a PTX type to a register, which may be wider: signed ones are extended by their sign."""
        if type(register) is not Register:
            if register == Symbol("_"):
                return
            raise self.fault("unknown", "cannot write to this operand")
        bits = KINDS[kind].encode(values)
        if len(bits) != self.n:
            bits = np.broadcast_to(bits, (self.n,))
        storage = KINDS[register.kind].storage
        if bits.dtype != storage:
            if kind[0] == "s" and bits.dtype.itemsize < storage.itemsize:
                bits = bits.view(SIGNED[bits.dtype.itemsize]).astype(SIGNED[storage.itemsize]).view(storage)
            else:
                bits = bits.astype(storage)
        self.values[register.name] = bits
        self.written.add(register.name)

    def flush(self, *, everything: bool = False) -> None:
        """Registers back to the machine: those another basic block reads, or all of them."""
        machine = self.machine
        for name in self.written:
            if not everything and name not in machine.live:
                continue
            if self.index is None:
                machine.registers[name] = self.values[name]
            else:
                old = machine.registers.get(name)
                values = self.values[name]
                new = np.zeros(machine.threads, values.dtype) if old is None else old.copy()
                new[self.index] = values if values.dtype is new.dtype else values.view(new.dtype)
                machine.registers[name] = new
        self.written.clear()

    def guarded(self, guard: Register | None) -> Threads | None:
        """Those whose guard holds: all of them as they are, a part of them, or None."""
        if guard is None:
            return self
        holds = self._bits(guard)
        if holds.all():
            return self
        return _Part(self, np.flatnonzero(holds)) if holds.any() else None

    # Addresses

    def address(self, operand: Operand) -> Array:
        """Byte addresses (int64), one per thread."""
        assert type(operand) is Address
        base = operand.base
        if type(base) is Register:
            bits = self._bits(base)
            address = bits.view(np.int64) if bits.dtype.itemsize == 8 else bits.view(np.uint32).astype(np.int64)
            return address + operand.offset_bytes if operand.offset_bytes else address
        constant = self.machine.constant(base, WIDTHS[8], self).view(np.int64) + operand.offset_bytes
        return np.broadcast_to(constant, (self.n,))

    def fault(self, kind: str, what: str, at: int | None = None, buffer: str | None = None, hint: str = "") -> Fault:
        """The fault `what` of the current instruction, by the thread at a position among these."""
        return self.machine.fault(kind, what, None if at is None else int(self.numbers[at]), buffer, hint)


class _Part(Threads):
    """Those of other threads whose guard holds; what they write, the others get when the part is merged."""

    def __init__(self, whole: Threads, positions: Array) -> None:
        index = positions if whole.index is None else whole.index[positions]
        super().__init__(whole.machine, index)
        self.whole = whole
        self.positions = positions

    def _fetch(self, register: Register) -> Array:
        return self.whole._bits(register._replace(negated=False))[self.positions]

    def merge(self) -> None:
        for name in self.written:
            kind = self.machine.kernel_registers[name]
            new = self.whole._bits(Register(name, kind)).copy()
            values = self.values[name]
            new[self.positions] = values if values.dtype is new.dtype else values.view(new.dtype)
            self.whole.values[name] = new
            self.whole.written.add(name)


def execute(threads: Threads, instruction: Instruction) -> int:
    """One instruction for the threads whose guard holds; how many they were."""
    acting = threads.guarded(instruction.guard)
    if acting is None:
        return 0
    instruction.action(acting, instruction)
    if isinstance(acting, _Part):
        acting.merge()
    return acting.n
