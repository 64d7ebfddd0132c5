"""`kvperf gpus`: what it prints in each format, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from kvperf import files
from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.hardware import gpu_names, lint, load_gpu

DOCS = Path(__file__).parents[2] / "docs" / "profiles.md"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["gpus", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_list_fits_80_columns_and_names_every_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[0] for line in lines[3:]] == gpu_names()
    h100 = next(line for line in lines if line.startswith("h100-sxm"))
    assert h100.split() == ["h100-sxm", "sm_90", "132", "79.1", "3.35", "989", "295", "50"]
    b100 = next(line for line in lines if line.startswith("b100"))
    assert b100.split()[2] == b100.split()[-1] == "unknown"


def test_list_as_json_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(printed(capsys, "--format", "json"))
    assert record["schema"] == "kvperf.gpus/1"
    by_name = {gpu["name"]: gpu for gpu in record["gpus"]}
    assert by_name["h100-sxm"]["hbm_bytes_per_s"] == 3.35e12
    assert by_name["b100"]["sms"] is None
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--format", "csv"))))
    assert [row["name"] for row in rows] == gpu_names()
    assert rows[gpu_names().index("b100")]["sms"] == ""
    assert printed(capsys, "--format", "md").startswith("| GPU | arch |")


def test_list_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert printed(capsys, "--format", "csv", "--output", str(tmp_path / "gpus.csv")) == ""
    assert (tmp_path / "gpus.csv").read_text(encoding="utf-8").startswith("name,title,architecture")


def test_show_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", "h100")
    for line in (
        r"h100-sxm: NVIDIA H100 SXM5 80 GB",
        r"132 SMs \(sm_90\), boost 1.980 GHz, tensor 1.830 GHz, power 700 W",
        r"profile: .*hardware/h100-sxm\.yaml",
        r"registers +256 KiB per SM +unknown +4 +2.02",
        r"L2 cache +50 MiB +4.86 TB/s measured +219–291 +111",
        r"HBM3 +weights and KV cache +xla, stas, aic",
        r"bf16 +fp32 +wgmma +spec +stas, aic +989 +295",
        r"bf16 +fp32 +mma.sync +derived +luo, gpuroof +633 +189",
        r"threads per SM +cccl, occ +2048",
        r"shared allocation unit +occ +128 B",
        r"to other GPUs +NVLink 4, 18 links +stas +450 GB/s",
        r"  joins +aic +8 GPUs",
        r"one machine +aic +8 GPUs",
        r"to other machines +InfiniBand NDR, 400 Gb/s +aic, ibta +50.0 GB/s",
        r"  latency +deepseek_hw +3.7 µs",
        r"ibta +InfiniBand Trade Association roadmap: data rate of 4x NDR",
        r"node of a CUDA graph +unknown",
        r"gemm bf16 +best row, short runs +aicdb +956.0 TFLOP/s",
        r"mt4g +caps-tum/mt4g@4cc5566: sample_results/\*\.json",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_show_prints_the_far_half_of_a_split_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"^  its far half +490 +247", printed(capsys, "show", "gh200"), re.MULTILINE)


@pytest.mark.parametrize("name", ["b100", "mi300x", "rtx-5090", "h20"])
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_show_knows_how_to_say_unknown(capsys: pytest.CaptureFixture[str], name: str, form: str) -> None:
    text = printed(capsys, "show", name, "--format", form)
    assert "None" not in text
    assert "nan" not in text.lower().split()
    assert form in ("json", "csv") or "unknown" in text


def test_show_as_json_in_base_units(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(printed(capsys, "show", "h100", "--format", "json"))
    assert record["peaks"][3] | {"source": None} == {
        "flops_per_s": 989.4e12,
        "dtype": "bf16",
        "accumulator": "fp32",
        "path": "wgmma",
        "kind": "spec",
        "source": None,
        "ridge_flops_per_byte": pytest.approx(295.34, rel=1e-4),
    }
    assert record["rates"]["graph_launch_s"] is None
    assert record["limits"]["threads_per_sm"]["value"] == 2048
    assert record["limits"]["shared_per_sm"]["value"] == 233_472
    assert [level["name"] for level in record["levels"]][-1] == "HBM3"
    assert record["links"]["gpu"]["gpus"]["value"] == record["node"]["gpus"]["value"] == 8
    assert record["links"]["network"]["name"] == record["network"]["name"] == "infiniband-ndr"
    assert record["network"]["per_direction"]["value"] == 50e9
    assert record["network"]["latency"]["value"] == 3.7e-6
    assert {"ibta", "deepseek_hw"} <= set(record["sources"])
    used = {key for peak in record["peaks"] for key in peak["source"]}
    assert used <= set(record["sources"])


def test_show_where_nobody_knows_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", "t4")
    assert re.search(r"^one machine +unknown$", text, re.MULTILINE)
    assert re.search(r"^to other machines +unknown", text, re.MULTILINE)
    record = json.loads(printed(capsys, "show", "t4", "--format", "json"))
    assert record["node"] is record["network"] is record["links"]["network"] is None


def test_show_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvperf.render.table.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["gpus", "show", "mi300x"]) == 0
    assert run(["gpus"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "last-level cache" in text
    assert max(len(line) for line in _tables(text)) <= 80


def _tables(page: str) -> list[str]:
    """The lines of a page but for the profile's path and the sources, which no terminal may break."""
    before, after = re.split(r"^sources\n(?:.*: .*\n)+", page, flags=re.MULTILINE)
    return [line for line in (before + after).splitlines() if not line.startswith("profile: ")]


@pytest.mark.parametrize("name", gpu_names())
def test_a_narrow_terminal_leaves_paths_and_sources_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("kvperf.render.table.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / ("long" * 20) / "mine.yaml"
    path.parent.mkdir()
    path.write_text((files.folder("hardware") / f"{name}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert run(["gpus", "show", str(path)]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert f"profile: {path}" in text.splitlines()
    gpu = load_gpu(name)
    lines = {" ".join(line.split()) for line in text.splitlines()}
    for key, source in {**gpu.architecture.sources, **gpu.profile.sources}.items():
        assert " ".join(f"{key} {source}".split()) in lines
    assert max(len(line) for line in _tables(text)) <= 80
    assert "…" not in text


def test_show_begins_with_what_a_roofline_needs(capsys: pytest.CaptureFixture[str]) -> None:
    titles = ["memory hierarchy", "dense peaks", "links", "measured", "other rates", "what cached", "limits", "sources"]
    text = printed(capsys, "show", "h100")
    places = [re.search(f"^{title}", text, re.MULTILINE) for title in [*titles, "notes$"]]
    starts = [place.start() for place in places if place]
    assert len(starts) == 9 and starts == sorted(starts)


def test_every_figure_of_the_heading_has_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    heading = printed(capsys, "show", "b100").splitlines()[1]
    assert heading == "SM count unknown (sm_100), boost unknown, tensor unknown, power 700 W"
    text = (files.folder("hardware") / "h100-sxm.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub("^power: .*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    assert printed(capsys, "show", str(path)).splitlines()[1].endswith(", tensor 1.830 GHz, power unknown")


@pytest.mark.parametrize("name", ["mi250x", "mi300x", "mi325x", "mi355x"])
def test_amd_has_its_own_words(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = printed(capsys, "show", name).split("\nsources\n")[0]
    assert "KiB per CU" in text and "limits of one CU" in text and "wavefront threads" in text
    for word in (r"SMs?", "sm", "CUDA.*", "warps?", "tensor", "SFU"):
        assert not re.search(rf"\b{word}\b", text), word


def test_a_wrong_name_and_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "show", "h10"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown GPU 'h10'\nhint: did you mean 'h100'? `kvperf gpus` lists what there is\n"
    )


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("h100", "write `kvperf gpus show h100`; `kvperf gpus` lists the GPUs"),
        ("RTX 4090", "write `kvperf gpus show 'RTX 4090'`; `kvperf gpus` lists the GPUs"),
        ("./mine.yaml", "write `kvperf gpus show ./mine.yaml`; `kvperf gpus` lists the GPUs"),
        ("list", "`kvperf gpus` lists the GPUs, `kvperf gpus show h100` prints one"),
        ("chekc", "did you mean 'check'? `kvperf gpus --help` lists what there is"),
    ],
)
def test_a_gpu_or_list_in_the_place_of_a_command(capsys: pytest.CaptureFixture[str], given: str, hint: str) -> None:
    assert run(["gpus", given]) == 2
    assert capsys.readouterr().err == f"error: unknown command '{given}'\nhint: {hint}\n"


def test_check_ends_with_0_1_or_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (files.folder("hardware") / "h100-sxm.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    assert printed(capsys, "check", "b200") == "ok: no findings\n"
    assert printed(capsys, "check", "t4") == (
        "ok: no findings; not checked: GDDR6 bandwidth against the memory clock (no memory clock)\n"
    )
    path.write_text(text.replace("value: 989.4 TFLOP/s", "value: 1978.8 TFLOP/s"), encoding="utf-8")
    assert run(["gpus", "check", str(path)]) == 1
    findings = capsys.readouterr().out.splitlines()
    assert len(findings) == 2
    assert all(re.match(rf"{re.escape(str(path))}:\d+:\d+: .* 2:4 sparse number", line) for line in findings)
    with pytest.raises(KvperfError, match="2:4 sparse number"):
        load_gpu(str(path))  # refused by the loader, and a finding all the same
    path.write_text(text.replace("3.35 TB/s", "3.35e12"), encoding="utf-8")
    assert run(["gpus", "check", str(path)]) == 2
    assert capsys.readouterr().err.endswith("hint: write it like '3.35 TB/s'\n")
    assert run(["gpus", "check", str(tmp_path / "absent.yaml")]) == 2


def test_the_example_of_the_docs_loads_and_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "my-h100.yaml"
    path.write_text(blocks[0], encoding="utf-8")
    gpu = load_gpu(str(path))
    assert gpu.peak("int8").flops_per_s == 811e12
    assert gpu.measured_peak("bf16") == 690e12
    assert (gpu.link_gpus, gpu.node_gpus, gpu.network) == (8, 8, "infiniband-ndr")
    assert lint.check(path).findings == ()
