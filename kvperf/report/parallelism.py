"""More GPUs: what one of them holds and takes at each tensor-parallel degree, and what other splits move."""

from __future__ import annotations

from typing import Any

from kvperf.arith import ceil_div
from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.model.architecture import Experts, GroupedQuery, NoFfn, NoMixer
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import bytes_per_s, count, held, moved, over, seconds, times, word

DEGREES = (1, 2, 4, 8)


def section(subject: Subject) -> Section:
    blocks: list[Block] = [_tensor(subject), _heads(subject), _collectives(subject), _others(subject)]
    return Section("parallelism", "More GPUs", tuple(blocks))


def _tensor(subject: Subject) -> Table:
    one = subject.at(tp=1)
    rows: list[tuple[Line, ...]] = []
    notes: list[Line] = []
    for degree in DEGREES:
        name = f"tp{degree}"
        found = subject.tried(tp=degree)
        if isinstance(found, KvperfError):
            notes.append(line("{}: {}.", word(f"{name}.refused", found.message), word(f"{name}.hint", found.hint)))
            continue
        kept, per_token = found.memory, one.memory.kv_bytes_per_token
        copies = degree * kept.kv_bytes_per_token / per_token if per_token else None
        fits = None if kept.fits is None else "yes" if kept.fits else "no"
        rows.append(
            row(
                count(f"{name}.gpus", degree),
                held(f"{name}.weights", kept.resident_weight_bytes),
                held(f"{name}.kv_per_token", kept.kv_bytes_per_token),
                times(f"{name}.kv_copies", copies),
                seconds(f"{name}.bound_s", found.step.bound_s, 4),
                times(f"{name}.speed_up", one.step.bound_s / found.step.bound_s),
                word(f"{name}.fits", fits),
                count(f"{name}.max_batch", kept.max_batch),
            )
        )
    return Table(
        "Tensor parallelism: one GPU's part",
        ("GPUs", "weights", "KV of a token", "copies of KV", "bound", "speed-up", "fits", "largest batch"),
        tuple(rows),
        notes=(
            *notes,
            line("The bound is one GPU's own work: collectives are not in it yet, so that the speed-up is a ceiling."),
        ),
    )


def _heads(subject: Subject) -> Text:
    """Where the KV cache stops shrinking."""
    part = subject.attention
    if part is None:
        return text(line("Without cached tokens there is nothing that heads could split; states are split by head."))
    mixer = subject.model.mixers
    heads = [m.kv_heads for m in mixer.values() if isinstance(m, GroupedQuery)]
    if not heads:
        return text(
            line(
                "The latent is one KV head for all query heads: tensor parallelism splits the queries and the weights, "
                "and every GPU keeps the whole cache. {}",
                cite("mla"),
            )
        )
    return text(
        line(
            "K and V are split by KV head, and attention needs no communication. Past {} GPUs a KV head is there more "
            "than once, and neither the cache nor its traffic shrinks further. {}",
            count("tp.kv_heads", min(heads)),
            cite("megatron"),
        )
    )


def _collectives(subject: Subject) -> Table:
    """All-reduces of a step: after each mixer and after each FFN, the rows of the step."""
    message, number, link = _message(subject), _all_reduces(subject), subject.gpu.link_bytes_per_s
    rows = []
    for degree in DEGREES[1:]:
        name, sent = f"all_reduce.{degree}", 2 * (degree - 1) / degree * message * number
        rows.append(
            row(count(f"tp{degree}.gpus", degree), moved(f"{name}.sent", sent), seconds(f"{name}.s", over(sent, link)))
        )
    return Table(
        "What tensor parallelism sends",
        ("GPUs", "sent by each GPU a step", "at the peak of its links"),
        tuple(rows),
        notes=(
            line(
                "{} all-reduces a step, one after each mixer and each feed-forward network, of {} each; a GPU's links "
                "carry {} in one direction. {}",
                count("all_reduce.number", number),
                moved("all_reduce.message", message),
                bytes_per_s("link.bandwidth", link),
                cite("nccl-tests"),
            ),
            line("Small messages take the latency of the links instead, which no profile here states."),
        ),
    )


def _message(subject: Subject) -> Any:
    return subject.workload.tokens * subject.model.hidden_size * subject.layout.first.activation.element_bytes


def _all_reduces(subject: Subject) -> int:
    number = 0
    for layer in subject.model.layer_sequence():
        number += not isinstance(subject.model.mixers[layer.mixer], NoMixer)
        number += not isinstance(subject.model.ffns[layer.ffn], NoFfn)
    return number


def _others(subject: Subject) -> Table:
    """The other ways to split, each with what it cuts and what crosses a link, at the largest degree."""
    most, model = DEGREES[-1], subject.model
    layers, message = len(model.layer_sequence()), _message(subject)
    context = subject.sequences[1]
    rows = [
        row(
            "pipeline",
            line(
                "{} of {} layers a GPU", count("pipeline.layers", int(ceil_div(layers, most))), count("layers", layers)
            ),
            line("the rows of a step at each border: {}", moved("pipeline.message", message)),
            line("room, not latency: a token still passes all layers one after the other {}", cite("gpipe")),
        )
    ]
    if subject.attention is not None:
        mixer: Any = subject.attention.shard.mixer
        outputs = getattr(mixer, "value_dim", getattr(mixer, "kv_lora_rank", getattr(mixer, "head_dim", 0)))
        partial = DTYPES["fp32"].element_bytes * subject.workload.tokens * mixer.heads * (outputs + 1)
        rows.append(
            row(
                "context",
                line("{} cached tokens of a sequence a GPU", count("context.tokens", int(ceil_div(context, most)))),
                line("partial outputs and sums of each attention layer: {}", moved("context.message", partial)),
                line("long contexts: every GPU reads its part of K and V, weights stay whole {}", cite("ring")),
            )
        )
    routed = next((ffn for ffn in model.ffns.values() if isinstance(ffn, Experts)), None)
    if routed is not None:
        sent = (most - 1) / most * routed.top_k * message
        rows.append(
            row(
                "expert",
                line(
                    "{} of {} experts a GPU",
                    count("expert.experts", int(ceil_div(routed.experts, most))),
                    count("experts", routed.experts),
                ),
                line("rows to their experts in each layer, and back: {} each way", moved("expert.message", sent)),
                line(
                    "the cache is not split by it; batches are, where attention runs data-parallel {}", cite("gshard")
                ),
            )
        )
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
        notes=(line("Figures are for {} GPUs.", count("other.gpus", most)),),
    )
