"""`kvperf bench stages` and `kvperf bench step`: a model's stages at their real shapes, and one whole step."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kvperf.cli.interruption import stopped
from kvperf.cli.keeping import run_parts
from kvperf.cli.measure import levels_in, progress, rig_of
from kvperf.cli.measure_options import Budget, CeilingsRecord, Emulate, Profile, RecordFile, Seed
from kvperf.cli.options import Format, Output
from kvperf.errors import KvperfError

if TYPE_CHECKING:
    from kvperf.bench.network import Network
    from kvperf.bench.outcome import Levels
    from kvperf.bench.rig import Rig

Model = Annotated[str, typer.Option("--model", help="A model, or its file.")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences.")]
Seq = Annotated[int, typer.Option("--seq", help="Tokens of each sequence, new ones included.")]
Dtype = Annotated[Literal["bf16", "fp16"], typer.Option("--dtype", help="Of weights, activations and cache.")]
Layers = Annotated[int | None, typer.Option("--layers", help="Layers to build. [default: all]")]


def stages(
    model: Model = "llama-3.1-8b",
    batch: Batch = 1,
    seq: Seq = 4096,
    phase: Annotated[Literal["decode", "prefill"], typer.Option("--phase", help="One new token, or all.")] = "decode",
    dtype: Dtype = "bf16",
    layers: Layers = None,
    gpu: Profile = None,
    budget: Budget = 60.0,
    ceilings_record: CeilingsRecord = None,
    emulate: Emulate = False,
    record: RecordFile = None,
    seed: Seed = 0,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Every stage of a model at its real shape, cold, beside its bound.

    Exit code 1: two layers differ from the float64 model.
    """
    levels = levels_in(ceilings_record)
    sizes = (model, batch, seq, phase, dtype, layers)
    _measure(False, sizes, gpu, budget, levels, emulate, record, seed, format, output_file)


def step(
    model: Model = "llama-3.1-8b",
    batch: Batch = 1,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    layers: Layers = None,
    gpu: Profile = None,
    budget: Budget = 60.0,
    ceilings_record: CeilingsRecord = None,
    emulate: Emulate = False,
    record: RecordFile = None,
    seed: Seed = 0,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """One decode step as one CUDA graph over real-sized weights, beside the sum of its stages and the bound.

    Exit code 1: two layers differ from the float64 model.
    """
    levels = levels_in(ceilings_record)
    sizes = (model, batch, seq, "decode", dtype, layers)
    _measure(True, sizes, gpu, budget, levels, emulate, record, seed, format, output_file)


def _measure(
    whole: bool,
    sizes: tuple[str, int, int, Any, str, int | None],
    gpu: str | None,
    budget: float,
    levels: Levels,
    emulate: bool,
    record: Any,
    seed: int,
    format: str,
    output_file: Any,
) -> None:
    """`sizes`: model, batch, tokens, phase, dtype, layers. The whole step is read first: it says most."""
    from kvperf.bench import step as steps
    from kvperf.bench.attention import Plan
    from kvperf.inputs import step_workload

    name, batch, seq, phase, dtype, layers = sizes
    workload = step_workload(phase=phase, batch=batch, seq=seq, weight_dtype=dtype, kv_dtype=dtype)
    rig, profile = rig_of(emulate, gpu)
    network = _network(rig, name, batch, seq, phase, dtype, layers)
    with progress() as tell:
        how = Plan(budget_s=budget / (2 if whole else 1), seed=seed, progress=tell, stopped=stopped, levels=levels)

        def cases() -> Any:
            network.place(seed)
            checked = steps.checked(network)
            if rig.emulated:
                yield steps.counted(rig, network, workload, profile)
            if rig.emulated:
                yield [steps.unread(network, workload, profile, checked)]
                return
            readings = steps.read(rig, network, workload, how) if whole else None
            found = steps.stages(rig, profile, network, workload, how)
            if readings:
                found = [steps.step(rig, profile, network, workload, found, checked, readings, how), *found]
            yield steps.believed(found, checked)

        run_parts(rig, profile, [cases()], seed, record, format, output_file)


def _network(rig: Rig, name: str, batch: int, seq: int, phase: str, dtype: str, layers: int | None) -> Network:
    """The network, not yet placed. Raises KvperfError where it is not buildable or does not fit."""
    from kvperf.bench.network import Network
    from kvperf.bench.run import architecture_of
    from kvperf.model import load_model

    model = load_model(name)
    most = len(model.layer_sequence())
    count = most if layers is None else layers
    if not 1 <= count <= most:
        raise KvperfError(f"--layers {count}", f"{model.name} has {most}")
    if count < most:
        import msgspec

        from kvperf.model.architecture import Run

        print(f"{count} of {most} layers are built, and counted", file=sys.stderr)
        model = msgspec.structs.replace(model, layers=(Run(count, (model.layer_sequence()[0],)),))
    new_tokens = seq if phase == "prefill" else 1
    network = Network(model, batch, seq, new_tokens, dtype, count, rig, architecture_of(rig.facts))
    needed, free = network.needed_bytes(), rig.free_bytes()
    if needed > free:
        hint = "build fewer with --layers" if not rig.emulated else "the interpreter takes small models and shapes"
        raise KvperfError(f"{count} layers take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free", hint)
    return network
