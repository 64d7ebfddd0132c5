"""Compiling without a GPU: outputs, resources, errors, the cache, and a compiler that crashes or is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvperf.errors import KvperfError
from kvperf.kernel import compile as compiler
from kvperf.kernel import nvrtc, toolkit
from kvperf.kernel.compile import ARCHITECTURES, Request, compile_kernel, compile_many, disassemble
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
ENTRY = 'extern "C" __global__ void '
SIMPLE = f"{ENTRY} twice(float* x) {{ x[threadIdx.x] *= N; }}\n{ENTRY} once(float* x) {{ x[0] = 1; }}\n"
# A table that is indexed at run time lies in local memory; many values alive at once exceed a cap of 24 registers.
SPILLING = f"""{ENTRY} spilling(float* x) {{
  float held[64];
  for (int i = 0; i < 64; i++) held[i] = x[i * 1024 + threadIdx.x];
  for (int i = 0; i < 64; i++) x[i * 1024 + threadIdx.x] = held[i] * held[63 - i] + held[(i * 7) % 64];
}}
{ENTRY} stack(float* x, int n) {{
  float held[32];
  for (int i = 0; i < 32; i++) held[i] = x[i];
  for (int i = 0; i < n; i++) held[(i * n) % 32] += held[(i * i) % 32];
  for (int i = 0; i < 32; i++) x[i] = held[i];
}}
{ENTRY} shared(float* x) {{ __shared__ float tile[300]; tile[threadIdx.x] = x[0]; __syncthreads(); x[1] = tile[9]; }}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KVPERF_CACHE", str(tmp_path / "cache"))
    yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def put(text: str, name: str = "kernel.cu") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return put


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The child processes that are started."""
    started: list[list[str]] = []
    run = subprocess.run

    def counted(command: list[str], **options: Any) -> Any:
        started.append(command)
        return run(command, **options)

    monkeypatch.setattr(compiler.subprocess, "run", counted)
    return started


def failure(*arguments: Any, **options: Any) -> KvperfError:
    with pytest.raises(KvperfError) as caught:
        compile_kernel(*arguments, **options)
    return caught.value


def test_one_source_for_every_architecture_in_one_process(write: Any, children: list[list[str]]) -> None:
    source = write(SIMPLE)
    results = compile_many([Request(source, {"N": 2}, arch) for arch in ARCHITECTURES])
    assert len(children) == 1
    for arch, compiled in zip(ARCHITECTURES, results, strict=True):
        assert compiled.arch == arch
        assert f".target sm_{arch}" in compiled.ptx
        assert compiled.cubin[:4] == b"\x7fELF"
        assert compiled.entries == ["twice", "once"]
        assert set(compiled.resources) == {"twice", "once"}
        assert all(r.registers > 0 for r in compiled.resources.values())
        assert compiled.nvrtc.count(".") == 1


def test_ptx_only(write: Any) -> None:
    compiled = compile_kernel(write(SIMPLE), {"N": "3.0f"}, "90", ptx_only=True)
    assert compiled.entries == ["twice", "once"]
    assert compiled.cubin == b""
    assert compiled.resources == {}


def test_resources(write: Any) -> None:
    source = write(SPILLING)
    free = compile_kernel(source, {}, "90").resources
    capped = compile_kernel(source, {}, "90", max_registers=24).resources
    assert free["spilling"].spill_store_bytes == free["spilling"].spill_load_bytes == 0
    assert free["spilling"].registers > 24 >= capped["spilling"].registers
    assert capped["spilling"].spill_store_bytes > 0
    assert capped["spilling"].spill_load_bytes > 0
    assert free["stack"].stack_bytes >= 128
    assert free["shared"].static_shared_bytes == 1200
    assert free["shared"].stack_bytes == 0


def test_the_disassembly(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if toolkit.tool("cuobjdump") is None or toolkit.tool("nvdisasm") is None:
        pytest.skip("cuobjdump and nvdisasm are not installed")
    compiled = compile_kernel(write(SIMPLE), {"N": 2}, "90")
    text = disassemble(compiled.cubin)
    assert text is not None
    assert "Function : twice" in text
    assert "STG" in text
    with pytest.raises(KvperfError, match="cuobjdump cannot read"):
        disassemble(b"no cubin")
    monkeypatch.setattr(toolkit, "tool", lambda name: None)
    assert disassemble(compiled.cubin) is None


@pytest.mark.parametrize(
    ("text", "arch", "message"),
    [
        ("\n\nint x = y;", "90", 'kernel.cu:3: identifier "y" is undefined (sm_90)'),
        (f'\n{ENTRY} f() {{ asm("foo.bar;"); }}', "80", "does not compile for sm_80: ptxas"),
        (SIMPLE.replace("N", "2"), "33", "does not compile for sm_33: nvrtc: error: invalid value"),
        ('#include "nowhere.cuh"\n', "90", 'open source file "nowhere.cuh"'),
    ],
)
def test_what_does_not_compile(write: Any, text: str, arch: str, message: str) -> None:
    error = failure(write(text), {"N": 2}, arch)
    assert message in error.message
    assert error.hint == "the macros were N=2"
    assert "\n" not in error.message


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    assert failure(tmp_path / "nothing.cu", {}, "90").message.startswith("cannot read")


def test_a_crash_of_the_compiler_is_an_error(write: Any) -> None:
    """A load of a matrix from the constant address 0 brings NVRTC 13.0 down for sm_90."""
    text = f"""{ENTRY} f(unsigned* o) {{ unsigned a;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%0}}, [%1];" : "=r"(a) : "r"(0)); o[0] = a; }}"""
    try:
        compile_kernel(write(text), {}, "90")
    except KvperfError as error:
        assert "NVRTC crashed (SIG" in error.message  # a later NVRTC may compile it


def test_a_child_that_dies_names_the_source_it_was_at(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(
        "import os, sys\nprint('ptxas: oh', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 11)\n"
    )
    monkeypatch.setattr(nvrtc, "__file__", str(tmp_path / "child.py"))
    error = failure(write(SIMPLE), {"N": 2}, "90")
    assert error.message == f"NVRTC crashed (SIGSEGV) on {tmp_path / 'kernel.cu'} for sm_90"
    assert "ptxas: oh" in error.hint


def test_nvrtc_is_missing(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    error = failure(write(SIMPLE), {"N": 2}, "90")
    assert error.message == "NVRTC is not installed"
    for word in ('pip install "kvperf[kernels]"', "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"):
        assert word in error.hint


def test_nvrtc_cannot_be_loaded(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnvrtc.so.13").write_bytes(b"not a library")
    fake = toolkit.Nvrtc(tmp_path / "libnvrtc.so.13", None, toolkit.nvrtc().include)
    monkeypatch.setattr(toolkit, "nvrtc", lambda: fake)
    assert failure(write(SIMPLE), {"N": 2}, "90").message.startswith("NVRTC cannot be loaded")


def test_the_cache(write: Any, children: list[list[str]], tmp_path: Path) -> None:
    write("#define M N\n", "header.cuh")
    source = write('#include "header.cuh"\n' + SIMPLE.replace("N", "M"))
    first = compile_kernel(source, {"N": 2}, "90")
    assert compile_kernel(source, {"N": 2}, "90") == first
    assert len(children) == 1
    for number, change in enumerate(({"defines": {"N": 3}}, {"arch": "80"}, {"ptx_only": True}), start=2):
        compile_kernel(**{"source": source, "defines": {"N": 2}, "arch": "90"} | change)
        assert len(children) == number
    write("#define M (N + 1)\n", "header.cuh")
    assert compile_kernel(source, {"N": 2}, "90").ptx != first.ptx
    assert len(children) == 5
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_entry_is_compiled_again(
    write: Any, children: list[list[str]], tmp_path: Path, damage: bytes | None
) -> None:
    source = write(SIMPLE)
    first = compile_kernel(source, {"N": 2}, "90", ptx_only=True)
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_bytes(entry.read_bytes().replace(b"twice", b"thrice") if damage is None else damage)
    assert compile_kernel(source, {"N": 2}, "90", ptx_only=True) == first
    assert len(children) == 2
    compile_kernel(source, {"N": 2}, "90", ptx_only=True)
    assert len(children) == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVPERF_CACHE", str(tmp_path / "file"))
    assert compile_kernel(write(SIMPLE), {"N": 2}, "90", ptx_only=True).entries == ["twice", "once"]


def test_equal_requests_are_compiled_once(write: Any, children: list[list[str]]) -> None:
    source = write(SIMPLE)
    first, second = compile_many([Request(source, {"N": 2}, "90", ptx_only=True)] * 2)
    assert first == second
    assert len(children) == 1


def test_compiling_needs_no_numpy() -> None:
    code = "import sys, kvperf.kernel.compile; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
