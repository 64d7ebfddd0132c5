"""`kvperf plot`: a step, a sweep of it, or a record of measurements as a figure."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kvperf.cli import step_options
from kvperf.cli.step_options import StepAsked, option, takes_step
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf plot
  kvperf plot --gpu h200 --model deepseek-v3 --batch 128 --output deepseek.svg
  kvperf plot sweep --over batch --show tokens
  kvperf plot memory --over seq --batch 8
  kvperf plot gap --phase prefill
  kvperf plot ladder --record run.json
"""

STEP_OPTIONS = frozenset(inspect.signature(step_options.asked).parameters)
# Which figures take an option.
TAKEN_BY = {
    "--levels": ("roofline",),
    "--record": ("roofline", "ladder", "gap", "accuracy"),
    "--case": ("gap",),
    "--over": ("sweep", "memory"),
    "--show": ("sweep",),
}


@app.command(epilog=EXAMPLES)
@takes_step
def plot(
    asked: StepAsked,
    context: typer.Context,
    figure: Annotated[
        Literal["roofline", "sweep", "ladder", "accuracy", "gap", "memory"],
        typer.Argument(
            help="What to draw: the roofline of a step; a sweep of it over batch or context; the ladder of attention "
            "kernels of a record; predicted against measured times of a record; the gap from the bound to a reading, "
            "or a step's bound stage by stage; what fills the memory. [default: roofline]",
            show_default=False,
        ),
    ] = "roofline",
    over: Annotated[
        Literal["batch", "seq"] | None, option("--over", "What a sweep varies, or memory. [default: batch]")
    ] = None,
    show: Annotated[
        Literal["time", "tokens", "bytes"] | None, option("--show", "What a sweep shows. [default: time]")
    ] = None,
    levels: Annotated[bool, option("--levels", "Roofline: add the caches.")] = False,
    record: Annotated[
        Path | None,
        option("--record", "Measurements of `kvperf bench`: for roofline, ladder, accuracy, gap.", metavar="FILE"),
    ] = None,
    case: Annotated[
        str | None, option("--case", "Gap of a record: the case whose label holds TEXT.", metavar="TEXT")
    ] = None,
    theme: Annotated[Literal["light", "dark"], option("--theme", "Colours. [default: light]")] = "light",
    output: Annotated[
        Path | None,
        option("--output", "A .png, .svg or .pdf file. [default: FIGURE.png here]", metavar="FILE"),
    ] = None,
    force: Annotated[bool, option("--force", "Overwrite a file that exists.")] = False,
) -> None:
    """Draw a step on its roofline, a sweep, memory, or measurements, into a file; print the file's path.

    Hollow and plain is what the model says, filled is measured.
    """
    given = {"--levels": levels, "--record": record, "--case": case, "--over": over, "--show": show}
    for name, value in given.items():
        if value and figure not in TAKEN_BY[name]:
            raise KvperfError(f"{name} means nothing for {figure}", f"it is for {' and '.join(TAKEN_BY[name])}")
    if figure in ("ladder", "accuracy") or (figure == "gap" and record is not None):
        _refuse_step(context, figure)
    from kvperf.render.figure import sheet

    target = output or Path(f"{figure}.png")
    format = sheet.format_of(target)
    draw = _prepared(asked, figure, theme, record, levels=levels, case=case, over=over or "batch", show=show or "time")
    if target.exists() and not force and target.is_file():
        raise KvperfError(f"{target} exists", "--force overwrites it, --output FILE writes another")
    from kvperf.render.output import write_bytes

    write_bytes(sheet.file_bytes(draw(), format), target)
    print(target)


def _refuse_step(context: typer.Context, figure: str) -> None:
    """A figure of a record takes no option that describes a step."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in STEP_OPTIONS and source is not None and source.name == "COMMANDLINE":
            raise KvperfError(
                f"{parameter.opts[0]} means nothing for {figure} of a record",
                f"leave {parameter.opts[0]} out: the record says what was measured",
            )


def _prepared(
    asked: StepAsked,
    figure: str,
    theme_name: str,
    record: Path | None,
    *,
    levels: bool,
    case: str | None,
    over: Any,
    show: Any,
) -> Callable[[], Any]:
    """All that is asked for, read and analysed; called, it draws."""
    from kvperf.render.figure.theme import THEMES

    theme = THEMES[theme_name]
    if figure == "roofline":
        return _roofline(asked, theme, record, levels)
    if figure == "sweep":
        from kvperf.crossings import sweep
        from kvperf.render.figure.sweep import sweep as draw_sweep

        varied = sweep(over, **asked.keywords)
        return lambda: draw_sweep(varied, show, theme)
    if figure == "memory":
        from kvperf.crossings import filling
        from kvperf.render.figure.memory import memory

        filled = filling(over, **asked.keywords)
        return lambda: memory(filled, theme)
    if figure == "gap" and record is None:
        from kvperf import api
        from kvperf.render.figure.gap import step_gap

        if case is not None:
            raise KvperfError("--case without --record", "it names a case of a record")
        found = api.analyze(**asked.keywords)
        return lambda: step_gap(_warned(found), theme)
    return _of_record(figure, theme, record, case)


def _warned(record: Any) -> Any:
    import sys

    for warning in record.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return record


def _roofline(asked: StepAsked, theme: Any, path: Path | None, levels: bool) -> Callable[[], Any]:
    from kvperf import api
    from kvperf.render.figure.roofline import roofline

    found = api.analyze(**asked.keywords)
    measured = None
    if path is not None:
        from kvperf.bench.record import read
        from kvperf.measured import measured as measured_of

        measured = measured_of(read(path), found)
    known = api.prepare(asked.gpu, None, cluster=asked.step["cluster"])[0].levels()
    caches = [(lv.name, lv.bandwidth_bytes_per_s, lv.bandwidth_kind) for lv in known[:-1] if lv.scope == "GPU"]
    hbm = known[-1].name, known[-1].bandwidth_kind or "spec"
    return lambda: roofline(_warned(found), theme, hbm=hbm, caches=caches if levels else (), measured=measured)


def _of_record(figure: str, theme: Any, path: Path | None, case: str | None) -> Callable[[], Any]:
    from kvperf.bench.record import read

    if path is None:
        raise KvperfError(f"{figure} draws measurements", "give --record FILE, what `kvperf bench … --record` wrote")
    record = read(path)
    if figure == "gap":
        from kvperf.render.figure.gap import case_gap, gap_case

        chosen = gap_case(record, case)
        return lambda: case_gap(record, chosen, theme)
    if figure == "accuracy":
        from kvperf.render.figure.accuracy import accuracy, predicted_cases

        predicted_cases(record)
        return lambda: accuracy(record, theme)
    from kvperf.render.figure.ladder import ladder, ladder_cases

    ladder_cases(record)
    peak = None
    if record.environment.profile:
        from kvperf.hardware import load_gpu

        gpu = load_gpu(record.environment.profile)
        peak = gpu.name, gpu.hbm_bytes_per_s
    return lambda: ladder(record, theme, peak)
