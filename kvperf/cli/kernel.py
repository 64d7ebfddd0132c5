"""`kvperf kernel`: the cached-attention kernels, what they do to the machine, whether they are right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvperf.cli.options import Format, Output

if TYPE_CHECKING:
    from kvperf.kernel.geometry import Shape

app = typer.Typer(
    help="List, show, compare and verify the attention kernels.",
    epilog="kvperf kernel list | kvperf kernel show split_kv --gpu h100 | kvperf kernel compare --batch 4 --seq 4096",
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Gpu = Annotated[str, typer.Option("--gpu", help="GPU: a name, an alias or a profile file.")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences.")]
Heads = Annotated[int, typer.Option("--heads", help="Query heads.")]
KvHeads = Annotated[int, typer.Option("--kv-heads", help="KV heads.")]
HeadDim = Annotated[int, typer.Option("--head-dim", help="Head size; 576 is MLA's latent with its rotated part.")]
Seq = Annotated[int, typer.Option("--seq", help="Cached tokens of each sequence, the new one included.")]
Dtype = Annotated[str, typer.Option("--dtype", help="fp16 or bf16.")]


@app.callback(invoke_without_command=True)
def kernels(context: typer.Context, format: Format = "table", output_file: Output = None) -> None:
    """List, show, compare and verify the attention kernels."""
    if context.invoked_subcommand is None:
        list_kernels(format, output_file)


@app.command("list")
def list_kernels(format: Format = "table", output_file: Output = None) -> None:
    """The ladder: what each kernel adds to the one before."""
    from kvperf.kernel.catalogue import KERNELS
    from kvperf.render import kernel as views
    from kvperf.render import output

    found = list(KERNELS.values())
    rows = views.list_rows(found)
    if format == "json":
        output.write(output.json_text({"schema": "kvperf.kernels/1", "kernels": rows}), output_file)
    elif format == "csv":
        output.write(output.csv_text(rows), output_file)
    else:
        _table(views.listing(found), format, output_file)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="KERNEL", help="A kernel of `kvperf kernel list`.")],
    gpu: Gpu = "h100",
    batch: Batch = 1,
    heads: Heads = 32,
    kv_heads: KvHeads = 8,
    head_dim: HeadDim = 128,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    splits: Annotated[int | None, typer.Option("--splits", help="Splits of a sequence. [default: by rule]")] = None,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """One kernel on one shape: grid, shared memory, registers, occupancy, traffic, roofs."""
    from kvperf.hardware import load_gpu
    from kvperf.kernel.account import account
    from kvperf.render import kernel as views
    from kvperf.render import output

    found = account(name, _shape(batch, heads, kv_heads, head_dim, seq, dtype), load_gpu(gpu), splits)
    if format == "json":
        output.write(output.json_text(found), output_file)
    elif format == "csv":
        output.write(output.csv_text([_row(found)]), output_file)
    else:
        output.write(views.page(found), output_file)


@app.command()
def compare(
    gpu: Gpu = "h100",
    batch: Batch = 1,
    heads: Heads = 32,
    kv_heads: KvHeads = 8,
    head_dim: HeadDim = 128,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """The ladder side by side on one shape; kernels that don't support it are named on standard error."""
    import sys

    from kvperf.errors import KvperfError
    from kvperf.hardware import load_gpu
    from kvperf.kernel.account import account
    from kvperf.kernel.catalogue import KERNELS
    from kvperf.render import kernel as views
    from kvperf.render import output

    shape, loaded, accounts = _shape(batch, heads, kv_heads, head_dim, seq, dtype), load_gpu(gpu), []
    left_out = []
    for name in KERNELS:
        try:
            accounts.append(account(name, shape, loaded))
        except KvperfError as problem:
            left_out.append(problem)
    if not accounts:
        raise left_out[0]
    for problem in left_out:
        print(f"left out: {problem.message}", file=sys.stderr)
    if format == "json":
        output.write(output.json_text({"schema": "kvperf.kernel-ladder/1", "kernels": accounts}), output_file)
    elif format == "csv":
        output.write(output.csv_text([_row(found) for found in accounts]), output_file)
    else:
        _table(views.ladder(accounts), format, output_file)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...", help="Kernels. [default: all]")] = None,
    gpu: Gpu = "h100",
    dtype: Dtype = "fp16",
    seq: Annotated[int | None, typer.Option("--seq", help="Cached tokens. [default: around a tile, and 77]")] = None,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Run kernels on the PTX interpreter: results against float64, requests against the closed form.

    Exit code 1: a kernel is wrong.
    """
    import sys

    from kvperf.hardware import load_gpu
    from kvperf.kernel.catalogue import KERNELS
    from kvperf.kernel.verify import verify as verified
    from kvperf.render import kernel as views
    from kvperf.render import output

    found = verified(names or list(KERNELS), load_gpu(gpu), dtype, seq)
    for message in found.left_out:
        print(f"left out: {message}", file=sys.stderr)
    if format == "json":
        output.write(output.json_text(found), output_file)
    elif format == "csv":
        output.write(output.csv_text([_fields(v) for v in found.verdicts]), output_file)
    else:
        _table(views.verdicts(found.verdicts), format, output_file)
    for v in found.verdicts:
        if v.fault:
            print(f"{v.kernel}, {v.schedule}, S {v.seq}: {v.fault}", file=sys.stderr)
    if not found.right:
        raise typer.Exit(1)


def _fields(verdict: Any) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in verdict.__struct_fields__}


def _shape(batch: int, heads: int, kv_heads: int, head_dim: int, seq: int, dtype: str) -> Shape:
    from kvperf.kernel.geometry import Shape

    return Shape(batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq=seq, dtype=dtype)


def _row(found: Any) -> dict[str, Any]:
    """One kernel as a flat row in base units."""
    first = found.launches[0]
    row = {
        name: getattr(found, name)
        for name in ("kernel", "gpu", "batch", "heads", "kv_heads", "head_dim", "seq", "dtype", "splits")
    }
    row |= {name: getattr(first, name) for name in ("blocks", "registers", "spill_bytes", "shared_bytes", "waves")}
    row["blocks_per_sm"] = first.occupancy.blocks_per_sm if first.occupancy else None
    for name in ("requested_bytes", "compulsory_bytes", "reread_factor", "matrix_flops", "mma_utilisation", "bound_s"):
        row[name] = getattr(found, name)
    return row | {name: getattr(found.roofs, name) for name in found.roofs.__struct_fields__}


def _table(drawn: Any, format: str, output_file: Path | None) -> None:
    from kvperf.render import output, table

    if format == "md":
        output.write(table.markdown(drawn), output_file)
    elif output_file is None and table.is_terminal():
        from rich.console import Console

        table.on_terminal(drawn, Console(highlight=False))
    else:
        output.write(table.plain(drawn), output_file)
