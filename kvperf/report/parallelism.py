"""More GPUs: what one of them holds and takes at each tensor-parallel degree, with what it must send."""

from __future__ import annotations

from typing import Any

from kvperf.arith import most, total
from kvperf.errors import KvperfError
from kvperf.model.architecture import GroupedQuery, NoFfn, NoMixer
from kvperf.predict.step import COLLECTIVES
from kvperf.record import Analysis
from kvperf.report import predicted, splits
from kvperf.report.document import Block, Line, Section, Table, Text, line, row, text
from kvperf.report.references import cite
from kvperf.report.splits import rows_bytes
from kvperf.report.subject import Subject
from kvperf.report.values import bytes_per_s, count, held, moved, over, seconds, share, times, word

DEGREES = (1, 2, 4, 8)


def section(subject: Subject) -> Section:
    found = {degree: subject.tried(tp=degree) for degree in DEGREES}
    known = {degree: record for degree, record in found.items() if not isinstance(record, KvperfError)}
    blocks: list[Block] = [_tensor(subject, found), _heads(subject), _collectives(subject, known)]
    blocks += [_steps(subject, known), splits.table(subject)]
    return Section("parallelism", "More GPUs", tuple(blocks))


def _tensor(subject: Subject, found: dict[int, Analysis | KvperfError]) -> Table:
    per_token = subject.at(tp=1).memory.kv_bytes_per_token
    rows: list[tuple[Line, ...]] = []
    notes: list[Line] = []
    for degree, record in found.items():
        name = f"tp{degree}"
        if isinstance(record, KvperfError):
            notes.append(line("{}: {}.", word(f"{name}.refused", record.message), word(f"{name}.hint", record.hint)))
            continue
        kept = record.memory
        copies = degree * kept.kv_bytes_per_token / per_token if per_token else None
        fits = None if kept.fits is None else "yes" if kept.fits else "no"
        rows.append(
            row(
                count(f"{name}.gpus", degree),
                held(f"{name}.weights", kept.resident_weight_bytes),
                held(f"{name}.kv_per_token", kept.kv_bytes_per_token),
                times(f"{name}.kv_copies", copies),
                word(f"{name}.fits", fits),
                count(f"{name}.max_batch", kept.max_batch),
            )
        )
    return Table(
        "Tensor parallelism: one GPU's part",
        ("GPUs", "weights", "KV of a token", "copies of KV", "fits", "largest batch"),
        tuple(rows),
        notes=tuple(notes),
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


def _collectives(subject: Subject, known: dict[int, Analysis]) -> Table:
    """What must leave each GPU, and what a ring sends."""
    link = subject.gpu.link_bytes_per_s or subject.gpu.host_bytes_per_s
    rows = []
    for degree, record in known.items():
        if degree == 1:
            continue
        name, leaves, ring = f"link.tp{degree}", record.step.link_bytes, sent(subject, degree)
        rows.append(
            row(
                count(f"tp{degree}.gpus", degree),
                moved(f"{name}.leaves", leaves),
                seconds(f"{name}.leaves_s", over(leaves, link)),
                moved(f"{name}.sent", ring),
                seconds(f"{name}.s", over(ring, link)),
            )
        )
    kind = "links to the others" if subject.gpu.link_bytes_per_s else "host links" if link else None
    return Table(
        "What tensor parallelism sends",
        ("GPUs", "must leave each GPU", "at the peak of its links", "sent by each GPU of a ring", "at that peak"),
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
                "Must leave: each message once, as where the switch adds up, and of the logits only the best of each "
                "GPU; the bound holds no more. A ring sends its share of a message twice, and all logits."
            ),
        ),
    )


def _steps(subject: Subject, known: dict[int, Analysis]) -> Table:
    """The step of each degree: bound, a ring that nothing hides, predicted."""
    one, link = subject.at(tp=1).step, subject.gpu.link_bytes_per_s or subject.gpu.host_bytes_per_s
    rows = []
    for degree, record in known.items():
        step, name = record.step, f"link.tp{degree}"
        took = over(sent(subject, degree), link) if degree > 1 else 0.0
        own = most(step.resources.tensor_s, step.resources.hbm_s)
        after = None if took is None else own + took
        talking = _talking_s(record)
        rows.append(
            row(
                count(f"tp{degree}.gpus", degree),
                seconds(f"tp{degree}.bound_s", step.bound_s, 4),
                times(f"tp{degree}.speed_up", one.bound_s / step.bound_s),
                seconds(f"{name}.serial_s", after, 4),
                times(f"{name}.serial_speed_up", over(one.bound_s, after)),
                seconds(f"{name}.predicted_s", step.predicted_s, 4),
                times(f"{name}.predicted_speed_up", over(one.predicted_s, step.predicted_s)),
                seconds(f"{name}.collectives_s", talking),
                share(f"{name}.collectives_share", over(talking, step.predicted_s)),
            )
        )
    headers = ("GPUs", "bound", "speed-up", "then a ring", "speed-up", "predicted", "speed-up", "collectives", "share")
    return Table("The step with tensor parallelism", headers, tuple(rows), notes=_notes(subject, known))


def _notes(subject: Subject, known: dict[int, Analysis]) -> tuple[Line, ...]:
    notes = [
        line(
            "The bound is the busiest of a GPU's matrix units, memory and links. Then a ring: its own work, and the "
            "ring's bytes at the peak of the links after it, as an all-reduce is followed by what needs its result."
        )
    ]
    if not predicted.is_known(subject.analysis):
        return (*notes, line("There is {}.", word("predicted.why_not", predicted.why_not(subject.analysis))))
    labels = [s.calibration for r in known.values() for s in r.stages if s.name in COLLECTIVES and s.calibration]
    constants = ", ".join(dict.fromkeys(labels)) or None
    notes.append(
        line(
            "Predicted: {}; collectives run one after the other with the rest, latency included, and their share is of "
            "the predicted step. Their constants: {}.",
            word("predicted.stack", subject.analysis.workload.stack),
            word("link.constants", constants),
        )
    )
    return tuple(notes)


def _talking_s(record: Analysis) -> Any:
    """The predicted time of the collectives."""
    if not predicted.is_known(record):
        return None
    return total(stage.predicted_s or 0 for stage in record.stages if stage.name in COLLECTIVES) + 0.0


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
