"""No digit stands in a sentence of the report: every number is a value."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import kvperf.report
from kvperf.report.references import REFERENCES

FOLDER = Path(kvperf.report.__file__).parent
CITATIONS = "references.py"
# Names that have a digit in them.
NAMES = re.compile(
    r"\b(fp8|int8|int4|h200|b200|fp16|bf16|fp32|[lL]2|l2_s|L1|hierarchy\.l2_over_memory|attention\.layer_over_l2)\b"
)


def _strings(path: Path) -> list[str]:
    """Every string of a module but docstrings, the fixed parts of f-strings included, format codes not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            skipped |= {id(inner) for inner in ast.walk(node.format_spec)}
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [str(node.value) for node in sorted(constants, key=lambda n: n.lineno) if id(node) not in skipped]


def _with_digits(path: Path) -> list[str]:
    return [text for text in _strings(path) if re.search(r"\d", NAMES.sub("", text))]


def test_no_digit_in_a_template() -> None:
    found = {path.name: _with_digits(path) for path in sorted(FOLDER.glob("*.py")) if path.name != CITATIONS}
    assert len(found) > 10
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_a_digit_in_a_template_is_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text('"""Page 1."""\nx = f"about {1:.3g} of 20 cycles in fp8"\ny = "L2 50 MB"\n')
    assert _with_digits(tmp_path / "wrong.py") == [" of 20 cycles in fp8", "L2 50 MB"]


def test_every_reference_is_cited() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    assert {key for key in REFERENCES if f'cite("{key}")' not in sources} == set()
