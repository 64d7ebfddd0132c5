"""`kvperf bench compare` and `show --against`: two records or two subjects side by side, and a gate by exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from kvperf.bench.record import Case
from tests.bench.made_up import made_up, made_up_case, made_up_record
from tests.bench.test_bench_command import kept, ran


def field(batch: int) -> list[Case]:
    """Ours, a library's and a user's kernel on one shape."""
    mine = made_up_case("mine.py:f", made_up(4, 30e-6), family="kernel", shape={"batch": batch})
    times = {"split_kv": 33e-6, "torch flash": 40e-6, "torch cudnn": 36e-6 if batch == 1 else 44e-6}
    return [*(made_up_case(n, made_up(i, t), shape={"batch": batch}) for i, (n, t) in enumerate(times.items())), mine]


def test_a_user_s_kernel_stands_in_one_table_with_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = kept(tmp_path, made_up_record(*field(1)))
    _, out, _ = ran(capsys, "show", path)
    assert out.count("subject") == 1 and "attention · cold · batch 1" in out and "mine.py:f" in out
    _, out, _ = ran(capsys, "compare", path, path)
    assert out.count("subject") == 1
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(field(1)[-1])))
    assert "attention · cold · batch 1" in out


def test_against_a_library(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = kept(tmp_path, made_up_record(*field(1), *field(16)))
    code, out, err = ran(capsys, "show", path, "--against", "torch")
    assert (code, err) == (0, "") and "sample by sample" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("split_kv", "mine"))]
    assert [(row[0], row[1], " ".join(row[2:4]), row[-1]) for row in rows] == [
        ("split_kv", "1", "torch cudnn", "FASTER"),
        ("mine.py:f", "1", "torch cudnn", "FASTER"),
        ("split_kv", "16", "torch flash", "FASTER"),
        ("mine.py:f", "16", "torch flash", "FASTER"),
    ]
    assert float(rows[0][6]) == pytest.approx(33 / 36, rel=0.01)
    assert max(len(line) for line in out.splitlines()) <= 80
    code, out, _ = ran(capsys, "show", path, "--against", "split_kv", "--case", "batch=16", "--format", "json")
    found = json.loads(out)
    assert [(one["subject"], one["against"]) for one in found["cases"]] == [
        (name, "split_kv") for name in ("torch flash", "torch cudnn", "mine.py:f")
    ]
    assert all(one["ratio"]["paired"] and one["ratio"]["pairs"] == 60 for one in found["cases"])
    _, out, _ = ran(capsys, "show", path, "--against", "split_kv", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(out)))) == 6


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Records of three cases: B is slower by 5 % in one, faster in one, the same in one."""
    a = [made_up_case(name, made_up(i)) for i, name in enumerate(("split_kv", "flash", "vector_loads"))]
    b = [
        made_up_case(name, made_up(10 + i, 33e-6 * factor))
        for i, (name, factor) in enumerate((("split_kv", 1.05), ("flash", 0.9), ("vector_loads", 1.0)))
    ]
    only = made_up_case("bulk_copy", refused="warm cache")
    return kept(tmp_path, made_up_record(*a, only), "a.json"), kept(tmp_path, made_up_record(*b, seed=2), "b.json")


def test_two_records_side_by_side(capsys: pytest.CaptureFixture[str], two: tuple[str, str]) -> None:
    code, out, err = ran(capsys, "compare", *two)
    assert (code, err) == (0, "")
    for name, said in (("split_kv", "SLOWER"), ("flash", "FASTER"), ("vector_loads", "SAME")):
        assert next(line for line in out.splitlines() if line.startswith(name)).split()[-1] == said
    assert "geometric mean of 3 ratios B / A: 0.98" in out
    assert "warning: seed differs: 1 in A, 2 in B" in out and "only in A: bulk_copy cold" in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(("limit", "expected"), [("3%", 1), ("2.5%", 1), ("3 %", 1), ("0%", 1), ("6%", 0), ("100%", 0)])
def test_the_gate(capsys: pytest.CaptureFixture[str], two: tuple[str, str], limit: str, expected: int) -> None:
    code, out, err = ran(capsys, "compare", *two, "--fail-over", limit)
    assert code == expected
    assert "SLOWER" in out
    assert err.startswith("slower: split_kv cold batch=4") == bool(expected)
    assert err.count("\n") == expected


def test_the_gate_names_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ("split_kv", "flash", "vector_loads", "tensor_cores")
    a = [made_up_case(name, made_up(i)) for i, name in enumerate(names)]
    noisy = made_up_case("flash", made_up(9, 36e-6, count=5))
    b = [a[0], noisy, made_up_case("vector_loads", refused="above the roof")]
    paths = kept(tmp_path, made_up_record(*a), "a.json"), kept(tmp_path, made_up_record(*b, complete=False), "b.json")
    assert ran(capsys, "compare", *paths)[0] == 0  # it is a gate only where one is asked for
    code, _, err = ran(capsys, "compare", *paths, "--fail-over", "3%")
    assert code == 1
    assert [line.split(" cold ")[0] for line in err.splitlines()] == [
        "incomplete: the run of B was interrupted or ran out of time",
        "lost: vector_loads",
        "lost: tensor_cores",
        "ambiguous: flash",
    ]
    assert err.splitlines()[1].endswith(": refused in B: above the roof")
    assert err.splitlines()[2].endswith(": missing in B")


def test_a_record_with_nothing_left_of_it_fails_the_gate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a = kept(tmp_path, made_up_record(made_up_case()), "a.json")
    b = kept(tmp_path, made_up_record(made_up_case(refused="above the roof")), "b.json")
    code, out, err = ran(capsys, "compare", a, b, "--fail-over", "3%")
    assert code == 1 and err.startswith("lost: split_kv") and "geometric mean of 0 ratios B / A: unknown" in out
    code, out, _ = ran(capsys, "compare", a, b, "--format", "csv")
    assert (code, out) == (0, "")
    code, out, _ = ran(capsys, "compare", a, b, "--format", "json")
    assert json.loads(out)["geometric_mean"] is None


@pytest.mark.parametrize("format", ["json", "csv", "md"])
def test_the_gate_in_other_formats(capsys: pytest.CaptureFixture[str], two: tuple[str, str], format: str) -> None:
    code, out, err = ran(capsys, "compare", *two, "--fail-over", "3%", "--format", format)
    assert code == 1 and "slower: split_kv" in err
    if format == "json":
        found = json.loads(out)
        assert found["schema"] == "kvperf.bench-comparison/1"
        assert [one["verdict"] for one in found["cases"]] == ["SLOWER", "FASTER", "SAME"]
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["verdict"] for row in rows] == ["SLOWER", "FASTER", "SAME"]
        assert 1.04 < float(rows[0]["low"]) < float(rows[0]["ratio"]) < float(rows[0]["high"]) < 1.06
        assert "warning: seed differs" in err
    else:
        assert "| subject |" in out and "\n\nwarning: seed differs" in out


@pytest.mark.parametrize("wrong", ["3", "0.03", "three%", "-3%", "3 percent", "nan%", ""])
def test_a_limit_that_is_no_percentage(capsys: pytest.CaptureFixture[str], two: tuple[str, str], wrong: str) -> None:
    code, out, err = ran(capsys, "compare", *two, f"--fail-over={wrong}")
    assert (code, out) == (2, "")
    assert err == f"error: --fail-over '{wrong}' is not a percentage\nhint: write it like 3% or 2.5%\n"


def test_a_terminal_draws_the_same_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, two: tuple[str, str]
) -> None:
    from kvperf.render import table

    monkeypatch.setattr(table, "is_terminal", lambda: True)
    code, out, _ = ran(capsys, "compare", *two)
    assert code == 0 and "SLOWER" in out and "geometric mean of 3 ratios" in out
