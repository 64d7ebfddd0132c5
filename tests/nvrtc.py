"""Whether NVRTC is installed: tests that compile skip where it is not."""

from __future__ import annotations

import pytest

from kvperf.errors import KvperfError
from kvperf.kernel import toolkit


def has_nvrtc() -> bool:
    try:
        toolkit.nvrtc()
    except KvperfError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="NVRTC is not installed: pip install kvperf[kernels]")
