"""Ceilings and the profile made of them: what is launched, what a reading means, what the profile says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvperf.bench import ceilings
from kvperf.bench.ceiling_calls import PARAMETERS, ceiling_call, noise
from kvperf.bench.profile import profile_text
from kvperf.bench.record import Case, Environment, Record
from kvperf.bench.standin import Standin
from kvperf.cli import run as kvperf
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.kernel.ceiling_kernels import CEILINGS, launch
from tests.bench.made_up import ENVIRONMENT, made_up_record
from tests.bench.metronome import Metronome
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
# A made-up GPU whose readings are all possible.
STREAM_S = 1e-4


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    patch = pytest.MonkeyPatch()
    patch.setattr(ceilings, "FOOTPRINT_BYTES", 1 << 20)
    patch.setattr(ceilings, "HOST_BYTES", 1 << 16)
    rig = Metronome(lambda call: STREAM_S, silent=True)
    found = [case for group in ceilings.bench(rig, load_gpu("h100"), 0.1, 0) for case in group]
    patch.undo()
    return found


def test_every_ceiling_is_read_once(cases: list[Case]) -> None:
    subjects = {case.subject for case in cases}
    measured = {name for name, kernel in CEILINGS.items() if kernel.measures and "90" in (*kernel.runs, "90")}
    measured -= {"chase", "empty"}
    missing = measured - subjects
    assert missing <= {name for name in CEILINGS if "90" not in CEILINGS[name].runs and CEILINGS[name].runs != ("90a",)}
    assert {"latency", "launch alone", "launch in a stream", "graph node", "host to device"} <= subjects
    assert len({case.key for case in cases}) == len(cases)


def test_a_stream_counts_its_bytes_in_both_directions(cases: list[Case]) -> None:
    rates = {case.subject: case.bytes_per_s for case in cases if case.shape.get("in_flight") == 4}
    assert rates["read"] == rates["write"] == pytest.approx((1 << 20) / STREAM_S)
    assert rates["copy"] == rates["scale"] == pytest.approx(2 * (1 << 20) / STREAM_S)
    assert rates["triad"] == pytest.approx(3 * (1 << 20) / STREAM_S)


def test_the_gate_and_a_graph_are_compared(cases: list[Case]) -> None:
    (graph,) = [case for case in cases if case.subject == "read" and case.regime == "stream"]
    assert graph.verdict.startswith("-98.4 % against single calls behind the gate: they DISAGREE")  # 64 nodes a beat


def test_latency_is_time_a_step_and_beyond_l2_no_line_is_met_twice(cases: list[Case]) -> None:
    latencies = {case.shape["level"]: case for case in cases if case.subject == "latency"}
    assert set(latencies) == {"l1", "l2", "l2_far", "l2_full", "memory", "memory_wide"}
    for case in latencies.values():
        assert case.rate == pytest.approx(float(case.shape["steps"]) / STREAM_S)
    assert latencies["memory"].rotation > 1 and latencies["l2"].rotation == 1


def test_a_launch_in_a_stream_is_a_share_of_its_batch(cases: list[Case]) -> None:
    found = {case.subject: case.rate for case in cases if case.rate_of == "launches"}
    assert found["launch in a stream"] == pytest.approx(64 / STREAM_S)
    assert found["graph node"] == pytest.approx(64 / STREAM_S)
    assert found["launch alone"] == pytest.approx(1 / STREAM_S)


@pytest.mark.parametrize("name", [name for name in CEILINGS if name != "wgmma"])
def test_arguments_fit_the_kernels_parameters(name: str) -> None:
    """The interpreter refuses an argument of another size than its parameter's."""
    import numpy as np

    rig = Standin(load_gpu("l40s" if "90" not in CEILINGS[name].runs else "h100"), small=True)
    sizes = {"count": 64, "repeats": 1, "passes": 1, "steps": 4, "stride": 16}
    kernel = CEILINGS[name]
    planned = launch(name, 1, **{size: sizes[size] for size in kernel.sizes})
    buffers = {b.name: noise(rig, 64 * 128).view(np.uint32) for b in (*kernel.loads, *kernel.stores)}
    if name in ("link", "chase"):
        following = np.roll(np.arange(64, dtype=np.uint32), -1)
        buffers = {"chain": np.zeros(64 * 16, np.uint64), "next": following}
    if name == "chase":
        buffers = {"chain": buffers["chain"], "clocks": np.zeros(2, np.uint64)}
    assert set(PARAMETERS[planned.entry]) >= set(buffers)
    if name != "chase":  # whose addresses `link` has to make on the same memory
        ceiling_call(rig, planned, buffers, np.zeros(1, np.uint32))()


def record(cases: list[Case]) -> Record:
    where = Environment(
        **{name: getattr(ENVIRONMENT, name) for name in ("capability", "sms", "l2_bytes", "memory_bytes", "driver")},
        gpu="Made-up GPU",
        profile=None,
        sm_clock_max_hz=1.98e9,
        memory_clock_max_hz=2619e6,
        memory_bus_bits=5120,
        power_cap_w=700.0,
    )
    return made_up_record(*cases, environment=where)


def test_the_profile_is_one_that_analyze_takes(
    cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "my-gpu.yaml"
    file.write_text(profile_text(record(cases), "my-gpu"))
    gpu = load_gpu(str(file))
    assert gpu.hbm_bytes_per_s == pytest.approx(5120 / 8 * 2619e6 * 2, rel=1e-3)
    assert gpu.measured_hbm_bytes_per_s == pytest.approx(3 * (1 << 20) / STREAM_S, rel=1e-3)  # the triad
    assert gpu.graph_launch_s == pytest.approx(STREAM_S / 64, rel=1e-2)
    assert gpu.l2_bytes_per_s and gpu.host_bytes_per_s
    assert gpu.levels()[-1].latency_ns is not None
    assert gpu.peak("bf16").flops_per_s == pytest.approx(132 * 1.98e9 * 4096, rel=1e-3)
    assert kvperf(["analyze", "--gpu", str(file), "--format", "json"]) == 0
    assert kvperf(["gpus", "check", str(file)]) == 0
    assert '"name":"my-gpu"' in capsys.readouterr().out.replace(" ", "")


def test_unknown_clocks_leave_the_measured_read_as_the_peak(cases: list[Case], tmp_path: Path) -> None:
    bare = Environment(gpu="?", profile=None, capability="90", sms=4, l2_bytes=1 << 16, memory_bytes=1 << 34)
    file = tmp_path / "bare.yaml"
    file.write_text(profile_text(made_up_record(*cases, environment=bare), "bare"))
    assert load_gpu(str(file)).hbm_bytes_per_s == pytest.approx((1 << 20) / STREAM_S, rel=1e-3)


def test_no_profile_without_readings(cases: list[Case]) -> None:
    with pytest.raises(KvperfError, match="no reading of the memory"):
        profile_text(made_up_record(), "x")
    refused = [c for c in cases if c.subject != "read"]
    with pytest.raises(KvperfError, match="no reading of the memory"):
        profile_text(record(refused), "x")
