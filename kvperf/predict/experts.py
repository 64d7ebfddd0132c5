"""The time of the routed experts of one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvperf.arith import choose, least, most
from kvperf.dtypes import dtype, operand
from kvperf.launches.experts import Experts, by_name, formats, row_bytes, waves
from kvperf.launches.routing import Routing
from kvperf.predict.family import Constant, Family
from kvperf.predict.joining import joined

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

SHARED = (
    Constant("launch_s", "start of the op: sort by expert, both products, activation, sum", 2e-5, 2e-6, 1e-4),
    Constant("hbm_efficiency", "share of the HBM peak that the weights stream at", 0.9, 0.3, 1.0),
    Constant("tensor_efficiency", "share of the dense matrix peak that padded tiles keep", 0.6, 0.03, 1.0),
    Constant("depth_s", "one element of depth of a product, gone through by one tile alone", 1e-9, 1e-12, 2e-8, 0.0),
    Constant("triton_depth_s", "the same in Triton's kernel", 2e-9, 1e-12, 2e-8, 0.0),
    Constant("wave_s", "start and end of a tile that follows another on its SM", 1.5e-6, 1e-9, 3e-5, 0.0),
    Constant("row_bytes_per_s", "rate of the helpers that gather, activate and sum rows", 2e12, 1e11, 1e14, 1e20),
    Constant("expert_s", "a held expert, busy or not, in the schedule of the grouped kernel", 2e-7, 1e-11, 2e-6, 0.0),
    Constant("sum_s", "Triton: the kernels that sum more than two experts by token", 4e-6, 1e-9, 3e-5, 0.0),
    Constant("sort_s", "what sorting many pairs of token and expert takes longer than few", 1e-5, 1e-9, 5e-5, 0.0),
)
# Kernels of other formats differ in some of these. A constant is looked up under its format's kind, then as plain (a
# format without fp8 blocks), then as shared: none of the first two needs to be given.
OWN = {
    "plain": ("launch_s", "hbm_efficiency", "tensor_efficiency", "depth_s", "wave_s", "row_bytes_per_s"),
    "nvfp4": ("launch_s", "wave_s"),
    "mxfp4": ("launch_s", "tensor_efficiency", "triton_depth_s"),
    "mxfp8": ("launch_s", "sort_s"),
}
MEANT = {
    "plain": "of formats without fp8 blocks",
    "nvfp4": "of nvfp4",
    "mxfp4": "of 4-bit weights that meet bf16",
    "mxfp8": "of mxfp4 that meets fp8",
}
CONSTANTS = SHARED + tuple(
    Constant(f"{kind}_{c.name}", f"{c.name} {MEANT[kind]}", c.start, c.low, c.high)
    for kind, names in OWN.items()
    for c in SHARED
    if c.name in names
)
ONE_SORT_TOKENS, ONE_SORT_EXPERTS = 256, 8
SORTED_PAIRS = 192.0  # above, the sort takes no longer: seen for 4 to 22 experts per token alike


def unused(stack: str, architecture: str) -> tuple[str, ...]:
    """Shared constants to hold at their neutral value: of kernels that the stack does not run there, so that 8 are
    left. SGLang on Blackwell runs Triton's sum only for shapes that kernel_of does not give to it."""
    blackwell = architecture in BLACKWELL
    if stack == "trtllm":
        return ("triton_depth_s", "sum_s", "depth_s") if blackwell else ("triton_depth_s", "sum_s", "sort_s")
    if stack == "vllm":
        return ("triton_depth_s", "expert_s", "sum_s") if blackwell else ("sum_s", "sort_s")
    return ("expert_s", "sum_s") if blackwell else ("expert_s", "depth_s", "sort_s")


BLACKWELL = ("sm_100", "sm_103")
FURTHER = {  # constants of formats after the first, per stack, off Blackwell and on it
    ("vllm", False): (
        "plain_launch_s", "plain_tensor_efficiency", "plain_row_bytes_per_s", "mxfp4_launch_s", "mxfp4_triton_depth_s",
    ),
    ("vllm", True): (
        "plain_launch_s", "plain_tensor_efficiency", "plain_depth_s", "plain_row_bytes_per_s",
        "mxfp4_launch_s", "mxfp4_tensor_efficiency",
    ),
    ("sglang", False): ("plain_launch_s", "plain_tensor_efficiency", "plain_wave_s", "nvfp4_launch_s", "nvfp4_wave_s"),
    ("sglang", True): (
        "plain_launch_s", "plain_tensor_efficiency",
    ),
    ("trtllm", False): (
        "plain_launch_s", "plain_tensor_efficiency", "plain_row_bytes_per_s",
        "mxfp4_launch_s", "mxfp4_tensor_efficiency",
    ),
    ("trtllm", True): (
        "plain_hbm_efficiency", "plain_tensor_efficiency", "nvfp4_launch_s", "mxfp8_launch_s", "mxfp8_sort_s",
    ),
}  # fmt: skip


def stages(stack: str, architecture: str, names: Sequence[str]) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Which formats are fitted together, in order, and the constants each such fit finds.

    The shared constants are the first format's (fp8 blocks, where they are measured); then all others together find
    what is plain and what is their own. Without fp8 blocks the shared constants are the plain ones.
    """
    further = FURTHER[stack, architecture in BLACKWELL]
    kinds = {kind_of(name) for name in names[1:]} | ({"plain"} if kind_of(names[0]) == "" else set())
    kinds -= {kind_of(names[0])}
    others = tuple(name for name in further if name.split("_")[0] in kinds)
    left_out = unused(stack, architecture)
    shared = tuple(c.name for c in SHARED if c.name not in left_out)
    first = ((names[0],), shared)
    return (first, (tuple(names[1:]), others)) if others and names[1:] else (first,)


def kind_of(name: str) -> str:
    """By what the kernel reads and multiplies; fp8 blocks are "": theirs are the shared constants."""
    weights, multiplied = formats(name)
    if weights == "fp8-block":
        return ""
    if weights == "nvfp4":
        return "nvfp4"
    if dtype(weights).bits > 4:
        return "plain"
    return "mxfp4" if multiplied == "bf16" else "mxfp8"


def price(launch: Experts, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """launch + sort + helpers + for both products: (HBM, tiles, tensor, joined by squares) + one tile's own depth."""
    routed = launch.routing
    is_triton = launch.kernel == "triton"
    held = launch.experts / launch.moe_ep
    total = own("launch_s", launch, constants) + row_bytes(launch, routed) / own("row_bytes_per_s", launch, constants)
    total = total + choose(launch.kernel == "grouped", held, 0.0) * constants["expert_s"]
    total = total + choose(is_triton & (launch.topk > 2), constants["sum_s"], 0.0)
    total = total + sorted_share(launch) * own("sort_s", launch, constants)
    depth_s = choose(is_triton, own("triton_depth_s", launch, constants), own("depth_s", launch, constants))
    for columns, depth in launch.padded_products:
        total = total + _streamed(launch, routed, gpu, constants, columns, depth) + depth * depth_s
    return total


def sorted_share(launch: Experts) -> Any:
    """How much of sort_s a launch takes. trtllm_gen's sort grows with the pairs. TensorRT-LLM's other kernels sort in
    one kernel up to 256 tokens and 8 experts each, above in three."""
    few = (launch.tokens <= ONE_SORT_TOKENS) & (launch.topk <= ONE_SORT_EXPERTS)
    pairs = least(1.0, launch.tokens * launch.topk / SORTED_PAIRS)
    is_triton = launch.kernel == "triton"
    return choose(launch.kernel == "trtllm_gen", pairs, choose(is_triton | few, 0.0, 1.0))


def own(name: str, launch: Experts, constants: Mapping[str, float]) -> Any:
    """A constant of the launch's format: of its kind, or plain, or shared."""

    def of(format_name: str) -> float:
        kind = kind_of(format_name)
        names = (f"{kind}_{name}", f"plain_{name}") if kind else ()
        return next((constants[n] for n in names if constants.get(n) is not None), constants[name])

    return by_name(launch.dtype, of)


def floor(launch: Experts, gpu: Gpu) -> Any:
    """Every expert that gets rows once at the HBM peak, FLOPs at the dense peak; a replayed call may find as much in
    L2 as that holds."""
    routed = launch.routing
    from_hbm = launch.weight_bytes(routed)
    if launch.warm:
        from_hbm = most(0.0, from_hbm - gpu.l2_capacity_bytes)
    return most(from_hbm / gpu.hbm_bytes_per_s, launch.flops(routed) / _peak(launch, gpu))


def _streamed(
    launch: Experts, routed: Routing, gpu: Gpu, constants: Mapping[str, float], columns: Any, depth: Any
) -> Any:
    weight_bytes = routed.active * columns * depth * launch.weight_bytes_per_element
    hbm_s = weight_bytes / (own("hbm_efficiency", launch, constants) * gpu.hbm_bytes_per_s)
    tiles_s = waves(columns, routed, gpu) * own("wave_s", launch, constants)
    padded = 2.0 * routed.tiles * routed.tile_rows * columns * depth
    tensor_s = padded / (own("tensor_efficiency", launch, constants) * _peak(launch, gpu))
    return joined(hbm_s, tiles_s, tensor_s)


def _peak(launch: Experts, gpu: Gpu) -> Any:
    def of(name: str) -> float:
        multiplied = dtype(formats(name)[1])
        return float(gpu.peak(operand(multiplied, multiplied)).flops_per_s)

    return by_name(launch.dtype, of)


EXPERTS = Family("experts", CONSTANTS, price, floor)
