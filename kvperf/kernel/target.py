"""Which GPUs the kernels are for: what they are compiled for, and what NVRTC can compile here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvperf.errors import KvperfError
from kvperf.kernel import toolkit
from kvperf.kernel.compile import ARCHITECTURES

if TYPE_CHECKING:
    from kvperf.hardware import Gpu


def capability(gpu: Gpu) -> str:
    """The compute capability as NVRTC spells it: 90 for sm_90. Raises KvperfError where kernels have no such target."""
    check(gpu)
    found = name(gpu)
    if found not in ARCHITECTURES:
        raise _not_compiled(gpu)
    return found


def check(gpu: Gpu) -> None:
    """Raises KvperfError for other vendors' GPUs, and for NVIDIA's from before cp.async and bf16."""
    if gpu.vendor != "nvidia":
        raise KvperfError(f"the kernels are CUDA: {gpu.name} does not run them", "give an NVIDIA GPU, like h100")
    if int(name(gpu).rstrip("af")) < int(ARCHITECTURES[0]):
        raise _not_compiled(gpu)


def name(gpu: Gpu) -> str:
    return gpu.architecture.name.removeprefix("sm_")


def obstacle(gpu: Gpu) -> str | None:
    """Why nothing can be compiled for this GPU here; None where it can."""
    if name(gpu) not in ARCHITECTURES:
        return f"the kernels are not compiled for {gpu.architecture.name}"
    try:
        toolkit.nvrtc()
    except KvperfError:
        return "NVRTC is not installed: pip install kvperf[kernels]"
    return None


def _not_compiled(gpu: Gpu) -> KvperfError:
    known = ", ".join(f"sm_{arch}" for arch in ARCHITECTURES)
    return KvperfError(
        f"the kernels are not compiled for {gpu.name} ({gpu.architecture.name})", f"they are for {known}"
    )
