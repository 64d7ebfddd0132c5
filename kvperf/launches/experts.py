"""The routed experts of one layer (a grouped matrix product and its helpers), as a stack launches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import ceil_div, choose, most
from kvperf.dtypes import dtype
from kvperf.launches.routing import Routing, routing

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

# The tables' names that are not a weight format of kvperf: weights, and what is multiplied.
FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "fp8_block": ("fp8-block", "fp8"),
    "int4_wo": ("int4", "bf16"),
    "w4a16_mxfp4": ("mxfp4", "bf16"),
    "w4a8_mxfp4_mxfp8": ("mxfp4", "fp8"),
}
TILE_COLUMNS = 128
PAD = {"mxfp4": 256.0}


class Experts(msgspec.Struct, frozen=True):
    """`tokens` tokens through `topk` of `experts` experts; this rank holds experts/moe_ep of them, each cut by moe_tp.

    hidden, inter  of the model: widths of the hidden state and of one expert
    dtype          a weight format of kvperf, or a name of FORMATS
    gated          True: gate, up and down matrix; False: up and down
    kernel         triton, grouped (fp8 blocks: DeepGEMM and TensorRT-LLM's own), cutlass, trtllm_gen
    distribution   of `routing`;  routed: the routing itself, where it was drawn before
    """

    tokens: Any
    hidden: Any
    inter: Any
    topk: Any
    experts: Any
    moe_tp: Any = 1
    moe_ep: Any = 1
    dtype: Any = "fp8_block"
    gated: Any = True
    kernel: Any = "triton"
    distribution: Any = "balanced"
    warm: bool = False
    routed: Routing | None = None

    @property
    def routing(self) -> Routing:
        """What the busiest rank gets; drawn once where it is given."""
        if self.routed is not None:
            return self.routed
        return routing(self.tokens, self.experts, self.topk, self.moe_ep, self.distribution)

    @property
    def products(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Columns and depth of the two grouped products of one expert on this rank."""
        inner = self.inter / self.moe_tp
        return (choose(self.gated, 2.0, 1.0) * inner, self.hidden), (self.hidden, inner)

    @property
    def padded_products(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """As trtllm_gen runs them: both widths padded with zeros to its tiles of 128, in mxfp4 to 256."""
        unit = choose(
            self.kernel == "trtllm_gen", by_name(self.dtype, lambda name: PAD.get(formats(name)[0], 128.0)), 1.0
        )
        hidden, inner = (ceil_div(width, unit) * unit for width in (self.hidden, self.inter / self.moe_tp))
        return (choose(self.gated, 2.0, 1.0) * inner, hidden), (hidden, inner)

    @property
    def weight_bytes_per_element(self) -> Any:
        return by_name(self.dtype, lambda name: dtype(formats(name)[0]).element_bytes)

    @property
    def multiplied_bytes_per_element(self) -> Any:
        """Of the rows: what the weights meet."""
        return by_name(self.dtype, lambda name: dtype(formats(name)[1]).element_bytes)

    @property
    def expert_elements(self) -> Any:
        """Weights of one expert on this rank."""
        (columns, depth), (hidden, inner) = self.products
        return columns * depth + hidden * inner

    def weight_bytes(self, routed: Routing) -> Any:
        """Each expert that gets rows, once."""
        return routed.active * self.expert_elements * self.weight_bytes_per_element

    def flops(self, routed: Routing) -> Any:
        return 2.0 * routed.rows * self.expert_elements


def formats(name: str) -> tuple[str, str]:
    """The format of the weights and the one that is multiplied: weights of 4 bits meet bf16, nvfp4 meets its own."""
    if name in FORMATS:
        return FORMATS[name]
    return name, name if name == "nvfp4" or dtype(name).bits >= 8 else "bf16"


def by_name(names: Any, value: Callable[[str], float]) -> Any:
    """The value of a name, or of every name of an array."""
    if isinstance(names, str):
        return value(names)
    import numpy as np

    names = np.asarray(names)
    if names.size and (names == names.flat[0]).all():
        return np.full(names.shape, value(str(names.flat[0])))
    found, index = np.unique(names, return_inverse=True)
    return np.array([value(str(name)) for name in found])[index]


def row_bytes(launch: Experts, routed: Routing) -> Any:
    """What the helpers move beside the weights. Of every row the first product's output (written, read), the
    activation's result (written, quantised, read), the second product's output (written, read by the sum). Triton and
    trtllm_gen gather inside the product; the others copy rows to their experts first and quantise the copies. Triton
    goes through the pairs of all ranks, the others through this rank's. trtllm_gen activates and quantises inside the
    first product, but for fp8 blocks."""
    (columns, _), (hidden, inner) = launch.products
    is_triton = launch.kernel == "triton"
    rows = choose(is_triton, launch.tokens * launch.topk, routed.rows)
    passes = choose(is_triton | (launch.kernel == "trtllm_gen"), 4.0, 11.0)
    between = choose(fused(launch), 2.0 * launch.multiplied_bytes_per_element * inner, 4.0 * columns + 6.0 * inner)
    return rows * (between + passes * hidden) + 6.0 * launch.tokens * hidden


def fused(launch: Experts) -> Any:
    """Whether the first product activates and quantises its own output."""
    return (launch.kernel == "trtllm_gen") & by_name(launch.dtype, lambda name: formats(name)[0] != "fp8-block")


def waves(columns: Any, routed: Routing, gpu: Gpu) -> Any:
    """Tiles that the busiest SM computes after its first."""
    return most(0.0, ceil_div(routed.tiles * ceil_div(columns, TILE_COLUMNS), gpu.sms) - 1)


def kernel_of(stack: str, architecture: str, name: str, moe_ep: Any = 1) -> Any:
    """What a stack runs for a format: the tables' `kernel_source`. vLLM on Hopper runs fp8 blocks through Triton on
    one rank and through TensorRT-LLM's kernel with expert parallelism."""
    name = name.replace("-", "_")
    blackwell = architecture in ("sm_100", "sm_103")
    if stack == "trtllm":
        return "grouped" if name == "fp8_block" else "trtllm_gen" if "mxfp4" in name and blackwell else "cutlass"
    if blackwell:
        return "trtllm_gen"
    if stack == "vllm" and name == "fp8_block":
        return choose(moe_ep > 1, "grouped", "triton")
    return "cutlass" if stack == "vllm" and name == "fp8" else "triton"
