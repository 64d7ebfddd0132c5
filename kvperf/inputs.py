"""From what a user says about a step to its workload: every mistake is caught here, before any formula."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from kvperf.dtypes import dtype
from kvperf.errors import KvperfError, unknown_name
from kvperf.launches.collective import Algorithm
from kvperf.model.architecture import GroupedQuery, Layer, Model, NoFfn, Run
from kvperf.predict.step import Options
from kvperf.workload import Fusion, Phase, Requests, Sampling, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

DEFAULT_GPU = "h100"
DEFAULT_MODEL = "llama-3.1-8b"
DEFAULT_SEQ = 4096
DEFAULT_STACK = "vllm"
STACKS = ("sglang", "vllm", "trtllm", "kvperf", "none")
LARGEST = 10**12  # keeps every product of sizes far inside float64


def step_workload(
    *,
    phase: Phase = "decode",
    batch: int | None = None,
    seq: int | None = None,
    new_tokens: int | None = None,
    contexts: Sequence[int] | None = None,
    chunk_tokens: int | None = None,
    chunk_cached: int | None = None,
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    kv_dtype: str | None = None,
    page_tokens: int = 16,
    fusion: Fusion = "serving",
    qkv_gemms: Literal[1, 3] = 1,
    sampling: Sampling = "argmax",
    scope: Literal["step", "attention"] = "step",
) -> Workload:
    """The workload of one step. Raises KvperfError for what no step can be."""
    for name, value, known in (
        ("phase", phase, get_args(Phase)),
        ("fusion", fusion, get_args(Fusion)),
        ("sampling", sampling, get_args(Sampling)),
    ):
        if value not in known:
            raise unknown_name(name, value, known)
    for name in (weight_dtype, activation_dtype, kv_dtype):
        if name is not None:
            dtype(name)
    if scope == "attention":
        _refuse_without_a_model(weight_dtype, qkv_gemms, sampling)
    _whole("batch", batch)
    _whole("seq", seq)
    _whole("new_tokens", new_tokens)
    _whole("chunk_tokens", chunk_tokens)
    _whole("chunk_cached", chunk_cached)
    _whole("page_tokens", page_tokens)
    if contexts is not None:
        if isinstance(contexts, str) or not contexts:
            raise KvperfError("contexts is not a list of numbers", "give one number of tokens for each sequence")
        if seq is not None:
            raise KvperfError(f"--seq {seq} beside --contexts", "leave --seq out: --contexts has one entry a sequence")
        for context in contexts:
            _whole("contexts", context)
    if page_tokens < 1:
        raise KvperfError(f"--page-tokens {page_tokens} is not a page size", "give 1 or more; engines use 16 to 128")
    if qkv_gemms not in (1, 3):
        raise KvperfError(
            f"--qkv-gemms {qkv_gemms} is neither 1 nor 3", "1 is one fused product, 3 is Q, K and V apart"
        )
    seq = DEFAULT_SEQ if seq is None else seq
    phase = _phase(phase, seq, contexts, new_tokens, chunk_tokens, chunk_cached)
    return Workload(
        phase=phase,
        requests=_requests(phase, batch, seq, new_tokens, contexts, chunk_tokens, chunk_cached or 0),
        weight_dtype=weight_dtype,
        activation_dtype=activation_dtype,
        kv_dtype=kv_dtype,
        page_tokens=page_tokens,
        fusion=fusion,
        qkv_gemms=qkv_gemms,
        sampling=sampling,
        logits="all" if phase == "verify" else "last",
        scope=scope,
    )


def stack_options(cuda_graphs: bool = True, all_reduce: str = "stack", overlap: bool = False) -> Options:
    """How the stack runs its launches. Raises KvperfError for an algorithm that nobody knows."""
    if all_reduce not in get_args(Algorithm):
        raise unknown_name("all-reduce algorithm", all_reduce, get_args(Algorithm))
    return Options(cuda_graphs, cast(Algorithm, all_reduce), overlap)


def check_switch(gpu: Gpu) -> None:
    """Refuse reduction in a switch that does not reduce. Raises KvperfError."""
    from kvperf.predict.collective import has_multicast

    if not has_multicast(gpu):
        raise KvperfError(f"--all-reduce nvls: no switch of {gpu.name} reduces", "Hopper's and Blackwell's NVSwitch do")


def check_stack(stack: str) -> None:
    """Refuse a serving stack that nobody knows. Raises KvperfError."""
    if stack not in STACKS:
        raise unknown_name("stack", stack, STACKS)


def attention_model(heads: int, kv_heads: int | None, head_dim: int) -> Model:
    """One attention layer without a model around it."""
    kv_heads = heads if kv_heads is None else kv_heads
    for option, value in (("--heads", heads), ("--kv-heads", kv_heads), ("--head-dim", head_dim)):
        if value < 1:
            raise KvperfError(f"{option} {value} is not a size", "give 1 or more")
    if heads % kv_heads:
        raise KvperfError(f"{heads} query heads cannot share {kv_heads} KV heads", "--kv-heads must divide --heads")
    return Model(
        schema_version="kvperf.model/1",
        name="attention",
        source=("--heads, --kv-heads, --head-dim",),
        hidden_size=heads * head_dim,
        vocab_size=1,
        max_context_tokens=1 << 40,
        tied_embeddings=True,
        mixers={"attention": GroupedQuery(heads=heads, kv_heads=kv_heads, head_dim=head_dim)},
        ffns={"none": NoFfn()},
        layers=(Run(1, (Layer("attention", "none", 0),)),),
    )


def read_contexts(text: str) -> list[int]:
    """`1024,4Ki,131072`, or the path of a file with such numbers, one context for each sequence."""
    if not text.strip():
        raise KvperfError("--contexts is empty", "give numbers like 1024,4096 or the path of a file with them")
    if re.fullmatch(r"[\d\sKMi,]+", text) or "," in text:
        return _numbers("--contexts", text)
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not text"
        raise KvperfError(
            f"--contexts {path}: {reason}", "give numbers like 1024,4096 or the path of a file with them"
        ) from None
    return _numbers(f"--contexts {path}", re.sub(r"#.*", "", content))


def tokens(text: str) -> int:
    """`4096` or `4Ki`; `4k` could mean either, so it is refused."""
    matched = re.fullmatch(r"(\d+)(Ki|Mi)?", str(text), re.ASCII)
    if matched is None:
        raise KvperfError(f"'{text}' is not a number of tokens", "write 4096 or 4Ki (4k could mean 4000 or 4096)")
    return int(matched.group(1)) * {None: 1, "Ki": 1 << 10, "Mi": 1 << 20}[matched.group(2)]


def _numbers(where: str, text: str) -> list[int]:
    words = re.sub(r"[,\[\]]", " ", text).split()
    for word in words:
        if re.fullmatch(r"\d+(Ki|Mi)?", word, re.ASCII) is None:
            raise KvperfError(
                f"{where}: '{word}' is not a whole number of tokens", "write whole numbers separated by commas or lines"
            )
    if not words:
        raise KvperfError(f"{where}: no numbers in it", "write whole numbers separated by commas or lines")
    return [tokens(word) for word in words]


def _whole(name: str, value: object) -> None:
    """Refuse what is not a whole number of things (from Python, where nothing has parsed it)."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise KvperfError(f"{name} {value!r} is not a whole number", "give an integer")
    if value is not None and value > LARGEST:
        raise KvperfError(f"{name} {str(value)[:12]}… is beyond any machine", f"give fewer than {LARGEST:,}")


def _refuse_without_a_model(weight_dtype: str | None, qkv_gemms: int, sampling: str) -> None:
    """Attention alone has no weights, no projections and no sampler."""
    for option, given in (
        ("--weight-dtype", weight_dtype is not None),
        ("--qkv-gemms", qkv_gemms != 1),
        ("--sampling", sampling != "argmax"),
    ):
        if given:
            raise KvperfError(f"{option} means nothing for attention alone", "leave it out, or give --model")


def _phase(
    phase: Phase,
    seq: int,
    contexts: Sequence[int] | None,
    new_tokens: int | None,
    chunk_tokens: int | None,
    chunk_cached: int | None,
) -> Phase:
    """The phase that the options describe: a chunk beside decode is mixed, part of a prompt is a chunk."""
    if chunk_cached is not None and chunk_tokens is None:
        raise KvperfError("--chunk-cached without --chunk-tokens", "say how many tokens the chunk has")
    if chunk_tokens is not None:
        if phase not in ("decode", "mixed"):
            raise KvperfError(
                f"--chunk-tokens does not go with --phase {phase}", "it adds a prefill chunk to a decode batch"
            )
        if new_tokens not in (None, 1):
            raise KvperfError(
                f"--new-tokens {new_tokens} beside --chunk-tokens",
                "decoding sequences have one each",
            )
        return "mixed"
    if phase == "mixed":
        raise KvperfError(
            "--phase mixed needs --chunk-tokens", "say how many prompt tokens run beside the decode batch"
        )
    if phase == "prefill" and new_tokens is not None and new_tokens < max(contexts or [seq]):
        return "chunk"
    if phase in ("chunk", "verify") and new_tokens is None:
        raise KvperfError(
            f"--phase {phase} needs --new-tokens",
            "say how many tokens of each sequence enter this step"
            if phase == "chunk"
            else "give speculated tokens + 1",
        )
    if phase == "decode" and new_tokens not in (None, 1):
        raise KvperfError(
            f"a decode step has one new token a sequence, not {new_tokens}",
            "--phase verify checks several speculated tokens, --phase chunk continues a prompt",
        )
    return phase


def _requests(
    phase: Phase,
    batch: int | None,
    seq: int,
    new_tokens: int | None,
    contexts: Sequence[int] | None,
    chunk_tokens: int | None,
    chunk_cached: int,
) -> tuple[Requests, ...]:
    if contexts is not None and batch not in (None, len(contexts)):
        raise KvperfError(
            f"--batch {batch} but {len(contexts)} contexts", "leave --batch out: --contexts has one entry a sequence"
        )
    sizes = list(contexts) if contexts is not None else [seq]
    count = 1 if contexts is not None else 1 if batch is None else batch
    if count < 1:
        raise KvperfError(f"--batch {count} is not a number of sequences", "give 1 or more")
    counted: dict[int, int] = {}
    for size in sizes:
        counted[size] = counted.get(size, 0) + count
    requests = [_request(number, size, _new(phase, size, new_tokens)) for size, number in counted.items()]
    if phase == "mixed":
        assert chunk_tokens is not None
        if chunk_cached < 0:
            raise KvperfError(f"--chunk-cached {chunk_cached} is not a number of tokens", "give 0 or more")
        requests.append(_request(1, chunk_cached + chunk_tokens, chunk_tokens))
    return tuple(requests)


def _new(phase: Phase, context: int, new_tokens: int | None) -> int:
    if phase in ("prefill", "chunk"):
        return context if new_tokens is None else new_tokens
    return new_tokens if phase == "verify" and new_tokens is not None else 1


def _request(count: int, context: int, new: int) -> Requests:
    if new < 1:
        raise KvperfError(f"{new} new tokens are no step", "give 1 or more")
    if context < 1:
        raise KvperfError(f"a context of {context} tokens is none", "--seq counts the new token: give 1 or more")
    if new > context:
        raise KvperfError(
            f"{new} new tokens don't fit a context of {context}", "--seq counts the new tokens too: give it larger"
        )
    return Requests(count, context, new)
