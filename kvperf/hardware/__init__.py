"""GPUs: their limits, rates, peaks, memories and links, each number with its source."""

from kvperf.hardware.architecture import Architecture
from kvperf.hardware.gpu import Gpu
from kvperf.hardware.levels import Level
from kvperf.hardware.loading import gpu_names, load_gpu
from kvperf.hardware.peaks import Peak

__all__ = ["Architecture", "Gpu", "Level", "Peak", "gpu_names", "load_gpu"]
