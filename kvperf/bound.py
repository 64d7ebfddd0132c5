"""The bound: a floor on the time of a step for any kernels at its precision.

A step is every new token through every layer, logits for the last token of each request (for all when it
verifies). Three resources: tensor (matrix FLOPs over the dense peak of the fastest unit that the operand formats
allow), hbm (compulsory bytes over the HBM peak), link (bytes that must leave the GPU over the peak of
one direction). A stage takes at least the longest of its three; stages may overlap, so a step takes at
least the longest of the three sums. Source: Williams, Waterman and Patterson 2009 (Roofline,
doi:10.1145/1498765.1498785), in its time-based form (Wang et al. 2020, arXiv:2009.04598).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import Number, most, total

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.work import Work

RESOURCES = ("tensor", "hbm", "link")


class Resources(msgspec.Struct, frozen=True):
    """Seconds that each resource is busy at its peak."""

    tensor_s: Number
    hbm_s: Number
    link_s: Number

    @property
    def longest_s(self) -> Any:
        """The bound of a stage: its busiest resource."""
        return most(most(self.tensor_s, self.hbm_s), self.link_s)

    def binding(self) -> str:
        """The name of the busiest resource; where two are equally busy, memory before tensor before link."""
        seconds = {"hbm": self.hbm_s, "tensor": self.tensor_s, "link": self.link_s}
        return max(seconds, key=lambda name: seconds[name])


def resources(work: Work, gpu: Gpu) -> Resources:
    """Seconds of each resource at the peaks of the GPU's profile: of a stage, or of a step's total work."""
    return Resources(
        tensor_s=total(flops / gpu.peak(unit).flops_per_s for unit, flops in work.matrix_by_operand.items()) + 0.0,
        hbm_s=work.compulsory_bytes / gpu.hbm_bytes_per_s,
        link_s=_link_s(work, gpu),
    )


def _link_s(work: Work, gpu: Gpu) -> Any:
    """Bytes over each of its links at that link's rate: to GPUs of the node, to other nodes, over PCIe to the host.

    The links carry at the same time; without a GPU link, PCIe carries what it would. An absent link carries nothing.
    """
    between_gpus, host_bytes = gpu.link_bytes_per_s, work.host_bytes
    seconds: Any = 0.0
    if between_gpus:
        seconds = seconds + work.link_bytes / between_gpus
    else:
        host_bytes = host_bytes + work.link_bytes
    if gpu.host_bytes_per_s:
        seconds = most(seconds, host_bytes / gpu.host_bytes_per_s)
    if gpu.network_bytes_per_s:
        seconds = most(seconds, work.network_bytes / gpu.network_bytes_per_s)
    return seconds


def ridge_flops_per_byte(flops_per_s: float, bytes_per_s: float) -> float:
    """The arithmetic intensity at which a kernel stops being bound by memory: peak FLOP/s over peak byte/s."""
    return flops_per_s / bytes_per_s


def achievable_s(work: Work, gpu: Gpu) -> Any:
    """The stage's bound with the ceilings measured on this GPU; None where one it needs was not measured."""
    seconds: Any = 0.0
    for unit, flops in work.matrix_by_operand.items():
        measured = gpu.measured_peak(unit)
        if measured is None:
            return None
        seconds = seconds + flops / measured
    if gpu.measured_hbm_bytes_per_s is None or _leaves_the_gpu(work):
        return None
    return most(seconds, work.compulsory_bytes / gpu.measured_hbm_bytes_per_s)


def _leaves_the_gpu(work: Work) -> bool:
    """Whether the stage has link traffic at all: no link ceiling is measured yet."""
    return any(type(moved) is not int or moved != 0 for moved in (work.link_bytes, work.network_bytes, work.host_bytes))
