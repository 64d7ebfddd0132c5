"""More GPUs: what one of them holds and takes at each tensor-parallel degree, and with what it sends."""

from __future__ import annotations

from typing import Any

from kvperf.arith import most
from kvperf.errors import KvperfError
from kvperf.model.architecture import GroupedQuery, NoFfn, NoMixer
from kvperf.report import splits
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.references import cite
from kvperf.report.splits import rows_bytes
from kvperf.report.subject import Subject
from kvperf.report.values import bytes_per_s, count, held, moved, over, seconds, times, word

DEGREES = (1, 2, 4, 8)


def section(subject: Subject) -> Section:
    blocks: list[Block] = [_tensor(subject), _heads(subject), _collectives(subject), splits.table(subject)]
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
                word(f"{name}.fits", fits),
                count(f"{name}.max_batch", kept.max_batch),
            )
        )
    return Table(
        "Tensor parallelism: one GPU's part",
        ("GPUs", "weights", "KV of a token", "copies of KV", "bound", "fits", "largest batch"),
        tuple(rows),
        notes=(
            *notes,
            line("The bound is one GPU's own work, without what it sends."),
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
    """What each GPU sends, and the step with it: hidden behind the step's own work, or after it."""
    one, link = subject.at(tp=1).step.bound_s, subject.gpu.link_bytes_per_s or subject.gpu.host_bytes_per_s
    rows = []
    for degree in DEGREES[1:]:
        found = subject.tried(tp=degree)
        if isinstance(found, KvperfError):
            continue
        name, size, own = f"link.tp{degree}", sent(subject, degree), found.step.bound_s
        took = over(size, link)
        hidden, after = (None, None) if took is None else (most(own, took), own + took)
        rows.append(
            row(
                count(f"tp{degree}.gpus", degree),
                moved(f"{name}.sent", size),
                seconds(f"{name}.s", took),
                seconds(f"{name}.overlapped_s", hidden, 4),
                times(f"{name}.overlapped_speed_up", over(one, hidden)),
                seconds(f"{name}.serial_s", after, 4),
                times(f"{name}.serial_speed_up", over(one, after)),
            )
        )
    kind = "links to the others" if subject.gpu.link_bytes_per_s else "host links" if link else None
    return Table(
        "The step with what tensor parallelism sends",
        (
            "GPUs",
            "sent by each GPU",
            "at the peak of its links",
            "overlapped",
            "speed-up",
            "not overlapped",
            "speed-up",
        ),
        tuple(rows),
        notes=(
            line(
                "{} all-reduces a step: one of the embeddings, one after each mixer and each feed-forward network, of "
                "{} each; at the end the logits are gathered, {} together. A GPU's {} carry {} in one direction. "
                "{}",
                count("all_reduce.number", _all_reduces(subject)),
                moved("all_reduce.message", rows_bytes(subject)),
                moved("all_gather.logits", _logits(subject)),
                word("link.kind", kind),
                bytes_per_s("link.bandwidth", link),
                cite("nccl-tests"),
            ),
            line(
                "An all-reduce is followed by what needs its result: without a second batch in between little of it "
                "overlaps. Small messages take the latency of the links besides, which no profile here states."
            ),
        ),
    )


def sent(subject: Subject, degree: int) -> Any:
    """Bytes that one GPU of a ring sends in a step: all-reduces twice their message, the logits' gathering once."""
    part = (degree - 1) / degree
    return part * (2 * _all_reduces(subject) * rows_bytes(subject) + _logits(subject))


def _logits(subject: Subject) -> Any:
    return subject.workload.logit_rows * subject.model.vocab_size * subject.layout.first.activation.element_bytes


def _all_reduces(subject: Subject) -> int:
    number = 1  # the embedding's: each GPU has some rows of the vocabulary
    for layer in subject.model.layer_sequence():
        number += not isinstance(subject.model.mixers[layer.mixer], NoMixer)
        number += not isinstance(subject.model.ffns[layer.ffn], NoFfn)
    return number
