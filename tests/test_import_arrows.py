"""Data flows one way through the rooms: a room imports only what stands before it."""

from __future__ import annotations

import ast
from pathlib import Path

import kvperf

PACKAGE = Path(kvperf.__file__).parent

# Rooms in the order of the flow; those of one line may import each other.
FLOW: tuple[tuple[str, ...], ...] = (
    ("__init__",),
    ("errors",),
    ("units", "arith", "files", "dtypes"),
    ("yaml_file", "yaml_errors"),
    ("hardware",),
    ("model",),
    ("workload",),
    ("layout",),
    ("work",),
    ("stages",),
    ("layers",),
    ("pipeline",),
    ("emulator",),
    ("kernel",),
    ("launches",),
    ("predict",),
    ("bound", "ceilings"),
    ("overhead",),
    ("capacity",),
    ("inputs",),
    ("record",),
    ("evaluation",),
    ("replication",),
    ("fitting",),
    ("facts",),
    ("analysis",),
    ("strategies",),
    ("explanation",),
    ("plan",),
    ("api",),
    ("comparison",),
    ("crossings",),
    ("bench",),
    ("silicon",),
    ("calibrate",),
    ("validate",),
    ("measured",),
    ("report",),
    ("render",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(FLOW) for room in rooms}
# `kvperf/__init__.py` holds the version, and hands out the public names when they are asked for.
LAZY = {("__init__", "api"), ("__init__", "errors")}


def _arrows() -> set[tuple[str, str]]:
    arrows = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            arrows |= {(room, target) for target in _imported(node)}
    return arrows


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kvperf":
        inner = (node.module or "").split(".")[1:]
        if inner:
            return {inner[0]}
        return {alias.name if alias.name in RANK else "__init__" for alias in node.names}
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "kvperf"}
    return set()


def _against_the_flow(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(room, target) for room, target in arrows - LAZY if room != target and RANK[target] > RANK[room]}


def test_every_room_stands_in_the_flow() -> None:
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")}
    assert rooms == set(RANK)


def test_no_arrow_points_against_the_flow() -> None:
    arrows = _arrows()
    assert ("stages", "work") in arrows  # the reader sees arrows at all
    assert _against_the_flow(arrows) == set()


def test_an_arrow_against_the_flow_is_found() -> None:
    assert _against_the_flow({("stages", "hardware"), ("workload", "bound")}) == {("workload", "bound")}


def test_no_stage_knows_a_gpu_or_a_bound() -> None:
    targets = {target for room, target in _arrows() if room in ("stages", "work", "workload", "layout", "pipeline")}
    assert not targets & {"hardware", "bound", "ceilings", "capacity", "analysis"}
