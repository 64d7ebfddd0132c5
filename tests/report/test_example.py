"""The example in reports/ is what the program writes today."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvperf.kernel import toolkit
from kvperf.render.report.markdown import markdown
from tests.nvrtc import needs_nvrtc
from tests.report.subjects import document

EXAMPLE = Path(__file__).parents[2] / "reports" / "report-llama-3.1-8b-h100.md"


@needs_nvrtc
def test_the_example_is_up_to_date() -> None:
    """Where it is not: `kvperf report --output reports/report-llama-3.1-8b-h100.md`."""
    if toolkit.tool("cuobjdump") is None or toolkit.tool("nvdisasm") is None:
        pytest.skip("cuobjdump and nvdisasm are not installed: pip install kvperf[test]")
    assert EXAMPLE.read_text(encoding="utf-8") == markdown(document())
