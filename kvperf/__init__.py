"""GPU roofline and performance model for LLM inference with a KV cache."""

from __future__ import annotations

__version__ = "0.1.0"
