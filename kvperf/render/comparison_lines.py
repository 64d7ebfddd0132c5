"""The lines around the tables of a comparison: what is the same, and what the figures are of."""

from __future__ import annotations

from kvperf.comparison import DEGREES, Column, Comparison

# Facts of the step that change nothing unless they are said.
REMARKS = {
    "sequence_parallel": "sequence parallel",
    "overlap": "collectives beside the kernels",
}


def head(comparison: Comparison) -> list[str]:
    """What is the same in all columns."""
    lines = [" · ".join(_subject(comparison)), "; ".join(_layout(comparison)), _precision(comparison)]
    return [line for line in lines if line]


def _subject(comparison: Comparison) -> list[str]:
    same, varied = comparison.same, comparison.varied
    named = [str(same[name]) for name in ("gpu", "model") if same.get(name) is not None]
    if "gpu" in same and same.get("gpus", 1) != 1 and not {*DEGREES} & {*varied}:
        named[0] += f" × {same['gpus']}"
    if "heads" in same:
        named.append(
            f"one attention layer, {same['heads']} heads, {same['kv_heads']} KV heads, head_dim {same['head_dim']}"
        )
    batch = [] if "batch" in varied else [f"batch {_sequences(comparison)}"]
    return [*named, str(same["phase"]), *batch, *_tokens(comparison)]


def _sequences(comparison: Comparison) -> int:
    """Sequences beside the chunk of a mixed step."""
    batch = int(comparison.same["batch"] or 0)
    return batch - 1 if comparison.same["phase"] == "mixed" else batch


def _tokens(comparison: Comparison) -> list[str]:
    requests, chunk = list(comparison.requests), []
    if comparison.same["phase"] == "mixed":
        last = requests.pop()
        cached = last.context_tokens - last.new_tokens
        chunk = [f"and a chunk of {last.new_tokens}" + (f" after {cached}" if cached else "")]
    contexts = _span([r.context_tokens for r in requests])
    news = [r.new_tokens for r in requests]
    said = [f"context{'s' if '–' in contexts else ''} {contexts}"]
    return [*said, *([f"{_span(news)} new tokens"] if max(news) > 1 else []), *chunk]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def _layout(comparison: Comparison) -> list[str]:
    """Degrees that all columns have, beside those that they differ in."""
    same = comparison.same
    said = [f"{short} {same[name]}" for name, short in DEGREES.items() if (same.get(name) or 1) != 1]
    said += [words for name, words in REMARKS.items() if same.get(name)]
    if same.get("nodes") not in (None, 1):
        said.append(f"on {same['nodes']} nodes" + (f", {same['network']}" if same.get("network") else ""))
    if same.get("all_reduce") not in (None, "stack"):
        said.append(f"{same['all_reduce']} all-reduces")
    return said


def _precision(comparison: Comparison) -> str:
    """Formats and serving plan, as far as they are the same."""
    same = comparison.same
    attention = "heads" in same
    formats = {"activation_dtype": "activations", "kv_dtype": "KV"}
    formats = formats if attention else {"weight_dtype": "weights", **formats}
    said = [", ".join(f"{same[name]} {words}" for name, words in formats.items() if name in same)]
    if not attention:
        said.append(f"{same['fusion']} fusion, page {same['page_tokens']}, {same['sampling']}")
    if same.get("stack"):
        said.append(str(same["stack"]) + ("" if same["cuda_graphs"] else ", no CUDA graphs"))
    return "; ".join(part for part in said if part)


def notes(comparison: Comparison, mark: str = "*") -> list[str]:
    """The lines below the tables: what the marks and the figures mean, and what could not be compared."""
    columns = [column for column in comparison.columns if column.refused is None]
    refused = [(f"not possible: {c.refused}", c.label) for c in comparison.columns if c.refused is not None]
    lines = _grouped(refused)
    if any(column.best for column in columns):
        lines.append(f"{mark} best of {_contest(columns)}")
    if any((column.gpus or 1) > 1 for column in columns):
        lines.append("times and memory are of the busiest GPU, tokens/s over the batch of all GPUs")
    if any(column.predicted_s is not None for column in columns):
        lines.append("80 % low, high: the ends of the prediction's interval")
        lines += _predictions(columns)
    routing = comparison.same.get("routing", "uniform")  # not the same: some of the models have experts
    if routing:
        lines.append(f"expert weights are the expectation under {routing} routing")
    limits = sorted({c.model_context_tokens for c in columns if c.model_context_tokens and _beyond(c)})
    if limits and "heads" not in comparison.same:
        takes = " or ".join(str(limit) for limit in limits)
        lines.append(f"largest context: what memory has room for; the model takes {takes}, and more is no better")
    return lines


def _contest(columns: list[Column]) -> str:
    """The columns of which the marked figures are the best."""
    among = []
    if any(column.fits is False for column in columns):
        among.append("fits")
    if any(column.predicted_s is None for column in columns) and any(column.predicted_s for column in columns):
        among.append("is predicted")
    return f"what {' and '.join(among)}" if among else "all"


def _predictions(columns: list[Column]) -> list[str]:
    """On whose constants they rest, where those are another GPU's or stack's, and where there is none."""
    borrowed = [
        (f"constants BORROWED from {column.calibration.removesuffix(', borrowed')}", column.label)
        for column in columns
        if column.calibration and column.calibration.endswith(", borrowed")
    ]
    return _grouped([*borrowed, *(("no prediction", c.label) for c in columns if c.predicted_s is None)])


def _grouped(said: list[tuple[str, str]]) -> list[str]:
    """One line for each thing said, with the columns it is said of."""
    labels: dict[str, list[str]] = {}
    for words, label in said:
        labels.setdefault(words, []).append(label)
    return [f"{words}: {', '.join(of)}" for words, of in labels.items()]


def _beyond(column: Column) -> bool:
    limit, largest = column.model_context_tokens, column.max_context_tokens
    return column.fits is not None and limit is not None and (largest is None or largest > limit)
