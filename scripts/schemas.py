"""Write the JSON Schema of every record into kvperf/schemas. A test compares them with the records."""

import json
from pathlib import Path

import msgspec

from kvperf import comparison
from kvperf.bench.compare import Comparison
from kvperf.bench.doctor import Diagnosis
from kvperf.bench.record import Record
from kvperf.kernel.account import KernelAccount
from kvperf.kernel.verify import Verification
from kvperf.plan.record import Plan
from kvperf.record import Analysis

FOLDER = Path(__file__).parents[1] / "kvperf" / "schemas"
RECORDS = {
    "analysis-1": Analysis,
    "plan-1": Plan,
    "comparison-1": comparison.Comparison,
    "kernel-1": KernelAccount,
    "kernel-verification-1": Verification,
    "bench-1": Record,
    "bench-comparison-1": Comparison,
    "doctor-1": Diagnosis,
}


def text(struct: type) -> str:
    return json.dumps(msgspec.json.schema(struct), indent=2) + "\n"


if __name__ == "__main__":
    for name, struct in RECORDS.items():
        (FOLDER / f"{name}.json").write_text(text(struct), encoding="utf-8")
