"""Networks between machines: `hardware/networks/<name>.yaml`, of one GPU and in one direction.

Without `from __future__ import annotations`, for the reason that kvperf.hardware.reading gives.
"""

from pathlib import Path
from typing import Literal

from kvperf import files, yaml_file
from kvperf.hardware import loading, quantity
from kvperf.hardware.quantity import BytesPerSecond, Seconds
from kvperf.hardware.reading import Reading, Source, Strict


class Network(Strict, frozen=True):
    """A whole file, key for key.

    per_direction  the data rate of one GPU's port
    latency        of a message of a few bytes, from one machine to another
    """

    schema: Literal["kvperf.network/1"]
    name: str
    title: str
    per_direction: Reading[BytesPerSecond]
    sources: dict[str, Source]
    aliases: tuple[str, ...] = ()
    latency: Reading[Seconds] | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes_per_s(self) -> float:
        """Of one GPU, one direction."""
        return float(self.per_direction.value)

    @property
    def latency_s(self) -> float | None:
        """None where nobody measured it."""
        return float(self.latency.value) if self.latency else None


def network_names() -> list[str]:
    """The shipped networks, sorted."""
    return loading.names(_folder())


def load_network(name: str) -> Network:
    """The network called `name`, or described by the file at that path. Raises KvperfError."""
    document = yaml_file.read(network_path(name))
    network = yaml_file.decode(document, Network, quantity.decode)
    loading.check_sources(document)
    return network


def network_path(name: str) -> Path:
    """The file of a shipped name or alias (case, spaces and underscores do not matter), or `name` itself as a path."""
    folder = _folder()
    return loading.as_path(name) or loading.shipped(folder, name) or loading.no_such("network", name, folder)


def _folder() -> Path:
    return files.folder("hardware") / "networks"
