"""How many elements of a head are rotated. Where and how fast they turn is no business of a performance model."""

from __future__ import annotations

from typing import Any

from kvperf.model.hub.keys import Keys, Table, words

_INERT = words(
    "rope_type type rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings beta_fast "
    "beta_slow mscale mscale_all_dim attention_factor short_factor long_factor truncate mrope_section "
    "mrope_interleaved"
)
ROPE = Table(frozenset(), {"partial_rotary_factor": 1.0}, {}, _INERT)
PARTIAL_ROPE = Table(frozenset({"partial_rotary_factor"}), {}, {}, _INERT)
# Optional keys of a family that rotates whole heads, or a fraction some configs state.
ROPE_KEYS: dict[str, Any] = {"partial_rotary_factor": 1.0, "rope_parameters": None}


def rotary_dim(keys: Keys, head_dim: int) -> int:
    """Rotated elements of a head: head_dim × partial_rotary_factor, from the config or its rope_parameters."""
    fraction = keys.fraction("partial_rotary_factor")
    if keys.given("rope_parameters"):
        inner = keys.section("rope_parameters", ROPE)
        if "partial_rotary_factor" in inner.present:
            fraction = inner.fraction("partial_rotary_factor")
    return int(head_dim * fraction)
