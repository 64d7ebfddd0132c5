"""The physical lint: bad rows that were put in are found, good ones are left alone."""

import numpy as np
import pytest

from kvperf.silicon.lint import (
    RULES,
    faster_than_physics,
    lone_spikes,
    message_bytes,
    not_a_time,
    reject,
    release,
    screen,
)

ATTENTION = "attention/generation_attention_perf"


def test_an_injected_row_faster_than_physics_is_found():
    floor = np.array([1e-6, 1e-5, 1e-4, 1e-3])
    measured = floor * 1.2
    assert not faster_than_physics(measured, floor).any()
    measured[2] = floor[2] / 1.8
    assert faster_than_physics(measured, floor).tolist() == [False, False, True, False]


def test_slack_is_a_share_of_the_floor():
    assert not faster_than_physics([0.98], [1.0], slack=0.03).any()
    assert faster_than_physics([0.96], [1.0], slack=0.03).all()


def test_times_that_are_none():
    assert not_a_time([1e-6, 0.0, -1e-6, np.nan, np.inf]).tolist() == [False, True, True, True, True]


def test_screen_keeps_the_good_rows_and_counts_the_others():
    measured = np.array([2.0, 0.1, np.nan, 0.0, 1.0])
    keep, findings = screen(measured, np.ones(5))
    assert keep.tolist() == [True, False, False, False, True]
    assert {finding.name: finding.dropped for finding in findings} == {"not_a_time": 2, "faster_than_physics": 1}
    assert findings[1].share == pytest.approx(0.2)


def test_one_spike_in_a_sweep():
    size = 256 * 2.0 ** np.arange(8)
    groups = np.repeat([2, 8], 8)
    time = np.tile(3e-6 + size / 3e11, 2)
    assert not lone_spikes(np.tile(size, 2), time, groups).any()
    time[10] *= 11
    order = np.random.default_rng(0).permutation(16)
    found = lone_spikes(np.tile(size, 2)[order], time[order], groups[order])
    assert np.flatnonzero(found).tolist() == [int(np.flatnonzero(order == 10)[0])]


def test_a_step_up_is_no_spike():
    assert not lone_spikes([1, 2, 4, 8, 16], [1.0, 1.0, 20.0, 20.0, 21.0]).any()


@pytest.mark.parametrize(
    ("gpu", "table", "stack", "version", "columns", "expected"),
    [
        ("h100-sxm", ATTENTION, "trtllm", "1.2.0rc5", {}, [True, True]),
        ("a100-sxm", ATTENTION, "trtllm", "1.0.0", {}, [True, True]),
        ("h100-sxm", ATTENTION, "trtllm", "1.3.0rc20", {}, [False, False]),
        ("h100-sxm", ATTENTION, "sglang", "0.5.14", {}, [False, False]),
        ("h100-sxm", "gemm/gemm_perf", "vllm", "0.24.0", {"gemm_dtype": ["fp8", "fp8_block"]}, [False, True]),
        ("h100-sxm", "gemm/gemm_perf", "sglang", "0.5.14", {"gemm_dtype": ["fp8", "fp8_block"]}, [False, False]),
        (
            "b200",
            "comm/custom_allreduce_perf",
            "vllm",
            "0.24.0",
            {"kernel_source": ["vLLM_custom_eager", "vLLM_custom_graph"]},
            [True, False],
        ),
        (
            "h200-sxm",
            "mla/generation_mla_perf",
            "sglang",
            "0.5.14",
            {"kv_cache_dtype": ["bfloat16", "fp8"]},
            [False, True],
        ),
        (
            "b200",
            "mla/generation_mla_perf",
            "sglang",
            "0.5.14",
            {"kv_cache_dtype": ["bfloat16", "fp8"]},
            [False, False],
        ),
        ("h100-sxm", "quantize/scale_matrix_perf", "sglang", "0.5.14", {}, [True, True]),
        ("h100-sxm", "quantize/scale_matrix_perf", "vllm", "0.24.0", {}, [False, False]),
    ],
)
def test_named_rules(gpu, table, stack, version, columns, expected):
    rejected, findings = reject(gpu, table, stack, version, columns, 2)
    assert rejected.tolist() == expected
    assert sum(finding.dropped for finding in findings) == sum(expected)


def test_rules_have_names_and_reasons():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason and rule.tables for rule in RULES)


def test_releases_sort():
    order = ["0.5.6.post2", "0.5.14", "1.0.0rc3", "1.0.0", "1.2.0rc5", "1.3.0rc10", "1.3.0rc20", "1.3.0"]
    assert sorted(order, key=release) == order
    with pytest.raises(ValueError, match="not a version"):
        release("main")


def test_messages_are_counted_in_elements():
    assert message_bytes(268435456, "bfloat16") == 536870912
    assert message_bytes(8192, "int8") == 8192


def test_named_rules_meet_the_tables():
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    from kvperf.silicon.tables import read

    table = read("h100-sxm", "comm/custom_allreduce_perf", "sglang", "0.5.14", ["kernel_source"])
    columns = {"kernel_source": table["kernel_source"].to_pylist()}
    rejected, findings = reject("h100-sxm", "comm/custom_allreduce_perf", "sglang", "0.5.14", columns, table.num_rows)
    assert (int(rejected.sum()), findings[0].name) == (69, "eager_all_reduce")
