"""The layouts and formats that a search tries: what engineers would, in powers of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvperf.dtypes import dtype
from kvperf.errors import KvperfError
from kvperf.hardware.cluster import node_size
from kvperf.hardware.peaks import fastest
from kvperf.layout import DEGREES, Parallelism
from kvperf.model.architecture import Experts, Latent

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model

LONG_PROMPT_TOKENS = 32768  # from here on a prompt is worth sharing out (context parallelism)
AS_PUBLISHED = "checkpoint"


def layouts(gpu: Gpu, model: Model, most_gpus: int, prompt_tokens: int) -> Iterator[Parallelism]:
    """Degrees whose product is at most `most_gpus`.

    Tensor parallelism stays inside a node; attention data parallelism where it pays: for experts, which it lets share
    more tokens, and for latents, which tensor parallelism would copy; context parallelism for long prompts.
    """
    spreads = any(isinstance(ffn, Experts) for ffn in model.ffns.values())
    copies = spreads or any(isinstance(mixer, Latent) for mixer in model.mixers.values())
    for tp in _powers(min(most_gpus, node_size(gpu))):
        for pp in _powers(min(most_gpus // tp, len(model.layer_sequence()))):
            for cp in _powers(most_gpus // (tp * pp) if prompt_tokens >= LONG_PROMPT_TOKENS else 1):
                for dp in _powers(most_gpus // (tp * pp * cp) if copies else 1):
                    stage = tp * cp * dp
                    for ep in dict.fromkeys((1, stage) if spreads else (1,)):
                        yield Parallelism(tp=tp, pp=pp, cp=cp, ep=ep, attention_dp=dp)


def formats(gpu: Gpu, weight_dtypes: tuple[str, ...], kv_dtypes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Pairs of weight and cache formats to try: those asked for, else the checkpoint's and fp8 where a unit has it.

    Raises KvperfError for a format that nobody knows.
    """
    for name in {*weight_dtypes, *kv_dtypes} - {AS_PUBLISHED}:
        dtype(name)
    native = fastest(gpu.profile.peaks, "fp8")
    narrow = (AS_PUBLISHED, "fp8") if native and native.dtype == "fp8" else (AS_PUBLISHED,)
    for weight in weight_dtypes or narrow:
        for kv in kv_dtypes or narrow:
            yield weight, kv


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


def refusal(problem: KvperfError) -> str:
    """Why a layout is none, without its degrees: the same reason for all of them."""
    message = problem.message
    for word in ("query heads", "KV heads", "attention heads", "experts", "columns", "layers", "state-space heads"):
        if word in message:
            return f"does not divide the {word}"
    return "the links between nodes are unknown" if "joins" in message else message


LETTERS = {"tp": "TP", "cp": "CP", "attention_dp": "DP", "ep": "EP", "pp": "PP"}


def degrees(spread: Parallelism) -> dict[str, int]:
    """Those above 1."""
    return {name: degree for name in DEGREES if (degree := getattr(spread, name)) > 1}


def named(spread: Parallelism) -> str:
    """A layout in short: TP8, DP8 EP8, TP4 PP2."""
    return letters(degrees(spread))


def letters(found: dict[str, int]) -> str:
    """Degrees in short; TP1 where there are none above 1."""
    return " ".join(f"{LETTERS[name]}{found[name]}" for name in LETTERS if name in found) or "TP1"
