"""Find the tables of `aiconfigurator-core` and read them by columns.

The package is NVIDIA's (Apache-2.0). Nothing of it is copied: it is read where it is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from kvperf.errors import KvperfError

if TYPE_CHECKING:
    import pyarrow

VERSION = "0.12.0"
# Of aiconfigurator_core-0.12.0-cp311-abi3-manylinux_2_28_x86_64.whl on PyPI.
WHEEL_SHA256 = "aadc4aad0a00bf8a61c477c62bef43de479849c3aa0b1c3078068e08309eccc4"
SYSTEMS = {  # kvperf's names of the GPUs that have tables
    "a100-sxm": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
STACKS = ("sglang", "vllm", "trtllm")


def folder() -> Path:
    """The `systems` folder of the installed package. Raises KvperfError where it is not installed."""
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise KvperfError(
            "the measured tables are not installed",
            f"`pip install --no-deps aiconfigurator-core=={VERSION}` (114 MB), and `pip install pyarrow scipy`",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "systems"


def read(gpu: str, table: str, stack: str, version: str, columns: list[str]) -> pyarrow.Table:
    """Columns of one table, `table` as in `attention/generation_attention_perf`; text columns as dictionaries."""
    import pyarrow.parquet as parquet
    from pyarrow import types

    family, name = table.split("/")
    path = folder() / "data" / SYSTEMS[gpu] / family / stack / version / f"{name}.parquet"
    schema = parquet.read_schema(path)
    text = [field.name for field in schema if types.is_string(field.type) and field.name in columns]
    present = [column for column in columns if column in schema.names]
    return parquet.read_table(path, columns=present, read_dictionary=text)


def installed_version() -> str | None:
    """The version of the package that is installed, if any."""
    from importlib import metadata

    try:
        return metadata.version("aiconfigurator-core")
    except metadata.PackageNotFoundError:
        return None


def row_count(gpu: str, table: str, stack: str, version: str) -> int:
    """Rows of a table, from its footer."""
    import pyarrow.parquet as parquet

    family, name = table.split("/")
    path = folder() / "data" / SYSTEMS[gpu] / family / stack / version / f"{name}.parquet"
    return parquet.read_metadata(path).num_rows


def versions(gpu: str, table: str, stack: str) -> list[str]:
    """The versions of a stack (or of NCCL) that have this table for this GPU, as folder names."""
    family, name = table.split("/")
    parent = folder() / "data" / SYSTEMS[gpu] / family / stack
    return sorted(path.parent.name for path in parent.glob(f"*/{name}.parquet"))
