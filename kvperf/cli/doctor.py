"""`kvperf doctor`: what is installed for compiling, verifying and measuring kernels, and what is missing."""

from __future__ import annotations

import typer

from kvperf.cli.options import Format, Output

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(format: Format = "table", output_file: Output = None) -> None:
    """What is installed for compiling, verifying and measuring kernels, and what to do about what is missing."""
    from kvperf.bench.doctor import diagnose
    from kvperf.render import output
    from kvperf.render.page import write_page
    from kvperf.render.table import Table

    found = diagnose()
    if format == "json":
        output.write(output.json_text(found), output_file)
        return
    if format == "csv":
        rows = [{name: getattr(f, name) for name in f.__struct_fields__} for f in found.findings]
        output.write(output.csv_text(rows), output_file)
        return
    cells = tuple((f.part, "yes" if f.there else "no", f.serves) for f in found.findings)
    lines = [f"{f.part}: {f.found}" for f in found.findings]
    write_page([Table(("part", "there", "for"), cells, left=3), lines], format, output_file)
