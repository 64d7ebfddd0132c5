"""Compiled kernels executed without a GPU: PTX interpreted on NumPy, checked at every access, counted.

```python
result = run(ptx, "split_kv", grid=(8, 2, 1), block=(128,), arguments=[q, k, v, out, np.int32(500)],
             names=["q", "k", "v", "out", "S"], initialised={"out": False}, schedule="greedy")
result.counts.loads["k"].bytes
```

What it does not see: time, and the order in which memory becomes visible to other threads without a fence. Where a
`.sync` instruction brings the lanes of a warp together, it takes what they wrote before for visible to all of them: a
`__syncwarp()` missing in front of one goes unnoticed, and so does a missing proxy fence. Approximations (ex2, rcp …)
are closer than the hardware's, and matrix products sum in another order.
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
