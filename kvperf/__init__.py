"""GPU roofline and performance model for LLM inference with a KV cache.

`kvperf.analyze(gpu="h100", model="llama-3.1-8b", batch=16, seq=4096)` returns the record that
`kvperf analyze --format json` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kvperf.api import analyze as analyze
    from kvperf.api import gpus as gpus
    from kvperf.api import models as models
    from kvperf.api import to_json as to_json
    from kvperf.errors import KvperfError as KvperfError

__all__ = ["KvperfError", "__version__", "analyze", "gpus", "models", "to_json"]


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used: `import kvperf` costs nothing."""
    if name in ("analyze", "gpus", "models", "to_json"):
        from kvperf import api

        return getattr(api, name)
    if name == "KvperfError":
        from kvperf.errors import KvperfError

        return KvperfError
    raise AttributeError(f"module 'kvperf' has no attribute '{name}'")
