"""Prefill attention of a model with a latent KV cache (MLA), as a stack launches it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kvperf.arith import ceil_div, most
from kvperf.launches.latent_attention import LATENT, ROTARY, ROW

Form = Literal["expanded", "absorbed"]
NOPE, VALUE = 128, 128  # numbers of an expanded key beside its rotary 64, and of an expanded value
KEY_BLOCK = 64


class LatentPrefill(msgspec.Struct, frozen=True):
    """Causal attention of `new_tokens` tokens of each of `batch` sequences, after `prefix` cached ones.

    heads  of this rank
    form   expanded: keys of 192 and values of 128 numbers for every head; absorbed: all heads on the latent rows
    """

    heads: Any
    batch: Any
    new_tokens: Any
    prefix: Any = 0
    form: Form = "expanded"
    warm: bool = False

    @property
    def dims(self) -> int:
        """Numbers of a key and of a value together."""
        return ROW + LATENT if self.form == "absorbed" else NOPE + ROTARY + VALUE

    @property
    def tile_rows(self) -> int:
        """Query rows of a tile: 128 tokens of one head; absorbed: 64 of all heads and tokens together."""
        return 64 if self.form == "absorbed" else 128

    @property
    def keys(self) -> Any:
        """Keys that the last token sees."""
        return self.prefix + self.new_tokens

    @property
    def flops(self) -> Any:
        """Both products over the visible keys, expanded: no form needs fewer."""
        visible = self.new_tokens * self.prefix + self.new_tokens * (self.new_tokens + 1) / 2
        return 2.0 * (NOPE + ROTARY + VALUE) * self.heads * self.batch * visible

    @property
    def bytes(self) -> Any:
        """bf16: queries in, outputs out, keys and values (absorbed: none but the latent rows), cache rows written."""
        width = ROW + LATENT if self.form == "absorbed" else NOPE + ROTARY + VALUE
        keys_width = 0 if self.form == "absorbed" else self.heads * (NOPE + ROTARY + VALUE)
        rows = 2.0 * self.batch * self.new_tokens * (self.heads * width + ROW)
        return rows + 2.0 * self.batch * self.keys * keys_width

    @property
    def tiles(self) -> Any:
        if self.form == "absorbed":
            return self.batch * ceil_div(self.heads * self.new_tokens, self.tile_rows)
        return self.batch * self.heads * ceil_div(self.new_tokens, self.tile_rows)

    @property
    def tile_keys(self) -> Any:
        """Keys a tile goes through on average: the prefix, then half of the new ones and the half-masked block."""
        if self.form == "absorbed":
            return self.prefix + most(KEY_BLOCK, (self.new_tokens + KEY_BLOCK) / 2)
        return self.prefix + self.tile_rows * (ceil_div(self.new_tokens, self.tile_rows) + 1) / 2


def form_of(stack: str, architecture: str) -> Form:
    """SGLang's prefill table on Hopper runs FA3 on the latent rows; the others expand keys and values."""
    return "absorbed" if stack == "sglang" and architecture == "sm_90" else "expanded"
