"""Other ways to split a step than tensor parallelism: what each cuts and what crosses a link, at one degree."""

from __future__ import annotations

from typing import Any

from kvperf.arith import ceil_div, least
from kvperf.dtypes import DTYPES
from kvperf.model.architecture import Experts
from kvperf.report.document import Line, Table, line, row
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import count, moved, word

DEGREE = 8


def rows_bytes(subject: Subject) -> Any:
    """The new tokens of a step as rows of activations."""
    return subject.workload.tokens * subject.model.hidden_size * subject.layout.first.activation.element_bytes


def table(subject: Subject) -> Table:
    rows = [_pipeline(subject), *_context(subject), *_experts(subject)]
    rows.append(
        row(
            "data",
            line("whole sequences; all weights on every GPU"),
            line("nothing"),
            line("throughput, once a copy of the weights fits and latency is short enough"),
        )
    )
    return Table(
        "Other ways to split a step",
        ("split", "what one GPU has", "what crosses a link", "buys"),
        tuple(rows),
        notes=(line("Figures are for {} GPUs.", count("other.gpus", DEGREE)),),
    )


def _pipeline(subject: Subject) -> tuple[Line, ...]:
    layers = len(subject.model.layer_sequence())
    part = count("pipeline.layers", int(ceil_div(layers, DEGREE)))
    return row(
        "pipeline",
        line("{} of {} layers a GPU", part, count("layers", layers)),
        line("the rows of a step at each border: {}", moved("pipeline.message", rows_bytes(subject))),
        line("room, not latency: a token still passes all layers one after the other {}", cite("gpipe")),
    )


def _context(subject: Subject) -> list[tuple[Line, ...]]:
    """Either partial outputs go to the queries, or K and V go around the ring."""
    part = subject.attention
    if part is None:
        return []
    mixer: Any = part.shard.mixer
    outputs = getattr(mixer, "value_dim", getattr(mixer, "kv_lora_rank", getattr(mixer, "head_dim", 0)))
    partial = DTYPES["fp32"].element_bytes * subject.workload.tokens * mixer.heads * (outputs + 1)
    ring = (DEGREE - 1) / DEGREE * part.work.kv_read_bytes / part.layers
    chosen = "partial outputs travel" if partial <= ring else "K and V go around the ring"
    return [
        row(
            "context",
            line(
                "{} cached tokens of a sequence a GPU at most",
                count("context.tokens", int(ceil_div(subject.sequences[1], DEGREE))),
            ),
            line(
                "{}, {} in each attention layer; partial outputs and sums are {}, K and V {}",
                word("context.chosen", chosen),
                moved("context.message", least(partial, ring)),
                moved("context.partials", partial),
                moved("context.ring", ring),
            ),
            line("long contexts: every GPU reads its part of K and V, weights stay whole {}", cite("ring")),
        )
    ]


def _experts(subject: Subject) -> list[tuple[Line, ...]]:
    routed = next((ffn for ffn in subject.model.ffns.values() if isinstance(ffn, Experts)), None)
    if routed is None:
        return []
    others = (DEGREE - 1) * reached(routed.experts, routed.top_k, DEGREE)
    sent = others * rows_bytes(subject) / DEGREE
    return [
        row(
            "expert",
            line(
                "{} of {} experts a GPU",
                count("expert.experts", int(ceil_div(routed.experts, DEGREE))),
                count("experts", routed.experts),
            ),
            line(
                "each GPU's own rows, once to each other GPU with one of their experts ({} on average), and back: {} "
                "each way in each layer",
                count("expert.others", others),
                moved("expert.message", sent),
            ),
            line("the cache is not split by it; batches are, where attention runs data-parallel {}", cite("gshard")),
        )
    ]


def reached(experts: int, top_k: int, gpus: int) -> float:
    """The chance that one GPU has any of a token's experts, all choices of `top_k` being equally likely."""
    elsewhere, missed = experts - int(ceil_div(experts, gpus)), 1.0
    for drawn in range(top_k):
        missed *= max(0, elsewhere - drawn) / (experts - drawn)
    return 1 - missed
