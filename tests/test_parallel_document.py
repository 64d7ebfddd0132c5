"""Every figure of docs/parallel.md is what the code computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import kvperf
from kvperf.plan.points import GRID
from kvperf.predict.step import COLLECTIVES
from kvperf.record import Analysis

TEXT = (Path(__file__).parent.parent / "docs" / "parallel.md").read_text(encoding="utf-8")
ALL_REDUCES = 161


def exchanged_s(hidden: int, bytes_per_s: float = 50e9) -> float:
    return 32 * 9 * (1 + 2) * hidden / bytes_per_s


def of_70b(algorithm: str) -> Analysis:
    return kvperf.analyze("h100", "llama-3.1-70b", tp=8, all_reduce=algorithm)


def each_us(algorithm: str) -> float:
    stage = next(stage for stage in of_70b(algorithm).stages if stage.name == "all_reduce")
    assert stage.link_bytes == ALL_REDUCES * 16 * 1024
    return 1e6 * (stage.predicted_s or 0) / ALL_REDUCES


def share(algorithm: str) -> float:
    record = of_70b(algorithm)
    talking = sum(stage.predicted_s or 0 for stage in record.stages if stage.name in COLLECTIVES)
    return 100 * talking / (record.step.predicted_s or 1)


def tokens_per_s_per_node(overlap: bool) -> float:
    record = kvperf.analyze(
        cluster="h800:8x18",
        model="deepseek-v3",
        attention_dp=144,
        ep=144,
        redundant_experts=32,
        batch=144 * 88,
        seq=4989,
        stack="sglang",
        overlap=overlap,
    )
    return (record.step.tokens_per_s_predicted or 0) / 18


FIGURES: dict[str, Callable[[], str]] = {
    "ep_us": lambda: f"{1e6 * exchanged_s(7000):.2f}",
    "ep_ms": lambda: f"{1e3 * 2 * 61 * exchanged_s(7000):.2f}",
    "ep_real_us": lambda: f"{1e6 * exchanged_s(7168):.2f}",
    "one_us": lambda: f"{each_us('one-shot'):.1f}",
    "two_us": lambda: f"{each_us('two-shot'):.1f}",
    "nccl_us": lambda: f"{each_us('nccl'):.1f}",
    "one_share": lambda: f"{share('one-shot'):.0f}",
    "nccl_share": lambda: f"{share('nccl'):.0f}",
    "serial": lambda: f"{round(tokens_per_s_per_node(False), -2):,.0f}",
    "overlap": lambda: f"{round(tokens_per_s_per_node(True), -2):,.0f}",
}


def test_every_marked_figure_has_a_computation() -> None:
    assert set(re.findall(r"<!--(\w+)-->", TEXT)) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_what_the_code_computes(name: str) -> None:
    (written,) = re.findall(rf"<!--{name}-->(.*?)<!--/{name}-->", TEXT)
    assert written == FIGURES[name]()


def test_the_ranges_that_users_rely_on() -> None:
    """16 KiB on 8 H100: 3 to 6 µs in one shot from a graph, 15 to 19 µs with NCCL (ai-dynamo/aiconfigurator tables)."""
    assert 3 <= each_us("one-shot") <= 6
    assert 15 <= each_us("nccl") <= 19
    assert share("nccl") > 2 * share("one-shot")


def test_the_published_deployment_lies_between_no_overlap_and_all() -> None:
    """deepseek-ai/open-infra-index, day 6: 14.8 k output tokens/s a node, two micro-batches overlapping."""
    assert tokens_per_s_per_node(False) < 14_800 < tokens_per_s_per_node(True)


def test_the_number_of_batches() -> None:
    (said,) = re.findall(r"each layout at (\d+) batches", TEXT)
    assert int(said) == len(GRID)
