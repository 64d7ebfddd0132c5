"""The child process that calls NVRTC, because NVRTC can crash the process it lives in.

`kvperf.kernel.compile` starts this file as a script of the standard library alone. One JSON object on stdin names the
libraries and the jobs; one JSON line per job goes to stdout as soon as the job is done, so that after a crash the
number of lines says which job it was.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from typing import Any


def load(library: str, builtins: str | None) -> ctypes.CDLL:
    """NVRTC, with its built-in headers loaded first: it looks for them among the libraries of the process."""
    if builtins:
        ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(library)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def version(nvrtc: ctypes.CDLL) -> str:
    """Major and minor, as in "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compiled(nvrtc: ctypes.CDLL, job: dict[str, Any]) -> dict[str, Any]:
    """The outputs of one job, or its log alone where it does not compile."""
    program = ctypes.c_void_p()
    source, name = job["source"].encode(), job["name"].encode()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None)
    if status:
        return {"ok": False, "log": nvrtc.nvrtcGetErrorString(status).decode()}
    options = [option.encode() for option in job["options"]]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    answer = {"ok": status == 0, "log": output(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")}
    if status == 0:
        answer["ptx"] = output(nvrtc, program, "PTX").rstrip(b"\0").decode()
        answer["cubin"] = base64.b64encode(output(nvrtc, program, "CUBIN")).decode()
    elif not answer["log"].strip():
        answer["log"] = nvrtc.nvrtcGetErrorString(status).decode()
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return answer


def output(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """What nvrtcGet<what> returns; empty where there is none (no cubin for a virtual architecture)."""
    size = ctypes.c_size_t()
    if getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) or not size.value:
        return b""
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def main() -> None:
    request = json.load(sys.stdin)
    try:
        nvrtc = load(request["library"], request["builtins"])
    except OSError as error:
        print(json.dumps({"ok": False, "unloadable": True, "log": str(error)}), flush=True)
        return
    for job in request["jobs"]:
        print(json.dumps({**compiled(nvrtc, job), "version": version(nvrtc)}), flush=True)


if __name__ == "__main__":
    main()
