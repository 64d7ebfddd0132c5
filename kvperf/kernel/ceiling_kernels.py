"""The ceiling kernels: what they measure, their launch geometry, and the work of one launch in closed form.

Bytes and operations per second of these kernels are what other kernels are measured against. All walk a grid that
stays: `per_sm` blocks on each SM. The sources are kernels/ceilings/*.cu.
"""

from __future__ import annotations

from typing import Any

from kvperf.kernel import declared
from kvperf.kernel.declared import FROM_89, Buffer, Declared


def launch(name: str, sms: int = 132, **sizes: int) -> declared.Launch:
    """The launch of a ceiling kernel at given sizes."""
    dtypes = CEILINGS[name].dtypes if name in CEILINGS else ()
    return declared.launch(CEILINGS, name, dtypes[0] if dtypes else None, sms, sizes)


def _with(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return base | changes


_ARRAY: dict[str, Any] = {
    "sizes": ("count",),
    "where": {"threads": "256", "in_flight": "4"},
    "macros": {"IN_FLIGHT": "in_flight"},
    "arguments": {"count": "count"},
    "measures": "bytes",
    "dtypes": (),
}
_LOOP: dict[str, Any] = {
    "sizes": ("repeats",),
    "where": {
        "threads": "256",
        "chains": "8",
        "loop_steps": "16",
        "done": "per_sm*sms*threads*repeats*chains*loop_steps",
    },
    "macros": {"CHAINS": "chains", "STEPS": "loop_steps"},
    "arguments": {"repeats": "repeats"},
    "dtypes": (),
}
_MMA: dict[str, Any] = {
    "file": "ceilings/mma_sync.cu",
    "entry": "mma_sync",
    "sizes": ("repeats",),
    "where": {"threads": "256", "sums": "8", "products": "per_sm*sms*threads//32*repeats*sums"},
    "macros": {"ACCUMULATORS": "sums"},
    "arguments": {"repeats": "repeats"},
    "loads": (Buffer("fragments", "(16 + 8*sums)*per_sm*sms*threads"),),
    "measures": "flop",
}
_MMA_16 = {"mma": "products", "flop": "products * 2*16*8*16"}
_MMA_8 = {"mma": "products", "flop": "products * 2*16*8*32"}

_TABLE = (
    Declared(
        **_ARRAY,
        name="read",
        file="ceilings/read.cu",
        what="read device memory: 16-byte loads, 4 in flight a thread",
        loads=(Buffer("data", "16*count"),),
    ),
    Declared(
        **_ARRAY,
        name="write",
        file="ceilings/write.cu",
        what="write device memory: 16-byte stores",
        stores=(Buffer("data", "16*count"),),
    ),
    Declared(
        **_ARRAY,
        name="copy",
        file="ceilings/copy.cu",
        what="copy in device memory",
        loads=(Buffer("from", "16*count"),),
        stores=(Buffer("to", "16*count"),),
    ),
    Declared(
        **_ARRAY,
        name="scale",
        file="ceilings/scale.cu",
        what="to = factor * from in fp32",
        loads=(Buffer("from", "16*count"),),
        stores=(Buffer("to", "16*count"),),
        operations={"flop": "4*count"},
    ),
    Declared(
        **_ARRAY,
        name="triad",
        file="ceilings/triad.cu",
        what="to = first + factor * second in fp32",
        loads=(Buffer("first", "16*count"), Buffer("second", "16*count")),
        stores=(Buffer("to", "16*count"),),
        operations={"fma": "4*count", "flop": "8*count"},
    ),
    Declared(
        **_with(_ARRAY, sizes=("count", "passes"), arguments={"count": "count", "passes": "passes"}),
        name="l2_read",
        file="ceilings/l2_read.cu",
        what="read L2: every block walks over a set that fits it, past L1",
        loads=(Buffer("data", "16*count*passes*per_sm*sms"),),
    ),
    Declared(
        **_with(_ARRAY, sizes=("repeats",), arguments={"repeats": "repeats"}, measures="shared_bytes"),
        name="shared_bandwidth",
        file="ceilings/shared_bandwidth.cu",
        what="read shared memory: 16-byte loads without bank conflicts",
        operations={"shared_bytes": "16*per_sm*sms*threads*in_flight*repeats"},
    ),
    Declared(
        **_LOOP,
        name="fma_fp32",
        file="ceilings/fma_fp32.cu",
        what="fp32 multiply-adds, 8 independent chains a thread",
        operations={"fma": "done", "flop": "2*done"},
        measures="flop",
    ),
    *(
        Declared(
            **_with(_LOOP, dtypes=(dtype,)),
            name=f"fma_{dtype}",
            entry="fma_fp16",
            file="ceilings/fma_fp16.cu",
            what=f"packed {dtype} multiply-adds, 8 independent chains a thread",
            operations={"fma": "2*done", "flop": "4*done"},
            measures="flop",
        )
        for dtype in ("fp16", "bf16")
    ),
    *(
        Declared(
            **_MMA,
            name=f"mma_sync_{dtype}",
            what=f"mma.sync on {dtype}, sums in fp32, 8 a warp",
            dtypes=(dtype,),
            operations=_MMA_16,
        )
        for dtype in ("fp16", "bf16")
    ),
    Declared(
        **_with(_MMA, macros={"ACCUMULATORS": "sums", "OPERAND_INT8": "1"}),
        name="mma_sync_int8",
        what="mma.sync on int8, sums in int32, 8 a warp",
        dtypes=("int8",),
        operations=_MMA_8,
    ),
    Declared(
        **_with(_MMA, macros={"ACCUMULATORS": "sums", "OPERAND_E4M3": "1"}),
        name="mma_sync_e4m3",
        what="mma.sync on e4m3, sums in fp32, 8 a warp; sm_90 and sm_100 lack the instruction",
        dtypes=("e4m3",),
        operations=_MMA_8,
        runs=("89", "120"),
    ),
    Declared(
        name="wgmma",
        file="ceilings/wgmma.cu",
        what="wgmma on bf16, operands in shared memory, 64 x 256 sums a warpgroup in fp32",
        sizes=("repeats",),
        where={"per_sm": "1", "threads": "256", "tile_n": "256", "turns": "4", "groups": "per_sm*sms*threads//128"},
        macros={"TILE_N": "tile_n", "TURNS": "turns"},
        arguments={"repeats": "repeats"},
        shared_bytes="128 * (64*threads//128 + tile_n)",
        operations={"wgmma": "groups*repeats*turns*4", "flop": "groups*repeats*turns * 2*64*64*tile_n"},
        measures="flop",
        dtypes=("bf16",),
        runs=("90a",),
    ),
    Declared(
        **_LOOP,
        name="exp2",
        entry="exponentials",
        file="ceilings/exp2.cu",
        what="2^x on the special function units, 8 independent chains a thread",
        operations={"exp2": "done"},
        measures="exp2",
    ),
    Declared(
        **_with(_LOOP, dtypes=("e4m3",)),
        name="dequantise_e4m3",
        entry="dequantise",
        file="ceilings/dequantise.cu",
        what="e4m3 to scaled bf16, by way of halves and floats",
        operations={"conversion": "4*done"},
        measures="conversion",
        runs=FROM_89,
    ),
    Declared(
        **_with(_LOOP, dtypes=("int8",), macros={"CHAINS": "chains", "STEPS": "loop_steps", "OPERAND_INT8": "1"}),
        name="dequantise_int8",
        entry="dequantise",
        file="ceilings/dequantise.cu",
        what="int8 to scaled bf16, by way of floats near 2^23",
        operations={"conversion": "4*done"},
        measures="conversion",
    ),
    Declared(
        name="link",
        file="ceilings/pointer_chase.cu",
        what="turn a random cycle of places into a chain of addresses, for chase",
        sizes=("count", "stride"),
        where={"threads": "256"},
        arguments={"count": "count", "stride": "stride"},
        grid=("ceil_div(count, threads)",),
        loads=(Buffer("next", "4*count"),),
        stores=(Buffer("chain", "8*count"),),
        dtypes=(),
    ),
    Declared(
        name="chase",
        file="ceilings/pointer_chase.cu",
        what="follow a chain of addresses with one thread: clocks of a load",
        sizes=("steps",),
        where={"threads": "1"},
        arguments={"steps": "steps"},
        grid=("1",),
        loads=(Buffer("chain", "8*steps"),),
        stores=(Buffer("clocks", "16"),),
        measures="steps",
        operations={"steps": "steps"},
        dtypes=(),
    ),
    Declared(
        name="empty",
        file="ceilings/empty.cu",
        what="nothing: the cost of a launch",
        sizes=(),
        where={"threads": "32"},
        grid=("1",),
        operations={"launches": "1"},
        measures="launches",
        dtypes=(),
    ),
)
CEILINGS = {kernel.name: kernel for kernel in _TABLE}
