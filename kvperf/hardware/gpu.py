"""One GPU ready to compute with: its profile joined with its architecture, everything in SI base units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvperf.errors import KvperfError
from kvperf.hardware import peaks
from kvperf.hardware.architecture import Architecture
from kvperf.hardware.levels import Level, levels
from kvperf.hardware.peaks import Peak
from kvperf.hardware.profile import Measured, Profile
from kvperf.hardware.reading import Reading

if TYPE_CHECKING:
    from kvperf.hardware.network import Network

# Experiments that stream device memory. A decode kernel or a GEMV that reads faster than the best copy shows
# that the roof is higher still. Writes alone are not among them: decode reads.
_STREAMS = (
    "read_bandwidth",
    "copy_bandwidth",
    "stream_bandwidth",
    "decode_attention_bandwidth",
    "gemv_bandwidth",
)
BRIDGED = 2  # GPUs that a bridge joins
_PRODUCTS = ("gemm", "gemm_sustained")


class Cluster(msgspec.Struct, frozen=True):
    """Nodes of `node_gpus` GPUs each, joined by `network`; None: as usual machines are, as many as a layout needs."""

    node_gpus: int | None = None
    nodes: int | None = None
    network: Network | None = None


class Gpu(msgspec.Struct, frozen=True):
    """A resolved GPU. Every figure that nobody knows is None.

    beside  GPUs of its node that a layout uses, itself included: more than a bridge joins talk over PCIe
    """

    profile: Profile
    architecture: Architecture
    path: Path
    cluster: Cluster = Cluster()
    beside: int = 1

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def title(self) -> str:
        return self.profile.title

    @property
    def vendor(self) -> str:
        return self.profile.vendor

    @property
    def sms(self) -> int | None:
        """Streaming multiprocessors; compute units on AMD."""
        return self.profile.sms.value if self.profile.sms else None

    def peak(self, operand: str) -> Peak:
        """The fastest dense unit that multiplies `operand` exactly and accumulates in fp32 (integers: int32) or wider.

        Raises KvperfError where the profile lists no such unit.
        """
        found = peaks.fastest(self.profile.peaks, operand)
        if found is None:
            raise KvperfError(
                f"{self.name} lists no unit that multiplies {operand} with fp32 accumulation",
                f"`kvperf gpus show {self.name}` lists its peaks",
            )
        return found

    def measured_peak(self, operand: str) -> float | None:
        """Best measured dense matrix FLOP/s of the unit that `peak` chooses for this operand.

        fp16 and bf16 run on one unit at one rate, so a reading of either stands for both where their peaks
        agree. A reading above the peak was taken at a higher clock than the profile's and does not count.
        """
        found = peaks.fastest(self.profile.peaks, operand)
        if found is None or not found.is_matrix:
            return None
        formats = {found.dtype}
        if found.dtype in ("fp16", "bf16"):
            formats |= {twin for twin in ("fp16", "bf16") if self._runs_at(twin, found.flops_per_s)}
        return self._best(_PRODUCTS, found.flops_per_s, formats)

    @property
    def hbm_bytes_per_s(self) -> float:
        return float(self.profile.memory.hbm.bandwidth.value)

    @property
    def hbm_capacity_bytes(self) -> int:
        """What the driver shows where that is known, else the nominal capacity."""
        hbm = self.profile.memory.hbm
        return int((hbm.visible or hbm.capacity).value)

    @property
    def measured_hbm_bytes_per_s(self) -> float | None:
        """Best measured read, copy, stream, decode attention or GEMV; not above the specified bandwidth."""
        return self._best(_STREAMS, self.hbm_bytes_per_s)

    @property
    def l2_capacity_bytes(self) -> int | None:
        l2 = self.profile.memory.l2
        return int(l2.capacity.value) if l2 else None

    @property
    def l2_bytes_per_s(self) -> float | None:
        l2 = self.profile.memory.l2
        return _value(l2.bandwidth) if l2 else None

    @property
    def link_bytes_per_s(self) -> float | None:
        """GPU to GPU, per direction: NVLink or Infinity Fabric, where it joins all that a layout uses."""
        link = self.profile.links.gpu
        if link is None or (self.link_gpus is not None and self.beside > self.link_gpus == BRIDGED):
            return None
        return float(link.per_direction.value)

    @property
    def network_bytes_per_s(self) -> float | None:
        """To other nodes, per direction, of the network that the layout's cluster has; a card's is behind its PCIe."""
        network, pcie = self.cluster.network, self.host_bytes_per_s
        if network is None:
            return None
        if self.profile.links.gpu is None and pcie is not None:
            return min(network.bytes_per_s, pcie)
        return network.bytes_per_s

    @property
    def network_latency_s(self) -> float | None:
        """Of a message of a few bytes to another node."""
        return self.cluster.network.latency_s if self.cluster.network else None

    @property
    def link_gpus(self) -> int | None:
        """GPUs that the GPU link joins, this one among them; None where there is no link or nobody says."""
        link = self.profile.links.gpu
        return link.gpus.value if link and link.gpus else None

    @property
    def node_gpus(self) -> int | None:
        """GPUs of one usual machine; None where nobody says."""
        return self.profile.node.gpus.value if self.profile.node else None

    @property
    def network(self) -> str | None:
        """Name of the network between usual machines, for `load_network`; None where nobody says."""
        network = self.profile.links.network
        return network.name if network else None

    @property
    def host_bytes_per_s(self) -> float | None:
        """PCIe, per direction."""
        link = self.profile.links.pcie
        return float(link.per_direction.value) if link else None

    @property
    def cuda_core_flops_per_s(self) -> float | None:
        """fp32 on the vector units; None where no source says (B100)."""
        for stated in self.profile.peaks:
            if stated.dtype == "fp32" and stated.path in ("cuda_core", "vector_alu"):
                return float(stated.value)
        return None

    @property
    def exponentials_per_s(self) -> float | None:
        """ex2 of the special-function units: rate per clock and SM × SMs × boost clock."""
        return self._per_s(_value(self.architecture.per_clock.exponentials))

    @property
    def conversions_per_s(self) -> float | None:
        """FP8 KV elements per second turned into scaled bf16 on the CUDA cores (PerClock.kv_dequantisations)."""
        return self._per_s(self.architecture.per_clock.kv_dequantisations)

    @property
    def graph_launch_s(self) -> float | None:
        return _value(self.profile.launch.graph_node)

    @property
    def stream_launch_s(self) -> float | None:
        return _value(self.profile.launch.stream)

    @property
    def mma_rows(self) -> int | None:
        """M of one tile of the fastest fp16 or bf16 path: query rows are padded to it."""
        found = [peaks.fastest(self.profile.peaks, operand) for operand in ("bf16", "fp16")]
        matrix = [peak for peak in found if peak and peak.is_matrix]
        if not matrix:
            return None
        path = max(matrix, key=lambda peak: peak.flops_per_s).path
        return next((mma.rows for mma in self.architecture.mma if mma.path == path), None)

    def levels(self) -> tuple[Level, ...]:
        """The memory hierarchy, closest to the SM first."""
        return levels(self.profile, self.architecture)

    def _per_s(self, per_clock: float | None) -> float | None:
        boost = self.profile.clocks.boost
        if per_clock is None or boost is None or self.sms is None:
            return None
        return per_clock * self.sms * float(boost.value)

    def _runs_at(self, dtype: str, flops_per_s: float) -> bool:
        return any(p.dtype == dtype and p.value == flops_per_s for p in self.profile.peaks)

    def _best(self, experiments: tuple[str, ...], roof: float, formats: set[str] | None = None) -> float | None:
        """The highest reading of these experiments on this very GPU that does not pass the roof."""
        values = [float(m.value) for m in self.profile.measured if _counts(m, experiments, formats) and m.value <= roof]
        return max(values, default=None)


def _counts(measured: Measured, experiments: tuple[str, ...], formats: set[str] | None) -> bool:
    mine = measured.what in experiments and measured.on is None
    mine = mine and measured.accumulator in (None, *peaks.WIDE_ACCUMULATORS)
    return mine and (formats is None or measured.dtype in formats)


def _value(reading: Reading | None) -> float | None:
    """The plain number of a reading, where there is one."""
    if reading is None:
        return None
    value = reading.value
    return value if isinstance(value, int) else float(value)
