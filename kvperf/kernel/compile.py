"""Compile CUDA C++ with NVRTC, without a GPU: PTX, cubin and what the compiler says about its resources.

Claims: a crash of NVRTC is a KvperfError; a cached result is the one the compiler gave for the same source, headers,
definitions, architecture, options and compiler; the flags are those CuPy compiles with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvperf.errors import KvperfError
from kvperf.kernel import compile_cache, nvrtc, toolkit

ARCHITECTURES = ("80", "86", "89", "90", "90a", "100", "120")
FLAGS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space", "-lineinfo")
TIMEOUT_S = 600


class Resources(msgspec.Struct, frozen=True):
    """What one entry takes of an SM, from the compiler's own report."""

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    static_shared_bytes: int


class Compiled(msgspec.Struct, frozen=True):
    """One source compiled for one architecture; `cubin` and `resources` are empty where only PTX was asked for."""

    arch: str
    ptx: str
    cubin: bytes
    resources: dict[str, Resources]
    log: str
    nvrtc: str

    @property
    def entries(self) -> list[str]:
        """The kernels of the source, in the order of the PTX."""
        return re.findall(r"\.entry\s+(\w+)", self.ptx)


class Request(msgspec.Struct, frozen=True):
    """One compilation: a source, the macros that size it, and the architecture ("80" … "90a" … "120").

    include        folder of its headers; None: the folder of the source
    ptx_only       stop at PTX, in half the time
    max_registers  cap per thread; None: the compiler's choice
    """

    source: Path
    defines: Mapping[str, str | int]
    arch: str
    include: Path | None = None
    ptx_only: bool = False
    max_registers: int | None = None

    @property
    def folder(self) -> Path:
        return self.include if self.include is not None else self.source.parent

    @property
    def options(self) -> list[str]:
        """What the result depends on besides the text; the folders of headers come on top."""
        target = ["-arch=compute_" + self.arch] if self.ptx_only else ["-arch=sm_" + self.arch, "--ptxas-options=-v"]
        cap = [] if self.max_registers is None else [f"-maxrregcount={self.max_registers}"]
        return [*FLAGS, *target, *cap, *(f"-D{name}={value}" for name, value in sorted(self.defines.items()))]


def compile_kernel(
    source: Path,
    defines: Mapping[str, str | int],
    arch: str,
    include: Path | None = None,
    *,
    ptx_only: bool = False,
    max_registers: int | None = None,
) -> Compiled:
    """One source for one architecture, from the cache where it is there."""
    return compile_many([Request(source, defines, arch, include, ptx_only, max_registers)])[0]


def compile_many(requests: Sequence[Request]) -> list[Compiled]:
    """Each request in order; those the cache does not hold are compiled in one child process."""
    compiler = toolkit.nvrtc()
    texts = [_text(request) for request in requests]
    keys = [_key(request, text, compiler) for request, text in zip(requests, texts, strict=True)]
    done = {key: compile_cache.load(key, Compiled) for key in keys}
    missing: dict[str, tuple[Request, str]] = {}
    for request, text, key in zip(requests, texts, keys, strict=True):
        if done[key] is None:
            missing[key] = (request, text)
    if missing:
        for key, compiled in zip(missing, _in_child(compiler, list(missing.values())), strict=True):
            compile_cache.store(key, compiled)
            done[key] = compiled
    return [compiled for key in keys if (compiled := done[key]) is not None]


def disassemble(cubin: bytes) -> str | None:
    """The machine code (SASS) as text; None where cuobjdump or nvdisasm is not installed."""
    cuobjdump, nvdisasm = toolkit.tool("cuobjdump"), toolkit.tool("nvdisasm")
    if cuobjdump is None or nvdisasm is None:
        return None
    key = compile_cache.key(["sass", str(cuobjdump), hashlib.sha256(cubin).hexdigest()])
    known = compile_cache.load(key, str)
    if known is not None:
        return known
    path = os.pathsep.join([str(nvdisasm.parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(cuobjdump), "-sass", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        raise KvperfError(f"cuobjdump cannot read the cubin: {done.stderr.strip()}", "is it a cubin of compile_kernel?")
    compile_cache.store(key, done.stdout)
    return done.stdout


def _text(request: Request) -> str:
    try:
        return request.source.read_text(encoding="utf-8")
    except OSError as error:
        raise KvperfError(f"cannot read {request.source}: {error.strerror}", "give the path of a CUDA source") from None


def _key(request: Request, text: str, compiler: toolkit.Nvrtc) -> str:
    headers = compile_cache.headers(text, request.folder)
    return compile_cache.key([compiler.identity, request.source.name, text, *headers, *request.options])


def _in_child(compiler: toolkit.Nvrtc, jobs: Sequence[tuple[Request, str]]) -> list[Compiled]:
    """Every job compiled by a child process, which may crash without taking this one along."""
    order = {
        "library": str(compiler.library),
        "builtins": str(compiler.builtins) if compiler.builtins else None,
        "jobs": [_job(request, text, compiler) for request, text in jobs],
    }
    command = [sys.executable, "-I", "-S", nvrtc.__file__]
    try:
        child = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        names = ", ".join(sorted({str(request.source) for request, _ in jobs}))
        raise KvperfError(f"NVRTC did not finish {names} within {TIMEOUT_S} s", "compile fewer at a time") from None
    answers = [json.loads(line) for line in child.stdout.splitlines() if line.endswith("}")]
    compiled = [_compiled(request, answer) for (request, _), answer in zip(jobs, answers, strict=False)]
    if len(answers) < len(jobs):
        raise _crash(jobs[len(answers)][0], child)
    return compiled


def _job(request: Request, text: str, compiler: toolkit.Nvrtc) -> dict[str, Any]:
    folders = [f"-I{request.folder.resolve()}", f"-I{compiler.include}"]
    return {"name": request.source.name, "source": text, "options": [*request.options, *folders]}


def _compiled(request: Request, answer: Mapping[str, Any]) -> Compiled:
    if answer.get("unloadable"):
        raise KvperfError(f"NVRTC cannot be loaded: {answer['log']}", "reinstall the wheel nvidia-cuda-nvrtc")
    if not answer["ok"]:
        raise _does_not_compile(request, answer["log"])
    return Compiled(
        arch=request.arch,
        ptx=answer["ptx"],
        cubin=base64.b64decode(answer["cubin"]),
        resources=resources(answer["log"]),
        log=answer["log"],
        nvrtc=answer["version"],
    )


def resources(log: str) -> dict[str, Resources]:
    """Resources by entry, from the report of `--ptxas-options=-v`."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        found[part.split("'", 1)[0]] = Resources(
            registers=_figure(r"Used (\d+) registers", part),
            spill_store_bytes=_figure(r"(\d+) bytes spill stores", part),
            spill_load_bytes=_figure(r"(\d+) bytes spill loads", part),
            stack_bytes=_figure(r"(\d+) bytes stack frame", part),
            static_shared_bytes=_figure(r"(\d+) bytes smem", part),
        )
    return found


def _figure(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _does_not_compile(request: Request, log: str) -> KvperfError:
    """The first error of the log, with its file and line where the log has them."""
    hint = "the macros were " + (" ".join(f"{n}={v}" for n, v in sorted(request.defines.items())) or "none")
    if match := re.search(r"^(.+?)\((\d+)\): (?:catastrophic )?error:? (.+)$", log, re.MULTILINE):
        place = str(request.source) if match[1] == request.source.name else match[1]
        return KvperfError(f"{place}:{match[2]}: {match[3]} (sm_{request.arch})", hint)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    first = next((line for line in lines if re.search(r"error|fatal", line)), lines[0] if lines else "no log")
    return KvperfError(f"{request.source} does not compile for sm_{request.arch}: {first}", hint)


def _crash(request: Request, child: subprocess.CompletedProcess[str]) -> KvperfError:
    code = child.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit {code}"
    last = child.stderr.strip().splitlines()[-1:] or ["it left no log"]
    hint = f"a fault of the compiler, not of this process; its log ends: {last[0]}"
    return KvperfError(f"NVRTC crashed ({how}) on {request.source} for sm_{request.arch}", hint)
