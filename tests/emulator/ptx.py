"""PTX written by hand: a kernel around a few instructions, so that opcodes are tested without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator import Emulated, run

Array = np.ndarray[Any, Any]
HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
# Registers that a body may use besides its inputs %a, %b, %c, %e and its result %d.
SCRATCH = """
    .reg .pred %p<8>;
    .reg .b16 %h<16>;
    .reg .b32 %r<64>;
    .reg .f32 %f<64>;
    .reg .b64 %x<32>;
"""


def kind_of(dtype: Any) -> str:
    dtype = np.dtype(dtype)
    return f"{'f' if dtype.kind == 'f' and dtype.itemsize >= 4 else 'b'}{8 * dtype.itemsize}"


def kernel(body: str, parameters: str = ".param .u64 buffer", outside: str = "") -> str:
    """A module with the entry `test`."""
    return f"{HEADER}{outside}\n.visible .entry test({parameters})\n{{{SCRATCH}{body}\n    ret;\n}}\n"


def each_lane(body: str, *inputs: Any, out: Any, threads: int = 32, **options: Any) -> Array:
    """%d of each thread, from %a, %b, %c, %e: its elements of the inputs."""
    arrays = [np.ascontiguousarray(np.broadcast_to(np.asarray(values), (threads,))).copy() for values in inputs]
    result = np.zeros(threads, out)
    lines = ["mov.u32 %r60, %tid.x;"]
    declared = [f".reg .{kind_of(out)} %d;"]
    for name, array in zip("abce", arrays, strict=False):
        declared.append(f".reg .{kind_of(array.dtype)} %{name};")
        lines += [f"ld.param.u64 %x30, [in_{name}];", f"mul.wide.u32 %x31, %r60, {array.dtype.itemsize};"]
        lines += ["add.s64 %x30, %x30, %x31;", f"ld.global.{kind_of(array.dtype)} %{name}, [%x30];"]
    end = ["ld.param.u64 %x30, [out];", f"mul.wide.u32 %x31, %r60, {result.dtype.itemsize};"]
    end += ["add.s64 %x30, %x30, %x31;", f"st.global.{kind_of(out)} [%x30], %d;"]
    parameters = ", ".join(
        [*(f".param .u64 in_{name}" for name, _ in zip("abce", arrays, strict=False)), ".param .u64 out"]
    )
    text = kernel("\n".join([*declared, *lines, body, *end]), parameters)
    run(text, "test", grid=(1,), block=(threads,), arguments=[*arrays, result], **options)
    return result


def execute(body: str, *arguments: Any, names: str = "", outside: str = "", **options: Any) -> Emulated:
    """A kernel whose parameters are p0, p1 …: pointers, and 32-bit numbers."""
    kinds = ["u64" if isinstance(a, np.ndarray) else "u32" for a in arguments]
    parameters = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(kinds))
    options = {"grid": (1,), "block": (32,)} | options
    return run(kernel(body, parameters, outside), "test", arguments=list(arguments), names=names.split(), **options)
