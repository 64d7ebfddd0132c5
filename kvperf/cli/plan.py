"""`kvperf plan`: which layout, batch and formats serve a load within its targets."""

import re
from typing import Annotated, Literal

import typer

from kvperf.cli.option import option
from kvperf.cli.options import Format, Output
from kvperf.cli.step_options import byte_count, tokens
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf plan --model llama-3.1-70b --ttft 500ms --tpot 20ms
  kvperf plan --gpu h100,l40s --tpot 30ms --rps 10 --price 2.5,0.9
  kvperf plan --model deepseek-v3 --gpu h200 --max-gpus 32 --stack sglang
  kvperf plan --model qwen3-32b --kv-dtype checkpoint --strategies
"""


def duration(text: str) -> float:
    """`500ms` or `2 s`, in seconds."""
    from kvperf.units import parse

    if re.fullmatch(r"[\d.]+", str(text)):
        raise KvperfError(f"'{text}' is no time: it has no unit", "write 20ms or 0.5s")
    seconds = parse(re.sub(r"^([\d.]+)\s*([A-Za-zµ]+)$", r"\1 \2", str(text)), "s")
    if seconds <= 0:
        raise KvperfError(f"'{text}' is no time to wait", "give more than 0, like 500ms")
    return seconds


@app.command(epilog=EXAMPLES)
def plan(
    model: Annotated[
        str | None, option("--model", "Model: a name, a file, a config.json or a hub id. [default: llama-3.1-8b]")
    ] = None,
    gpu: Annotated[
        str, option("--gpu", "GPUs to choose from: names or files, a comma between. [default: h100]")
    ] = "h100",
    isl: Annotated[int, option("--isl", "Tokens of a prompt. [default: 2048]", parser=tokens)] = 2048,
    osl: Annotated[int, option("--osl", "Tokens of an output. [default: 512]", parser=tokens)] = 512,
    ttft: Annotated[
        float | None,
        option("--ttft", "Longest mean time to the first token, like 500ms. [default: any]", parser=duration),
    ] = None,
    tpot: Annotated[
        float | None, option("--tpot", "Longest mean time between tokens, like 20ms. [default: any]", parser=duration)
    ] = None,
    rps: Annotated[
        float | None, option("--rps", "Requests a second that arrive. [default: what the GPUs serve]")
    ] = None,
    max_gpus: Annotated[int, option("--max-gpus", "GPUs of all replicas together. [default: 8]")] = 8,
    network: Annotated[str | None, option("--network", "Between nodes. [default: the GPU's usual one]")] = None,
    mode: Annotated[
        Literal["both", "mixed", "apart"],
        option("--mode", "Prompts in chunks beside decoding, on GPUs of their own, or try both. [default: both]"),
    ] = "both",
    weight_dtype: Annotated[
        str | None,
        option(
            "--weight-dtype", "Formats to try, a comma between; checkpoint: as published. [default: checkpoint,fp8]"
        ),
    ] = None,
    kv_dtype: Annotated[str | None, option("--kv-dtype", "The same of the cache. [default: checkpoint,fp8]")] = None,
    stack: Annotated[
        Literal["sglang", "vllm", "trtllm"], option("--stack", "Whose kernels are predicted. [default: vllm]")
    ] = "vllm",
    price: Annotated[
        str | None, option("--price", "Of one GPU an hour, or of each with commas: adds the cost of 1M output tokens.")
    ] = None,
    memory_fraction: Annotated[
        float, option("--memory-fraction", "Share of the GPU's memory that is used. [default: 0.9]")
    ] = 0.9,
    reserve: Annotated[
        int, option("--reserve", "Memory for context, workspaces and graphs. [default: 3.5GiB]", parser=byte_count)
    ] = "3.5GiB",  # type: ignore[assignment]
    strategies: Annotated[
        bool, option("--strategies", "Add notes on every parallel strategy, computed for this model and load.")
    ] = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Search layouts, batches and formats for a load; print those that no other one beats.

    Prints the Pareto front of output tokens/s a GPU against tokens/s a user, and why the others are none.
    Exit code 1: no plan meets the targets.
    """
    from kvperf import api
    from kvperf.render import plan as view

    found = api.plan(
        gpu.split(","),
        model,
        prompt_tokens=isl,
        output_tokens=osl,
        ttft_s=ttft,
        tpot_s=tpot,
        requests_per_s=rps,
        most_gpus=max_gpus,
        prices=_prices(price),
        network=network,
        modes=("mixed", "apart") if mode == "both" else (mode,),
        weight_dtypes=_names(weight_dtype),
        kv_dtypes=_names(kv_dtype),
        stack=stack,
        memory_fraction=memory_fraction,
        reserve_bytes=reserve,
    )
    if strategies:
        found = api.with_strategies(found, gpu.split(","), model, network)
    view.write(found, format, output)
    if not found.front:
        raise typer.Exit(1)


def _prices(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise KvperfError(f"--price {text} is none", "give what one GPU costs an hour, like 2.5") from None


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))
