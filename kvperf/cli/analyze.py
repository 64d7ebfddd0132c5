"""`kvperf analyze`: bound one generation step, stage by stage."""

import re
from typing import Annotated, Any, Literal

import typer

from kvperf.cli.options import Format, Output
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf analyze --gpu h100 --seq 4096
  kvperf analyze --gpu h200 --model llama-3.1-70b --batch 16 --kv-dtype fp8
  kvperf analyze --gpu l40s --model qwen3-8b --phase prefill --seq 8192
  kvperf analyze --gpu h100 --contexts 1024,4096,131072
  kvperf analyze --gpu h100 --explain attention
  kvperf analyze --heads 32 --kv-heads 32 --head-dim 128 --batch 4 --seq 4096
"""


def tokens(text: str) -> int:
    """`4096` or `4Ki`."""
    from kvperf import inputs

    return inputs.tokens(text)


def byte_count(text: str) -> int:
    """A size like `3.5 GiB`, the space optional; 0 needs no unit."""
    from kvperf.units import parse

    return 0 if text == "0" else int(parse(re.sub(r"^([\d.]+)\s*([A-Za-z]+)$", r"\1 \2", str(text)), "B"))


def option(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, show_default=False, case_sensitive=False, **more)


@app.command(epilog=EXAMPLES)
def analyze(
    gpu: Annotated[str, option("--gpu", "GPU: a name, an alias or a profile file. [default: h100]")] = "h100",
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
    tp: Annotated[int, option("--tp", "Tensor-parallel GPUs; figures are of one of them. [default: 1]")] = 1,
    heads: Annotated[int | None, option("--heads", "Attention alone: query heads, instead of a model.")] = None,
    kv_heads: Annotated[int | None, option("--kv-heads", "KV heads of attention alone. [default: --heads]")] = None,
    head_dim: Annotated[int | None, option("--head-dim", "Head size of attention alone. [default: 128]")] = None,
    memory_fraction: Annotated[
        float, option("--memory-fraction", "Share of the GPU's memory that is used. [default: 0.9]")
    ] = 0.9,
    reserve: Annotated[
        int,
        option("--reserve", "Memory for context, workspaces and graphs. [default: 3.5GiB]", parser=byte_count),
    ] = "3.5GiB",  # type: ignore[assignment]
    explain: Annotated[
        str | None,
        option("--explain", "Print a stage's formulas, symbols and source instead.", metavar="STAGE"),
    ] = None,
    ceilings: Annotated[bool, option("--ceilings", "Add a table of implementation ceilings for every stage.")] = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Bound one generation step on a GPU, stage by stage.

    Prints a floor no kernels can beat at this precision, what binds each stage, and what fits.
    Exit code 1: the step does not fit into the GPU's memory.
    """
    from kvperf import api
    from kvperf.cli import analysis_output as shown

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
    if explain is not None and ceilings:
        raise KvperfError("--explain and --ceilings print two different things", "leave one of them out")
    if explain is not None:
        shown.explanation(api.prepare(gpu, model, **step), explain, tp, format, output)
        return
    record = api.analyze(gpu, model, **step, tp=tp, memory_fraction=memory_fraction, reserve_bytes=reserve)
    shown.analysis(record, ceilings, format, output)
    if record.memory.fits is False:
        raise typer.Exit(1)
