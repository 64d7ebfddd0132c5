"""Made-up samples, cases and records, noisy like a GPU's. Nothing here was measured on anything."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.bench.record import Case, Environment, Record, Resources, Samples, Work
from kvperf.bench.statistics import summary

ENVIRONMENT = Environment(
    gpu="Made-up GPU",
    profile=None,
    capability="90",
    sms=132,
    l2_bytes=50 << 20,
    memory_bytes=80 << 30,
    driver="0.0",
    cuda="13.0",
    code_hash="0123456789ab",
    power_cap_w=700.0,
)


def made_up(seed: int, median_s: float = 33e-6, count: int = 60, noise: float = 0.002) -> tuple[float, ...]:
    """Samples around a median: noise of log-normal spread, and one in twenty slower by up to a tenth.

    The slow ones are drawn from above the median, so that it stays where it is.
    """
    random = np.random.default_rng(seed)
    factors = np.exp(noise * random.standard_normal(count))
    slow = (factors > 1) & (random.random(count) < 0.1)
    return tuple((median_s * factors * np.where(slow, 1 + 0.1 * random.random(count), 1)).tolist())


def in_rounds(seed: int, ratio: float, count: int = 60, drift: float = 0.05) -> tuple[Any, Any]:
    """Two columns read in the same rounds, the second `ratio` times as long, both slowed alike by a drifting clock."""
    wave = 1 + drift * np.sin(np.linspace(0, 6, count))
    first, second = np.array(made_up(seed, count=count)), np.array(made_up(seed + 1, count=count))
    return tuple((first * wave).tolist()), tuple((ratio * second * wave).tolist())


def made_up_case(subject: str = "split_kv", seconds: tuple[float, ...] | None = None, **fields: Any) -> Case:
    """A case of attention with all its figures, on made-up samples."""
    seconds = made_up(7) if seconds is None else seconds
    found = summary(seconds, "confident") if seconds else None
    size = found.median_s / 33e-6 if found and found.median_s < 30e-6 else 1.0  # what takes less time has less to do
    figures: dict[str, Any] = {
        "family": "attention",
        "regime": "cold",
        "shape": {"batch": 4, "heads": 32, "kv_heads": 8, "head_dim": 128, "seq": 4096, "dtype": "bf16"},
        "samples": Samples(seconds=seconds, sm_clock_hz=(1.755e9,) * len(seconds), power_w=(500.0,) * len(seconds)),
        "work": Work(compulsory_bytes=67.17e6 * size, kv_bytes=67.11e6 * size),
        "resources": Resources(
            registers=64, spill_bytes=0, shared_bytes=49152, blocks=256, blocks_per_sm=2, waves=0.97, code_hash="ab"
        ),
        "rotation": 4,
        "rotated_bytes": 4 * 67_170_000,
        "error": 4.1e-4,
        "error_limit": 2e-3,
        "bound_s": 20.05e-6 * size,
    }
    figures |= fields
    if found:
        beyond = found.median_s - (figures["bound_s"] or 0)
        rate = (figures["work"].kv_bytes or figures["work"].compulsory_bytes) / found.median_s
        read = figures.get("read_bytes_per_s", 3.05e12)
        figures = {
            "statistics": found,
            "bytes_per_s": rate,
            "read_bytes_per_s": read,
            "share_of_datasheet": rate / 3.35e12,
            "share_of_read": rate / read,
            "gap": {"launch": 2.1e-6, "ramp and tail": 3.3333e-6, "unexplained": beyond - 2.1e-6 - 3.3333e-6},
            "verdict": "mostly ramp and tail",
        } | figures
    return Case(subject=subject, **figures)


def made_up_record(*cases: Case, **fields: Any) -> Record:
    """A record of these cases."""
    given: dict[str, Any] = {
        "schema_version": "kvperf.bench/1",
        "version": "0",
        "command": "kvperf bench attention",
        "seed": 1,
        "started": "2000-01-01T00:00:00Z",
        "emulated": False,
        "complete": True,
        "environment": ENVIRONMENT,
        "cases": cases,
    }
    return Record(**(given | fields))
