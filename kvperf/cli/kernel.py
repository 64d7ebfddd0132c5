"""`kvperf kernel`: the cached-attention kernels, what they do to the machine, whether they are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvperf.cli.options import Format, Output

if TYPE_CHECKING:
    from kvperf.kernel.account import KernelAccount
    from kvperf.kernel.geometry import Shape

EXAMPLES = """\b
Examples:
  kvperf kernel list
  kvperf kernel show split_kv --gpu h100
  kvperf kernel compare --batch 4 --seq 4096
  kvperf kernel verify flash
"""

app = typer.Typer(
    help="List, show, compare and verify the attention kernels.",
    epilog=EXAMPLES,
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Gpu = Annotated[str, typer.Option("--gpu", help="GPU: a name, an alias or a profile file.")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences.")]
Heads = Annotated[int, typer.Option("--heads", help="Query heads.")]
KvHeads = Annotated[int | None, typer.Option("--kv-heads", help="KV heads. [default: 8; 1 of mla]")]
HeadDim = Annotated[
    int | None,
    typer.Option("--head-dim", help="Head size. [default: 128; 576 of mla, the latent with its rotated part]"),
]
Seq = Annotated[int, typer.Option("--seq", help="Cached tokens of each sequence, the new one included.")]
Dtype = Annotated[str, typer.Option("--dtype", help="fp16 or bf16.")]
PageTokens = Annotated[int, typer.Option("--page-tokens", help="Tokens of a page, for paged.")]


@app.callback(invoke_without_command=True)
def kernels(context: typer.Context) -> None:
    """List, show, compare and verify the attention kernels. Without a command: the list."""
    if context.invoked_subcommand is None:
        list_kernels()


@app.command("list")
def list_kernels(format: Format = "table", output_file: Output = None) -> None:
    """The ladder: what each kernel adds to the one before."""
    from kvperf.kernel.catalogue import KERNELS
    from kvperf.render import kernel as views
    from kvperf.render import output

    found = list(KERNELS.values())
    if format == "json":
        record = {"schema": "kvperf.kernels/1", "kernels": views.list_rows(found)}
        output.write(output.json_text(record), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.list_rows(found)), output_file)
    else:
        output.write(views.listing_markdown(found) if format == "md" else views.listing(found), output_file)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="KERNEL", help="A kernel of `kvperf kernel list`.")],
    gpu: Gpu = "h100",
    batch: Batch = 1,
    heads: Heads = 32,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = None,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    splits: Annotated[
        int | None, typer.Option("--splits", help="Splits of a sequence, for kernels with split-KV. [default: by rule]")
    ] = None,
    page_tokens: PageTokens = 64,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """One kernel on one shape: grid, shared memory, registers, occupancy, traffic, times.

    Exit code 1: the buffers do not fit into the GPU's memory.
    """
    from kvperf.hardware import load_gpu
    from kvperf.kernel.account import account
    from kvperf.render import kernel as views
    from kvperf.render import kernel_page, output

    latent = name == "mla"
    kv_heads = kv_heads if kv_heads is not None else (1 if latent else 8)
    head_dim = head_dim if head_dim is not None else (576 if latent else 128)
    shape = _shape(batch, heads, kv_heads, head_dim, seq, dtype, page_tokens)
    found = account(name, shape, load_gpu(gpu), splits)
    if format == "json":
        output.write(output.json_text(found), output_file)
    elif format == "csv":
        output.write(output.csv_text([views.account_row(found)]), output_file)
    else:
        text = kernel_page.markdown_page(found) if format == "md" else kernel_page.page(found)
        output.write(text, output_file)
    _require_fit([found])


@app.command()
def compare(
    gpu: Gpu = "h100",
    batch: Batch = 1,
    heads: Heads = 32,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = None,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    page_tokens: PageTokens = 64,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """The ladder side by side on one shape; kernels that don't support it are named on standard error.

    Exit code 1: the buffers of a kernel do not fit into the GPU's memory.
    """
    import sys

    from kvperf.errors import KvperfError
    from kvperf.hardware import load_gpu
    from kvperf.kernel.account import account
    from kvperf.kernel.catalogue import KERNELS
    from kvperf.kernel.support import no_kernel_takes
    from kvperf.kernel.target import check
    from kvperf.render import kernel as views
    from kvperf.render import kernel_page, output

    head_dim = 128 if head_dim is None else head_dim
    kv_heads = kv_heads if kv_heads is not None else (1 if head_dim == 576 else 8)
    loaded, accounts, left_out = load_gpu(gpu), [], []
    check(loaded)
    shape = _shape(batch, heads, kv_heads, head_dim, seq, dtype, page_tokens)
    for name in KERNELS:
        try:
            accounts.append(account(name, shape, loaded))
        except KvperfError as problem:
            left_out.append(problem)
    if not accounts:
        raise no_kernel_takes(head_dim) or left_out[0]
    for message in dict.fromkeys(problem.message for problem in left_out):
        print(f"left out: {message}", file=sys.stderr)
    if format == "json":
        output.write(output.json_text({"schema": "kvperf.kernel-ladder/1", "kernels": accounts}), output_file)
    elif format == "csv":
        output.write(output.csv_text([views.account_row(found) for found in accounts]), output_file)
    else:
        from kvperf.render.analysis import folded

        heading = folded([kernel_page.where(accounts[0])])
        _write(heading, views.ladder(accounts), views.ladder_notes(accounts), format, output_file)
    _require_fit(accounts)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...", help="Kernels. [default: all]")] = None,
    gpu: Gpu = "h100",
    dtype: Dtype = "bf16",
    seq: Annotated[
        int | None, typer.Option("--seq", help="Cached tokens. [default: around a tile, 77 and 200]")
    ] = None,
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
        rows = [{name: getattr(v, name) for name in v.__struct_fields__} for v in found.verdicts]
        output.write(output.csv_text(rows), output_file)
    else:
        note = views.rounding_note(found)
        _write(views.verification_heading(found), views.verdicts(found.verdicts), note, format, output_file)
    for v in found.verdicts:
        if v.fault:
            print(f"{v.kernel}, {v.schedule}, S {v.seq}: {v.fault}", file=sys.stderr)
    if not found.right:
        raise typer.Exit(1)


def _shape(batch: int, heads: int, kv_heads: int, head_dim: int, seq: int, dtype: str, page_tokens: int) -> Shape:
    from kvperf.kernel.geometry import Shape

    return Shape(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        seq=seq,
        dtype=dtype,
        page_tokens=page_tokens,
    )


def _require_fit(accounts: list[KernelAccount]) -> None:
    """Exit with 1, and say so, where the buffers of a kernel are larger than the GPU's memory."""
    import sys

    from kvperf.units import binary

    if all(found.fits for found in accounts):
        return
    largest = max(accounts, key=lambda found: found.memory_bytes)
    needed, there = binary(largest.memory_bytes), binary(largest.capacity_bytes)
    print(f"does not fit: {largest.kernel} needs {needed}, {largest.gpu} has {there}", file=sys.stderr)
    raise typer.Exit(1)


def _write(heading: str, drawn: Any, notes: str, format: str, output_file: Any) -> None:
    """A heading, a table, and what there is to say about it."""
    from kvperf.render import output, table

    if output_file is None and format == "table" and table.is_terminal():
        from rich.console import Console

        output.write(heading + "\n", None)
        table.on_terminal(drawn, Console(highlight=False))
        output.write("\n" + notes if notes else "", None)
        return
    body = table.markdown(drawn) if format == "md" else table.plain(drawn)
    output.write(f"{heading}\n{body}" + (f"\n{notes}" if notes else ""), output_file)
