"""Number formats: what an element costs in bytes, scales included, and which unit can multiply it.

Source of the byte costs: bits/8 plus the scale (and zero-point) bytes of one group over the
elements that share it; the group sizes are those of the formats' own definitions (OCP MX v1.0 for
mxfp8/mxfp4, NVIDIA's NVFP4, DeepSeek-V3's 128×128 blocks, AWQ/GPTQ groups of 128).
"""

from typing import Any

import msgspec

from kvperf.errors import unknown_name


class DType(msgspec.Struct, frozen=True):
    """One number format.

    bits             bits of one element
    operand          the format a matrix unit multiplies
    group            elements that share one scale (0: no scale per group)
    scale_bytes      bytes of one group's scale and zero-point
    row_scale_bytes  bytes of the scale of one output channel (weights) or head vector (KV)
    """

    name: str
    bits: int
    operand: str
    group: int = 0
    scale_bytes: float = 0
    row_scale_bytes: int = 0

    @property
    def element_bytes(self) -> float:
        """Bytes of one element with its share of the group's scale; row scales are not in it."""
        size: float = self.bits // 8 if self.bits % 8 == 0 else self.bits / 8
        return size + self.scale_bytes / self.group if self.group else size


_ALL = (
    DType("fp32", 32, "fp32"),
    DType("bf16", 16, "bf16"),
    DType("fp16", 16, "fp16"),
    # One fp32 scale a tensor: 4 bytes among millions, left out.
    DType("fp8", 8, "fp8"),
    DType("fp8-block", 8, "fp8", group=128 * 128, scale_bytes=4),
    DType("mxfp8", 8, "fp8", group=32, scale_bytes=1),
    DType("int8", 8, "int8", row_scale_bytes=4),
    DType("int4", 4, "int4", group=128, scale_bytes=2),
    DType("int4-g64", 4, "int4", group=64, scale_bytes=2),
    DType("int4-g32", 4, "int4", group=32, scale_bytes=2),
    # AWQ and GPTQ with zero-points: an fp16 scale and a 4-bit zero for 128 elements.
    DType("int4-awq", 4, "int4", group=128, scale_bytes=2.5),
    DType("mxfp4", 4, "fp4", group=32, scale_bytes=1),
    DType("nvfp4", 4, "fp4", group=16, scale_bytes=1),
)
DTYPES = {dtype.name: dtype for dtype in _ALL}

# Formats that hold every value of the key exactly, narrowest first: a unit for them can multiply it.
WIDER = {
    "int4": ("int8", "fp8", "fp16", "bf16", "tf32", "fp32"),
    "fp4": ("fp6", "fp8", "fp16", "bf16", "tf32", "fp32"),
    "fp8": ("fp16", "bf16", "tf32", "fp32"),
    "int8": ("fp16", "bf16", "tf32", "fp32"),
    "bf16": ("tf32", "fp32"),
    "fp16": ("tf32", "fp32"),
    "tf32": ("fp32",),
    "fp32": (),
}


def dtype(name: str) -> DType:
    """The format called `name`. Raises KvperfError with the nearest name."""
    found = DTYPES.get(name.lower())
    if found is None:
        raise unknown_name("number format", name, DTYPES)
    return found


def matrix_bytes(weight: DType, inputs: Any, outputs: Any) -> Any:
    """Bytes of an [inputs × outputs] weight matrix with its scales."""
    return weight.element_bytes * inputs * outputs + weight.row_scale_bytes * outputs


def operand(first: DType, second: DType) -> str:
    """The operand format of a product: the narrowest that holds both factors exactly.

    A 16-bit factor makes a 16-bit product whatever the other one is stored in; fp8 times int8 needs 16 bits,
    int4 times fp4 fits fp8, and fp16 times bf16 needs the 10 mantissa and 8 exponent bits of tf32.
    """
    holding_second = (second.operand, *WIDER[second.operand])
    return next(name for name in (first.operand, *WIDER[first.operand]) if name in holding_second)
