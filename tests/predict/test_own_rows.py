"""A user's CSV of measured launches: what is read, what is listed, what is refused. All times here are made up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Constants
from kvperf.predict.families import FAMILIES
from kvperf.silicon.rows import part_of
from kvperf.validate.own_rows import read_rows

pytest.importorskip("scipy")
H100 = load_gpu("h100-sxm")
DOCUMENT = Path(__file__).parents[2] / "docs" / "own_rows.md"
DECODE = "family,us,batch,heads,kv_heads,head_dim,context,window,kv_dtype,regime"
GOOD = "decode_attention,16.4,1,32,8,128,1024,,,"


def of(tmp_path, *lines, header=DECODE, stack="vllm", gpu=H100):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return read_rows(path, gpu, stack)


def test_the_example_of_the_document_is_read_and_plausible(tmp_path):
    example = DOCUMENT.read_text(encoding="utf-8").split("```csv\n")[1].split("```")[0]
    (tmp_path / "rows.csv").write_text(example, encoding="utf-8")
    groups, bad = read_rows(tmp_path / "rows.csv", H100, "vllm")
    assert bad == []
    labels = {family: [group.label for group in own] for family, own in groups.items()}
    assert labels == {
        "decode_attention": ["bfloat16", "fp8"],
        "prefill_attention": ["bfloat16"],
        "gemm": ["bfloat16", "fp8"],
        "collective": ["vllm"],
    }
    constants = Constants(H100, "vllm")
    for family, own in groups.items():
        for group in own:
            ratio = FAMILIES[family].seconds(group.rows.launch, H100, constants.of(family).constants)
            assert np.all(np.abs(np.log(ratio / group.rows.measured_s)) < 0.4), (family, group.label)


def test_units_of_time_regimes_and_formats(tmp_path):
    header = "family,seconds,ms,us,batch,heads,kv_heads,head_dim,context,kv_dtype,regime"
    groups, bad = of(
        tmp_path,
        "decode_attention,0.000020,,,1,32,8,128,1024,bfloat16,",
        "decode_attention,,0.020,,1,32,8,128,1024,FP16,warm",
        "decode_attention,,,20,1,32,8,128,1024,bf16,cold",
        header=header,
    )
    assert not bad
    warm, cold = groups["decode_attention"]
    assert warm.rows.measured_s == pytest.approx([20e-6, 20e-6])
    assert (warm.rows.launch.launch.warm, cold.rows.launch.launch.warm) == (True, False)
    assert (warm.label, cold.label) == ("bfloat16", "bfloat16")


def test_keys_are_those_of_the_tables(tmp_path):
    groups, _ = of(tmp_path, GOOD, "decode_attention,30,4,64,8,64,4096,128,fp8,")
    assert [group.rows.keys for group in groups["decode_attention"]] == [["32,8,128,0,bfloat16"], ["64,8,64,128,fp8"]]
    header = "family,us,m,n,k,weight_dtype,activation_dtype,ranks,bytes"
    lines = ("gemm,30,64,6144,4096,fp8-block,,,", "gemm,30,64,6144,4096,int4,,,", "all_reduce,11,,,,,,8,131072")
    groups, bad = of(tmp_path, *lines, header=header)
    assert not bad
    assert [group.rows.keys[0] for group in groups["gemm"]] == ["6144,4096,fp8_block", "6144,4096,int4"]
    assert [group.rows.launch.activation for group in groups["gemm"]] == ["fp8-block", "bf16"]
    assert groups["collective"][0].rows.keys == ["all_reduce,8,65536,bfloat16"]
    assert part_of("32,8,128,0,bfloat16") in ("fit", "interval", "score")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("decode_attention,nan,1,32,8,128,1024,,,", "us is 'nan': not a number"),
        ("decode_attention,inf,1,32,8,128,1024,,,", "us is 'inf': not a number"),
        ("decode_attention,1_0,1,32,8,128,1024,,,", "us is '1_0': not a number"),
        ("decode_attention,-3,1,32,8,128,1024,,,", "a time is above 0"),
        ("decode_attention,0,1,32,8,128,1024,,,", "a time is above 0"),
        ("decode_attention,,1,32,8,128,1024,,,", "its time is missing"),
        ("decode_attention,16.4,,32,8,128,1024,,,", "batch is missing"),
        ("decode_attention,16.4,1.5,32,8,128,1024,,,", "batch is 1.5: not a whole number"),
        ("decode_attention,16.4,-1,32,8,128,1024,,,", "batch is -1"),
        ("decode_attention,16.4,0,32,8,128,1024,,,", "batch is 0"),
        ("decode_attention,16.4,1,32,8,128,1e300,,,", "context is 1e300"),
        ("decode_attention,16.4,1,32,8,128,1024,-5,,", "window is -5"),
        ("decode_attention,16.4,1,32,5,128,1024,,,", "32 heads are not a multiple of 5 kv_heads"),
        ("decode_attention,16.4,1,32,8,128,1024,,int3,", "kv_dtype 'int3' is none of bf16, fp8"),
        ("decode_attention,16.4,1,32,8,128,1024,,,hot", "regime 'hot' is neither warm nor cold"),
        ("decode_attention,16.4,1,32,8,128,1024,,,,7", "more cells than there are columns"),
        ("sorting,16.4,1,32,8,128,1024,,,", "unknown family 'sorting'"),
        (",16.4,1,32,8,128,1024,,,", "family is missing"),
        ("gemm,16.4,1,,,,,,,", "gemm has no batch"),
        (
            "decode_attention,5,64,32,8,128,8192,,,cold",
            "5.00 µs is faster than physics: h100-sxm needs 641 µs at least",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_listed_and_the_others_are(tmp_path, row, why):
    groups, bad = of(tmp_path, GOOD, "", row, GOOD)
    assert len(groups["decode_attention"][0].rows.keys) == 2
    ((line, said),) = bad
    assert line == 4
    assert why in said


def test_times_of_two_units_and_a_rank_alone_are_bad(tmp_path):
    _, bad = of(
        tmp_path,
        "all_reduce,5,,1,1024",
        "all_reduce,5,1,2,1024",
        "all_reduce,5,,2,1024",
        header="family,us,ms,ranks,bytes",
    )
    assert [(line, why.split(":")[0]) for line, why in bad] == [(2, "ranks is 1"), (3, "it has ms and us")]


def test_rows_that_the_gpu_has_no_link_for_are_bad(tmp_path):
    links = msgspec.structs.replace(H100.profile.links, gpu=None, pcie=None)
    profile = msgspec.structs.replace(H100.profile, links=links)
    header = "family,us,m,n,k,ranks,bytes"
    lines = ("all_reduce,30,,,,8,1024", "gemm,30,64,6144,4096,,")
    groups, bad = of(tmp_path, *lines, header=header, gpu=msgspec.structs.replace(H100, profile=profile))
    assert bad == [(2, "h100-sxm lists no link")]
    assert list(groups) == ["gemm"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (b"", "has no header", "docs/own_rows.md"),
        (b"\n\n", "has no header", "docs/own_rows.md"),
        (b"family,us,batches\n", "unknown column 'batches'", "did you mean 'batch'?"),
        (b"family;us;batch\n", "unknown column", "docs/own_rows.md"),
        (b"family,us,us\n", "stands there twice", "leave one"),
        (b"us,batch\n1,1\n", "no column 'family'", "decode_attention"),
        (b"family,batch\n", "no column of times", "seconds, ms, us"),
        (b"family,us\n", "has no row that can be used", "docs/own_rows.md"),
        (b"family,us\ngemm,1\n", "no row that can be used; line 2: m is missing", "docs/own_rows.md"),
        (b"family,us\n\xff\xfe\x00", "is not UTF-8 text", "UTF-8"),
        (b'family,us\n"gemm,1\n', "is not CSV", "docs/own_rows.md"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8 text", "UTF-8"),
    ],
)
def test_a_file_that_is_no_table_of_rows_is_an_error(tmp_path, text, message, hint):
    path = tmp_path / "rows.csv"
    path.write_bytes(text)
    with pytest.raises(KvperfError) as problem:
        read_rows(path, H100, "vllm")
    assert message in problem.value.message
    assert hint in problem.value.hint


def test_a_missing_file_a_folder_and_an_unknown_stack_are_errors(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(KvperfError):
            read_rows(path, H100, "vllm")
    with pytest.raises(KvperfError, match="unknown stack"):
        of(tmp_path, GOOD, stack="vlm")


def test_a_byte_order_mark_and_crlf_are_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{DECODE}\r\n{GOOD}\r\n".encode())
    groups, bad = read_rows(path, H100, "vllm")
    assert (len(groups["decode_attention"][0].rows.keys), bad) == (1, [])
