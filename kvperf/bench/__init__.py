"""Measurements on a real GPU: harness, ceilings, attention, stages, steps, and the records they leave.

```python
from kvperf.bench import Work, measure

case = measure(my_kernel, q, k, v, out, work=Work(compulsory_bytes=k.nbytes + v.nbytes))
print(case.statistics.median_s, case.share_of_datasheet, case.verdict)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvperf.bench.function import measure as measure
    from kvperf.bench.record import Work as Work

__all__ = ["Work", "measure"]


def __getattr__(name: str) -> Any:
    if name == "measure":
        from kvperf.bench.function import measure

        return measure
    if name == "Work":
        from kvperf.bench.record import Work

        return Work
    raise AttributeError(f"module 'kvperf.bench' has no attribute '{name}'")
