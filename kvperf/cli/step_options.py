"""The options that describe a step on a GPU: every command that analyses one takes the same."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from kvperf.cli.layout_options import laid_out
from kvperf.cli.option import option


class StepAsked(NamedTuple):
    """What the user said.

    step    the keywords of `api.prepare` but GPU and model
    layout  those of `api.layout`: the degrees of every strategy
    kept    those of the analysis alone: the stack that is predicted, the memory that is used
    """

    gpu: str | None
    model: str | None
    step: dict[str, Any]
    layout: dict[str, Any]
    kept: dict[str, Any]

    @property
    def keywords(self) -> dict[str, Any]:
        """All of it, for `api.analyze`."""
        return {"gpu": self.gpu, "model": self.model} | self.step | self.layout | self.kept


def tokens(text: str) -> int:
    """`4096` or `4Ki`."""
    from kvperf import inputs

    return inputs.tokens(text)


def byte_count(text: str) -> int:
    """A size like `3.5 GiB`, the space optional; 0 needs no unit."""
    from kvperf.units import parse

    return 0 if text == "0" else int(parse(re.sub(r"^([\d.]+)\s*([A-Za-z]+)$", r"\1 \2", str(text)), "B"))


def asked(
    gpu: Annotated[str | None, option("--gpu", "GPU: a name, an alias or a profile file. [default: h100]")] = None,
    model: Annotated[
        str | None,
        option("--model", "Model: a name, a file, a config.json or a hub id. [default: llama-3.1-8b]"),
    ] = None,
    batch: Annotated[int | None, option("--batch", "Sequences of the step. [default: 1]")] = None,
    seq: Annotated[
        int | None,
        option("--seq", "Context of each sequence, new tokens included. [default: 4096]", parser=tokens),
    ] = None,
    phase: Annotated[
        Literal["decode", "prefill", "chunk", "mixed", "verify"],
        option("--phase", "What the step does. [default: decode]"),
    ] = "decode",
    new_tokens: Annotated[
        int | None,
        option(
            "--new-tokens",
            "New tokens of each sequence: of a chunk, or speculated tokens + 1.",
            parser=tokens,
        ),
    ] = None,
    contexts: Annotated[
        str | None, option("--contexts", "A ragged batch: 1024,4096,131072, or a file of such numbers.")
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        option("--chunk-tokens", "Add a prefill chunk of so many tokens to the decode batch.", parser=tokens),
    ] = None,
    chunk_cached: Annotated[
        int | None, option("--chunk-cached", "Tokens of that prompt already cached. [default: 0]", parser=tokens)
    ] = None,
    weight_dtype: Annotated[
        str | None,
        option(
            "--weight-dtype",
            "Dtype of the layers' matrices: fp32, bf16, fp16, fp8, fp8-block, mxfp8, int8, int4 (-g64, -g32, -awq), "
            "mxfp4 or nvfp4. [default: the checkpoint's]",
        ),
    ] = None,
    activation_dtype: Annotated[
        str | None,
        option("--activation-dtype", "Dtype of matrix inputs. [default: the checkpoint's]"),
    ] = None,
    kv_dtype: Annotated[str | None, option("--kv-dtype", "Dtype of the KV cache. [default: bf16 mostly]")] = None,
    page_tokens: Annotated[int, option("--page-tokens", "Tokens of one KV page. [default: 16]")] = 16,
    fusion: Annotated[
        Literal["eager", "serving", "megakernel"],
        option(
            "--fusion",
            "Which operations share a kernel: none, as serving engines do, or all. [default: serving]",
        ),
    ] = "serving",
    qkv_gemms: Annotated[int, option("--qkv-gemms", "Q, K and V as 1 product or 3. [default: 1]")] = 1,
    sampling: Annotated[
        Literal["argmax", "top-k", "top-p", "cpu"],
        option("--sampling", "How tokens are chosen. [default: argmax]"),
    ] = "argmax",
    heads: Annotated[int | None, option("--heads", "Attention alone: query heads, instead of a model.")] = None,
    kv_heads: Annotated[int | None, option("--kv-heads", "KV heads of attention alone. [default: --heads]")] = None,
    head_dim: Annotated[int | None, option("--head-dim", "Head size of attention alone. [default: 128]")] = None,
    stack: Annotated[
        Literal["sglang", "vllm", "trtllm", "kvperf", "none"],
        option("--stack", "Serving stack whose kernels are predicted; none: the bound alone. [default: vllm]"),
    ] = "vllm",
    cuda_graphs: Annotated[
        bool,
        option("--cuda-graphs/--no-cuda-graphs", "Whether the stack replays a graph of its launches. [default: yes]"),
    ] = True,
    memory_fraction: Annotated[
        float, option("--memory-fraction", "Share of the GPU's memory that is used. [default: 0.9]")
    ] = 0.9,
    reserve: Annotated[
        int,
        option("--reserve", "Memory for context, workspaces and graphs. [default: 3.5GiB]", parser=byte_count),
    ] = "3.5GiB",  # type: ignore[assignment]
) -> StepAsked:
    """The step that these options describe."""
    step: dict[str, Any] = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "batch": batch,
        "seq": seq,
        "phase": phase,
        "new_tokens": new_tokens,
        "chunk_tokens": chunk_tokens,
        "chunk_cached": chunk_cached,
        "weight_dtype": weight_dtype,
        "activation_dtype": activation_dtype,
        "kv_dtype": kv_dtype,
        "page_tokens": page_tokens,
        "fusion": fusion,
        "qkv_gemms": qkv_gemms,
        "sampling": sampling,
    }
    if contexts is not None:
        from kvperf.inputs import read_contexts

        step["contexts"] = read_contexts(contexts)
    kept = {
        "stack": stack,
        "cuda_graphs": cuda_graphs,
        "memory_fraction": memory_fraction,
        "reserve_bytes": reserve,
    }
    return StepAsked(gpu, model, step, {}, kept)


def takes_step(command: Callable[..., None]) -> Callable[..., None]:
    """A command of a step: it is called with StepAsked first, and has the options above before its own."""
    shared, spread = inspect.signature(asked).parameters, inspect.signature(laid_out).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def with_step(**values: Any) -> None:
        step = asked(**{name: values.pop(name) for name in shared})
        spreading = laid_out(**{name: values.pop(name) for name in spread})
        step.step.update({name: spreading.pop(name) for name in ("cluster", "network")})
        step.kept.update({name: spreading.pop(name) for name in ("all_reduce", "overlap")})
        command(step._replace(layout=spreading), **values)

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared.values(), *spread.values(), *own)]
    with_step.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_step.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_step
