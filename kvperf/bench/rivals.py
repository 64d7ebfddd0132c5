"""Other people's kernels on the same buffers: PyTorch's SDPA backends, FlashInfer, and the user's own.

They run on the rig's stream, so that the gate holds them as it holds ours. They are not captured in graphs: their
allocators do not know of our capture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kvperf.bench.entrant import Entrant
from kvperf.bench.record import Work
from kvperf.bench.rig import Call, Rig
from kvperf.errors import KvperfError
from kvperf.kernel import reference
from kvperf.kernel.compile import compile_kernel
from kvperf.kernel.declared import value
from kvperf.kernel.geometry import Shape
from kvperf.kernel.verify import LIMIT, LIMIT_BF16_MATRIX

BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
MATH_BYTES = 1 << 30  # of K and V: beyond, its fp32 copies take more memory than they teach
BUFFERS = ("q", "k", "v", "out")  # of a user's CUDA kernel
LIBRARIES = ("torch", "flashinfer")


def library(rig: Rig, name: str, shape: Shape) -> list[Entrant]:
    """The kernels of a library on this shape; those that refuse it are left out. Raises KvperfError."""
    if name not in LIBRARIES:
        raise KvperfError(f"unknown library '{name}'", f"known: {', '.join(LIBRARIES)}")
    if importlib.util.find_spec(name) is None or importlib.util.find_spec("torch") is None:
        raise KvperfError(f"{name} is not installed", f"pip install {name}, or leave --against {name} out")
    return _torch(rig, shape) if name == "torch" else [_flashinfer(rig, shape)]


def _torch(rig: Rig, shape: Shape) -> list[Entrant]:
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention import SDPBackend, sdpa_kernel  # pyright: ignore[reportMissingImports]

    out, tensors = _prepared(rig, shape)
    target, found = out[1].transpose(1, 2), []
    kv_bytes = 4 * shape.batch * shape.kv_heads * shape.seq * shape.head_dim
    for backend in BACKENDS if kv_bytes <= MATH_BYTES else BACKENDS[:-1]:

        def attended(buffers: dict[str, Any], which: Any = getattr(SDPBackend, backend)) -> Callable[[], Any]:
            q, k, v = tensors(buffers)
            q = q.transpose(1, 2)

            def attend() -> Any:
                with sdpa_kernel(which):
                    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            return attend

        def checked(buffers: dict[str, Any], attended: Any = attended) -> Call:
            attend = attended(buffers)
            return lambda: target.copy_(attend())

        name = f"torch {backend.lower().removesuffix('_attention')}"
        found.append(_entrant(name, shape, attended, out[0], checked=checked))
    return found


def _flashinfer(rig: Rig, shape: Shape) -> Entrant:
    import torch  # pyright: ignore[reportMissingImports]
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper  # pyright: ignore[reportMissingImports]

    out, tensors = _prepared(rig, shape)
    space = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    wrapper = BatchDecodeWithPagedKVCacheWrapper(space, "HND")
    # One page for each sequence: the dense cache [B, K, S, D] as it lies.
    page = torch.arange(shape.batch + 1, dtype=torch.int32, device="cuda")
    last = torch.full((shape.batch,), shape.seq, dtype=torch.int32, device="cuda")
    half = torch.bfloat16 if shape.dtype == "bf16" else torch.float16
    sizes = (shape.heads, shape.kv_heads, shape.head_dim, shape.seq)
    wrapper.plan(page, page[:-1], last, *sizes, q_data_type=half, kv_data_type=half)

    target = out[1][:, 0]

    def call(buffers: dict[str, Any]) -> Call:
        q, k, v = tensors(buffers)
        return lambda: wrapper.run(q[:, 0], (k, v), out=target)

    return _entrant("flashinfer", shape, call, out[0])


def own(rig: Rig, given: str, shape: Shape) -> Entrant:
    """The user's kernel: FILE.py:function, or FILE.cu with FILE.yaml beside it. Raises KvperfError."""
    path, _, function = given.partition(":")
    if path.endswith(".cu"):
        return _own_cuda(rig, Path(path), shape)
    if not path.endswith(".py") or not function:
        raise KvperfError(f"'{given}' names no kernel", "write FILE.py:function, or FILE.cu with FILE.yaml beside it")
    return _own_python(rig, Path(path), function, shape)


def _own_python(rig: Rig, path: Path, name: str, shape: Shape) -> Entrant:
    """function(q, k, v, out) on arrays with DLPack; out [B, H, D] is written by it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise KvperfError(f"{path}: no such file", "give the path of a Python file")
    if shape.dtype == "bf16" and rig.emulated:
        raise KvperfError(f"{path.name}: NumPy has no bf16 to give it", "emulate it with --dtype fp16")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever is wrong with the user's file
        raise KvperfError(f"{path}: {type(problem).__name__}: {problem}", "it must import without errors") from None
    rig.adopt_torch()
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise KvperfError(f"{path} has no function '{name}'", f"define {name}(q, k, v, out) in it")
    out = _output(rig, shape)
    view = _bf16_views() if shape.dtype == "bf16" and not rig.emulated else lambda array: array

    def call(buffers: dict[str, Any]) -> Call:
        given = [view(x) for x in (buffers["q"][:, 0], buffers["k"], buffers["v"], out[:, 0])]
        return lambda: function(*given)

    return _entrant(f"{path}:{name}", shape, call, out, family="kernel")


class OwnLaunch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """FILE.yaml: how to launch FILE.cu. Grid, block, shared bytes, macros and scalars are formulas over the shape.

    arguments  q, k, v, out or a formula, in the order of the parameters; whole numbers are int32, others fp32
    """

    entry: str
    grid: list[str]
    block: list[str]
    arguments: list[str]
    shared_bytes: str = "0"
    defines: dict[str, str] = {}


def _own_cuda(rig: Rig, path: Path, shape: Shape) -> Entrant:
    from kvperf import yaml_file

    if not path.is_file():
        raise KvperfError(f"{path}: no such file", "give the path of a CUDA file")
    document = yaml_file.read(path.with_suffix(".yaml"))
    try:
        how = msgspec.convert(document.value, OwnLaunch)
    except msgspec.ValidationError as problem:
        hint = "it has entry, grid, block, arguments, shared_bytes, defines"
        raise KvperfError(f"{path.with_suffix('.yaml')}: {problem}", hint) from None
    symbols = {
        "B": shape.batch,
        "H": shape.heads,
        "K": shape.kv_heads,
        "G": shape.group,
        "D": shape.head_dim,
        "S": shape.seq,
        "scale": shape.head_dim**-0.5,
        "sms": rig.facts.sms,
    }

    def size(formula: Any) -> Any:
        try:
            return value(str(formula), symbols)
        except Exception as problem:
            hint = f"formulas are over {', '.join(symbols)}"
            raise KvperfError(f"{path.with_suffix('.yaml')}: '{formula}': {problem}", hint) from None

    compiled = compile_kernel(path, {name: size(f) for name, f in how.defines.items()}, rig.facts.capability)
    if how.entry not in compiled.entries:
        raise KvperfError(f"{path} has no kernel '{how.entry}'", f"it has {', '.join(compiled.entries) or 'none'}")
    out = _output(rig, shape)

    grid, block = [int(size(f)) for f in how.grid], [int(size(f)) for f in how.block]
    shared_bytes, names = int(size(how.shared_bytes)), [a for a in how.arguments if a in BUFFERS]
    scalars = {a: size(a) for a in how.arguments if a not in BUFFERS}

    def call(buffers: dict[str, Any]) -> Call:
        held = {name: buffers[name] for name in ("q", "k", "v")} | {"out": out} | scalars
        return rig.launch(compiled, how.entry, grid, block, [held[a] for a in how.arguments], shared_bytes, names)

    entrant = _entrant(str(path), shape, call, out, family="kernel")
    entrant.captures = True
    return entrant


def _entrant(
    name: str,
    shape: Shape,
    call: Callable[[dict[str, Any]], Call],
    out: Any,
    family: str = "attention",
    checked: Callable[[dict[str, Any]], Call] | None = None,
) -> Entrant:
    """Bytes and FLOPs that any kernel has on this shape; what it requests besides is not known."""
    rows = shape.batch * shape.heads * shape.q_len
    kv = 4 * shape.batch * shape.kv_heads * shape.seq * shape.head_dim
    work = Work(
        compulsory_bytes=kv + 4 * rows * shape.head_dim,
        kv_bytes=kv,
        operations={"flop": 4 * rows * shape.head_dim * shape.seq},
        operand=shape.dtype,
    )
    limit = LIMIT_BF16_MATRIX if shape.dtype == "bf16" else LIMIT
    return Entrant(
        name,
        "dense",
        call,
        out,
        shape.dtype,
        work,
        limit,
        captures=False,
        family=family,
        checked=checked,
        sizes={"kv_dtype": shape.dtype},
    )


def _output(rig: Rig, shape: Shape) -> Any:
    import numpy as np

    zeros = np.zeros((shape.batch, shape.q_len, shape.heads, shape.output_dim), np.float32)
    return rig.upload(reference.encode(zeros, shape.dtype))


def _bf16_views() -> Callable[[Any], Any]:
    """CuPy has no bf16: its bits travel as uint16, and PyTorch gives them their name."""
    if importlib.util.find_spec("torch") is None:
        raise KvperfError("bf16 arrays need PyTorch", "pip install torch, or measure with --dtype fp16")
    import torch  # pyright: ignore[reportMissingImports]

    return lambda array: torch.as_tensor(array.view("int16"), device="cuda").view(torch.bfloat16)


def _prepared(rig: Rig, shape: Shape) -> tuple[tuple[Any, Any], Callable[[dict[str, Any]], list[Any]]]:
    """((our output buffer, the same as a tensor), buffers → tensors q [B, Q, H, D], k and v [B, K, S, D])."""
    import torch  # pyright: ignore[reportMissingImports]

    rig.adopt_torch()
    view = _bf16_views() if shape.dtype == "bf16" else lambda array: torch.as_tensor(array, device="cuda")
    out = _output(rig, shape)
    return (out, view(out)), lambda buffers: [view(buffers[name]) for name in ("q", "k", "v")]
