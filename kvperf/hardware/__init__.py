"""GPUs: their limits, rates, peaks, memories, links and networks, each number with its source."""

from kvperf.hardware.architecture import Architecture
from kvperf.hardware.gpu import Gpu
from kvperf.hardware.levels import Level
from kvperf.hardware.loading import gpu_names, load_gpu
from kvperf.hardware.network import Network, load_network, network_names
from kvperf.hardware.peaks import Peak

__all__ = ["Architecture", "Gpu", "Level", "Network", "Peak", "gpu_names", "load_gpu", "load_network", "network_names"]
