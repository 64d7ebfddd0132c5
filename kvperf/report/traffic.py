"""Three passes against one: where scores travel, in decode and in prefill, and what an online softmax keeps."""

from __future__ import annotations

from kvperf.errors import KvperfError
from kvperf.report.document import Block, Section, Table, Text, line, row, text
from kvperf.report.kernels import Kernels
from kvperf.report.references import cite
from kvperf.report.subject import Subject
from kvperf.report.values import count, held, intensity, moved, seconds, share, times, word

BUFFERS = {"q": "queries", "k": "keys", "v": "values", "scores": "scores and weights", "out": "outputs"}


def section(subject: Subject, kernels: Kernels) -> Section:
    blocks: list[Block] = [_recurrence()]
    if subject.attention is None:
        blocks = [text(line("No layer of {} computes scores over cached tokens.", subject.model.name))]
    else:
        blocks += [_requests(kernels), _phases(subject), _verdict(subject), *_room(kernels)]
    return Section("traffic", "Three passes or one: the traffic of the scores", tuple(blocks))


def _recurrence() -> Text:
    """The online softmax, unnormalised until the end."""
    return Text(
        (
            line(
                "Three passes write all scores to memory, read them for the softmax, write weights, and read those. A "
                "flash-style kernel forgets each tile of scores once it is weighed: it keeps a maximum m, a sum l and "
                "an output O of each query. {} {}",
                cite("flash"),
                cite("online-softmax"),
            ),
            line(
                "For each tile: m′ = max(m, max S); a = exp(m − m′); l′ = a·l + Σ exp(S − m′); "
                "O′ = a·O + Σ exp(S − m′)·V."
            ),
            line("At the end: O ÷ l. K and V are read once by either design; only the scores' round trip goes away."),
        )
    )


def _requests(kernels: Kernels) -> Table | Text:
    """Bytes that the two kernels ask for in one decode step of one layer, by buffer."""
    asked = kernels.requests
    if not asked:
        return text(line("The three-pass kernel of this repository is not for this attention on this GPU."))
    rows = []
    for buffer, title in BUFFERS.items():
        cells = []
        for name, found in asked.items():
            size = found.loads.get(buffer, 0) + found.stores.get(buffer, 0)
            cells.append(moved(f"requests.{name}.{buffer}", size))
        rows.append(row(title, *cells))
    totals = []
    for name, found in asked.items():
        size = 0
        for part in (*found.loads.values(), *found.stores.values()):
            size += part
        totals.append(moved(f"requests.{name}.all", size))
    rows.append(row("together", *totals))
    return Table(
        "Bytes that threads ask for in one layer's decode attention",
        ("buffer", "three_pass", "flash"),
        tuple(rows),
        totals=1,
        notes=(
            line("Both read K and V for each query head here; that is a matter of sharing, not of the passes."),
            line(
                "The three-pass kernel keeps scores and weights in fp32; its softmax reads the scores more than once."
            ),
        ),
    )


def _phases(subject: Subject) -> Table:
    """Bytes at kernel borders of all attention layers, by phase: scores through memory, or not."""
    rows = []
    for phase, changes in (("decode", subject.decoding()), ("prefill", subject.prefilling())):
        name = f"scores.{phase}"
        three, one = (_attention(subject, fusion, **changes) for fusion in ("eager", "serving"))
        if three is None or one is None:
            rows.append(row(phase, *(word(f"{name}", None) for _ in range(6))))
            continue
        extra = three[0] - one[0]
        rate = subject.gpu.hbm_bytes_per_s
        rows.append(
            row(
                phase,
                moved(f"{name}.three_pass", three[0]),
                moved(f"{name}.flash", one[0]),
                times(f"{name}.ratio", three[0] / one[0]),
                share(f"{name}.share", extra / three[0]),
                seconds(f"{name}.saved_s", extra / rate),
                intensity(f"{name}.intensity", one[1] / one[0]),
            )
        )
    batch, context = subject.sequences
    return Table(
        "Bytes of all attention layers at the borders of kernels",
        (
            "phase",
            "three passes",
            "one pass, compulsory",
            "ratio",
            "scores' share",
            "bytes removed ÷ bandwidth",
            "intensity of one pass",
        ),
        tuple(rows),
        notes=(
            line(
                "{} sequences of {} tokens{}. Scores and weights are written and read once each in the dtype of the "
                "activations, and only for pairs that the causal mask leaves: three passes of the cheapest kind. {}",
                count("scores.batch", batch),
                count("scores.context", context),
                " at most" if subject.ragged else "",
                cite("formulas"),
            ),
            line(
                "One pass is what is compulsory at kernel borders: queries, K, V and outputs once each. Inside a "
                "prefill kernel every tile of queries reads K and V again, from the L2 while they fit: for N tokens, "
                "heads of d elements and M elements of shared memory Θ(N²d²/M). {}",
                cite("flash"),
            ),
        ),
    )


def _attention(subject: Subject, fusion: str, **changes: object) -> tuple[float, float] | None:
    """(bytes, matrix FLOP) of the attention stage."""
    found = subject.tried(fusion=fusion, **changes)
    if isinstance(found, KvperfError):
        return None
    stage = next((stage for stage in found.stages if stage.name == "attention"), None)
    return None if stage is None else (stage.hbm_bytes, stage.matrix_flops)


def _verdict(subject: Subject) -> Text:
    """How the scores compare with keys and values, and which side of the ridge prefill is on with and without them."""
    lines = [
        line(
            "A decode step reads every key and value once, whatever the kernel: its attention traffic grows with the "
            "context in both designs. What three passes add is a fixed share of that, larger where more query heads "
            "share a KV head. In prefill the scores grow with the square of the prompt, K and V do not."
        )
    ]
    three, one = (_attention(subject, fusion, **subject.prefilling()) for fusion in ("eager", "serving"))
    if three is not None and one is not None and subject.attention is not None:
        (operand,) = subject.attention.work.matrix_by_operand
        ridge = subject.gpu.peak(operand).flops_per_s / subject.gpu.hbm_bytes_per_s
        with_scores, without = three[1] / three[0], one[1] / one[0]
        lines.append(
            line(
                "At this length prefill attention has {} of matrix work a byte with three passes ({}), {} with one "
                "({}); the ridge is {}.",
                intensity("prefill.three_pass", with_scores),
                word("prefill.three_pass.side", _side(with_scores, ridge)),
                intensity("prefill.flash", without),
                word("prefill.flash.side", _side(without, ridge)),
                intensity("attention.ridge", ridge),
            )
        )
    return Text(tuple(lines))


def _side(found: float, ridge: float) -> str:
    return "bound by the matrix units" if found >= ridge else "bound by memory"


def _room(kernels: Kernels) -> list[Block]:
    """Shared memory with and without a row of scores."""
    old, new = kernels.accounts.get("cached_attention"), kernels.accounts.get("flash")
    if new is None:
        return []
    if old is None:
        return []
    return [
        text(
            line(
                "With the row of scores in shared memory a block takes {}, {} of them scores, and more for every "
                "token; with an online softmax it takes {} at any context.",
                held("kernel.cached_attention.shared", old.launches[0].shared_bytes),
                held("kernel.cached_attention.shared.scores", old.launches[0].shared["scores"]),
                held("kernel.flash.shared", new.launches[0].shared_bytes),
            )
        )
    ]
