"""Compiled kernels executed without a GPU: PTX interpreted on NumPy, checked at every access, counted.

```python
result = run(ptx, "split_kv", grid=(8, 2, 1), block=(128,), arguments=[q, k, v, out, np.int32(500)],
             names=["q", "k", "v", "out", "S"], initialised={"out": False}, schedule="greedy")
result.counts.loads["k"].bytes
```

What it does not see: the order in which memory becomes visible to other threads without a fence, time, and
denormals (kept, where `.ftz` would flush them; ex2 and its like flush).
"""

from kvperf.emulator.counts import Counts, Traffic
from kvperf.emulator.fault import Fault
from kvperf.emulator.formats import bf16_bits, bf16_values, e4m3_bits, e4m3_values, e5m2_bits, e5m2_values
from kvperf.emulator.launch import Emulated, run
from kvperf.emulator.schedule import NAMES as SCHEDULES

__all__ = [
    "SCHEDULES",
    "Counts",
    "Emulated",
    "Fault",
    "Traffic",
    "bf16_bits",
    "bf16_values",
    "e4m3_bits",
    "e4m3_values",
    "e5m2_bits",
    "e5m2_values",
    "run",
]
