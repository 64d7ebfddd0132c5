"""PTX text to a kernel: parameters, registers, variables in memory, and the code cut into basic blocks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvperf.emulator.fault import Fault
from kvperf.emulator.instruction import Address, Immediate, Instruction, Operand, Register, Symbol, Vector

_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_STATEMENT = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)
_VARIABLE = re.compile(
    r"\.(shared|global|const|local)\s+(?:\.attribute\([^)]*\)\s+)?(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
    r"((?:\[\d*\])*)(?:\s*=\s*(.*))?",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s*(?:\.(?!align)\w+\s*)*(?:\.align\s+\d+\s+)?)?([\w$]+)(?:\[(\d+)\])?"
)


def type_bytes(kind: str) -> int:
    """Size of a fundamental type (b8 … f64): its name ends in its bits."""
    return 1 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8


class Parameter(NamedTuple):
    """A parameter of the entry; `kind` is its type, "bytes" for a structure passed by value."""

    name: str
    kind: str
    offset_bytes: int
    size_bytes: int


class Variable(NamedTuple):
    """A variable in memory. `size_bytes` is 0 for the dynamic shared memory; `data` is its initial content."""

    name: str
    space: str
    align_bytes: int
    size_bytes: int
    data: bytes | None


@dataclass
class Kernel:
    """One entry of a PTX module. `block_end` gives for each instruction where its basic block ends."""

    name: str
    parameters: list[Parameter]
    variables: list[Variable]
    code: list[Instruction]
    labels: dict[str, int]
    max_threads: int | None
    block_end: list[int] = field(default_factory=list)


class _Scope(NamedTuple):
    """What `{ … }` declares: registers and labels that hide those of the same name outside."""

    registers: dict[str, Register]
    labels: dict[str, str]


def parse(ptx: str, entry: str) -> Kernel:
    """The kernel `entry` of a module."""
    text = _without_comments(ptx)
    head = re.search(rf"\.entry\s+{re.escape(entry)}\s*\(", text)
    if head is None:
        known = ", ".join(re.findall(r"\.entry\s+(\w+)", text)) or "none"
        raise Fault("unknown", f"the PTX has no entry '{entry}'", f"its entries: {known}")
    opening = text.index("{", head.end())
    header = text[head.end() : opening]
    bounds = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", header)
    reader = _Body(text, _files(ptx))
    reader.read(opening)
    return Kernel(
        name=entry,
        parameters=_parameters(header),
        variables=_module_variables(text) + reader.variables,
        code=reader.code,
        labels=reader.positions,
        max_threads=_product(bounds.groups()) if bounds else None,
    )


def _product(dimensions: tuple[str | None, ...]) -> int:
    product = 1
    for dimension in dimensions:
        product *= int(dimension or 1)
    return product


def _without_comments(ptx: str) -> str:
    """Comments blanked, so that every character keeps its line."""
    text = re.sub(r"/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), ptx, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def _files(ptx: str) -> dict[str, str]:
    """Source files by their number in `.loc`, by last name."""
    return {
        number: path.rsplit("/", 1)[-1] for number, path in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', ptx, re.M)
    }


def _parameters(header: str) -> list[Parameter]:
    parameters, offset = [], 0
    for align, kind, name, length in _PARAMETER.findall(header):
        size = type_bytes(kind) * int(length or 1)
        boundary = int(align or type_bytes(kind))
        offset = -(-offset // boundary) * boundary
        parameters.append(Parameter(name, "bytes" if length else kind, offset, size))
        offset += size
    return parameters


def _module_variables(text: str) -> list[Variable]:
    """Variables outside any function."""
    outside, depth, start = [], 0, 0
    for brace in re.finditer(r"[{}]", re.sub(r"=\s*\{[^}]*\}", lambda found: "=" + " " * (len(found[0]) - 1), text)):
        if brace[0] == "{":
            if depth == 0:
                outside.append(text[start : brace.start()])
            depth += 1
        else:
            depth -= 1
            start = brace.end()
    outside.append(text[start:])
    statements = ";".join(outside).split(";")
    found = [re.search(r"\.(?:shared|global|const)\s.*", statement, re.DOTALL) for statement in statements]
    return [variable(match[0]) for match in found if match and _VARIABLE.match(match[0])]


def variable(statement: str) -> Variable:
    """`.shared .align 16 .b8 tile[4096]`, `.const .f32 table[2] = {0f3F800000, 0f00000000}` …"""
    match = _VARIABLE.match(statement)
    assert match is not None
    space, align, kind, name, lengths, content = match.groups()
    size = type_bytes(kind)
    total = size
    for length in re.findall(r"\[(\d*)\]", lengths or ""):
        total *= int(length or 0)
    return Variable(name, space, int(align or size), total, _data(content, size, total))


def _data(content: str | None, size: int, total: int) -> bytes | None:
    if content is None:
        return None
    values = [immediate(item) for item in re.findall(r"[-\w.]+", content)]
    data = b"".join((value.bits & ((1 << 8 * size) - 1)).to_bytes(size, "little") for value in values if value)
    return data.ljust(total, b"\0")


def immediate(text: str) -> Immediate | None:
    """A constant of PTX, or None where it is none."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return Immediate(int(text[2:], 16), 4)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return Immediate(int(text[2:], 16), 8)
    if re.fullmatch(r"-?0[xX][0-9a-fA-F]+U?", text):
        return Immediate(int(text.rstrip("U"), 16))
    if re.fullmatch(r"-?\d+U?", text):
        return Immediate(int(text.rstrip("U")))
    return None


class _Body:
    """Reads the body of an entry, statement by statement."""

    def __init__(self, text: str, files: dict[str, str]) -> None:
        self.text = text
        self.files = files
        self.code: list[Instruction] = []
        self.positions: dict[str, int] = {}
        self.variables: list[Variable] = []
        self.scopes: list[_Scope] = []
        self.scopes_seen = 0
        self.source = ""
        self.line_starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def read(self, opening: int) -> None:
        for start, statement in self._statements(opening):
            if statement == "{":
                self._open(start)
            elif statement == "}":
                self.scopes.pop()
            elif statement.startswith(".loc ") or statement.startswith(".loc\t"):
                self.source = self._location(statement)
            elif statement.endswith(":"):
                self.positions[self._label(statement[:-1])] = len(self.code)
            elif statement.startswith(".reg"):
                self._declare(statement)
            elif _VARIABLE.match(statement):
                self.variables.append(variable(statement))
            elif not statement.startswith("."):
                self.code.append(self._instruction(statement, bisect_right(self.line_starts, start)))

    def _statements(self, position: int) -> Iterator[tuple[int, str]]:
        """Scopes, labels, `.loc` lines and statements from the opening brace to the closing one."""
        depth = 0
        pattern = re.compile(r"\s*(?:([{}])|(\.loc\s[^\n]*)|([$\w]+:)(?!:)|([^;]*);|;)")
        while match := pattern.match(self.text, position):
            position = match.end()
            statement = next((part for part in match.groups() if part is not None), "").strip()
            depth += {"{": 1, "}": -1}.get(statement, 0)
            if statement:
                yield match.start(match.lastindex or 0), statement
            if depth == 0:
                return

    def _open(self, start: int) -> None:
        """A scope with the labels it defines, found ahead because a branch may come first."""
        self.scopes_seen += 1
        labels = {}
        if self.scopes:
            inner = (statement for _, statement in self._statements(start) if statement.endswith(":"))
            labels = {label[:-1]: f"{label[:-1]}@{self.scopes_seen}" for label in inner}
        self.scopes.append(_Scope({}, labels))

    def _location(self, statement: str) -> str:
        """`.loc 1 30 3, function_name …, inlined_at 1 65 26`."""
        places = re.findall(r"(?:\.loc|inlined_at)\s+(\d+)\s+(\d+)", statement)
        return " inlined at ".join(f"{self.files.get(file, file)}:{line}" for file, line in places)

    def _declare(self, statement: str) -> None:
        kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.DOTALL).groups()  # type: ignore[union-attr]
        registers = self.scopes[-1].registers
        suffix = "" if len(self.scopes) == 1 else f"@{self.scopes_seen}"
        for name in names.split(","):
            name = name.strip()
            if counted := re.fullmatch(r"([%\w$]+)<(\d+)>", name):
                for number in range(int(counted[2])):
                    registers[f"{counted[1]}{number}"] = Register(f"{counted[1]}{number}{suffix}", kind)
            else:
                registers[name] = Register(name + suffix, kind)

    def _label(self, name: str) -> str:
        return next((scope.labels[name] for scope in reversed(self.scopes) if name in scope.labels), name)

    def _instruction(self, statement: str, line: int) -> Instruction:
        match = _STATEMENT.match(statement)
        assert match is not None
        negation, guard, opcode, operands = match.groups()
        name, *modifiers = opcode.split(".")
        return Instruction(
            line=line,
            source=self.source,
            text=" ".join(statement.split()),
            guard=self._register(guard)._replace(negated=bool(negation)) if guard else None,
            opcode=name,
            modifiers=tuple(modifiers),
            operands=tuple(self.operand(text) for text in _OPERAND.findall(operands)),
        )

    def _register(self, name: str) -> Register:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
        raise Fault("unknown", f"the PTX names a register it does not declare: {name}", "is the PTX whole?")

    def operand(self, text: str) -> Operand:
        if text[0] == "{":
            return Vector(tuple(self.operand(part) for part in re.split(r"[,\s]+", text.strip("{} \n\t")) if part))
        if text[0] == "[":
            base, offset = re.fullmatch(r"([^+\s]+)\s*(?:\+\s*(-?\w+))?", text.strip("[] \n\t")).groups()  # type: ignore[union-attr]
            inner = self.operand(base)
            assert isinstance(inner, Register | Symbol | Immediate)
            return Address(inner, int(offset or "0", 0))
        if text[0] == "!":
            return self._register(text[1:])._replace(negated=True)
        if "|" in text:
            return Vector(tuple(self.operand(part) for part in text.split("|")))
        for scope in reversed(self.scopes):
            if text in scope.registers:
                return scope.registers[text]
        return immediate(text) or Symbol(self._label(text))
