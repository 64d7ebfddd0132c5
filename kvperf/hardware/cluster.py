"""GPUs in nodes: how many share a node's links, how many nodes there are, and what joins them."""

from __future__ import annotations

import re

import msgspec

from kvperf.errors import KvperfError
from kvperf.hardware.gpu import BRIDGED, Cluster, Gpu
from kvperf.hardware.loading import load_gpu
from kvperf.hardware.network import load_network

# Where no source says how many GPUs a machine has: the most that usual ones take.
USUAL_NODE_GPUS = 8
_SHAPE = re.compile(r"^(?P<gpu>.+):(?P<node>\d+)(?:[x×](?P<nodes>\d+))?$")


def load_cluster(text: str, network: str | None = None) -> Gpu:
    """The GPU of `h100-sxm:8x2`, two nodes of eight, with what joins them. Raises KvperfError."""
    matched = _SHAPE.match(text)
    if matched is None:
        raise KvperfError(
            f"--cluster {text} is no cluster", "write GPU:GPUs of a node x nodes, like h100-sxm:8x2 for two nodes of 8"
        )
    node_gpus, nodes = int(matched["node"]), int(matched["nodes"] or 1)
    if node_gpus < 1 or nodes < 1:
        raise KvperfError(f"--cluster {text} has no GPUs", "give 1 or more of each, like h100-sxm:8x2")
    gpu = in_cluster(load_gpu(matched["gpu"]), Cluster(node_gpus, nodes), network)
    _check_switch(gpu, node_gpus)
    if nodes > 1 and gpu.cluster.network is None and gpu.network is None:
        raise _unknown_network(gpu)
    return gpu


def in_cluster(gpu: Gpu, cluster: Cluster, network: str | None = None) -> Gpu:
    """The GPU in a cluster whose nodes are joined by the network of that name."""
    joined = None if network is None else load_network(network)
    return msgspec.structs.replace(gpu, cluster=msgspec.structs.replace(cluster, network=joined))


def node_size(gpu: Gpu) -> int:
    """GPUs that reach each other without a network: those of the cluster's nodes, a switch's, or a usual machine's."""
    if gpu.cluster.node_gpus is not None:
        return gpu.cluster.node_gpus
    switched = gpu.link_gpus if (gpu.link_gpus or 0) > 2 else None
    return switched or gpu.node_gpus or USUAL_NODE_GPUS


def joined(gpu: Gpu, gpus: int, nodes: int | None = None) -> Gpu:
    """The GPU as one of `gpus` on `nodes` (None: full ones), its links to the others known.

    Raises KvperfError where they are not, or the cluster has fewer.
    """
    if gpus == 1:
        return gpu
    node, cluster = node_size(gpu), gpu.cluster
    needed = -(-gpus // node) if nodes is None else nodes
    if cluster.nodes is not None and needed > cluster.nodes:
        raise KvperfError(
            f"the layout has {gpus} GPUs on {needed} nodes, the cluster {cluster.nodes} of {node}",
            "use smaller degrees, or give --cluster more nodes",
        )
    gpu = msgspec.structs.replace(gpu, beside=min(gpus, node))
    _check_switch(gpu, gpu.beside)
    if gpu.link_bytes_per_s is None and gpu.host_bytes_per_s is None:
        raise KvperfError(
            f"nobody says what joins GPUs: {gpu.name} lists no link", "add links.pcie or links.gpu to its profile"
        )
    if gpus <= node:
        return gpu
    if cluster.network is None and gpu.network is None:
        raise _unknown_network(gpu)
    network = cluster.network or load_network(str(gpu.network))
    return msgspec.structs.replace(gpu, cluster=msgspec.structs.replace(cluster, network=network))


def _check_switch(gpu: Gpu, gpus: int) -> None:
    """Refuse a node of more GPUs than its switch joins."""
    if gpu.link_gpus is not None and BRIDGED < gpu.link_gpus < gpus:
        raise KvperfError(
            f"a node of {gpus} {gpu.name}: its links join {gpu.link_gpus}", f"give nodes of {gpu.link_gpus} at most"
        )


def _unknown_network(gpu: Gpu) -> KvperfError:
    return KvperfError(
        f"nobody says what joins nodes of {gpu.name}, {node_size(gpu)} GPUs each",
        "name it: --network infiniband-ndr, roce-400 or a file like those of hardware/networks",
    )
