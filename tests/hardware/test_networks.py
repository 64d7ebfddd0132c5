"""Networks between machines: names, rates, refusals; and what the profiles say of machines and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvperf import files, yaml_file
from kvperf.errors import KvperfError
from kvperf.hardware import gpu_names, lint, load_gpu, load_network, loading, network_names
from kvperf.hardware.network import network_path

FOLDER = files.folder("hardware") / "networks"
NDR = (FOLDER / "infiniband-ndr.yaml").read_text(encoding="utf-8")
H100 = (files.folder("hardware") / "h100-sxm.yaml").read_text(encoding="utf-8")
DOCS = Path(__file__).parents[2] / "docs" / "profiles.md"
BRIDGED = {"a100-pcie", "a40", "h100-nvl", "h100-pcie", "rtx-3090"}


@pytest.mark.parametrize(
    ("name", "gigabits", "latency_s"),
    [
        ("infiniband-hdr", 200, 3.7e-6),
        ("infiniband-ndr", 400, 3.7e-6),
        ("infiniband-xdr", 800, 3.7e-6),
        ("roce-200", 200, 5.6e-6),
        ("roce-400", 400, 5.6e-6),
        ("roce-800", 800, 5.6e-6),
    ],
)
def test_rates_are_the_standards(name: str, gigabits: float, latency_s: float) -> None:
    network = load_network(name)
    assert network.bytes_per_s == gigabits * 1e9 / 8
    assert network.latency_s == latency_s


def test_every_network_loads_and_uses_its_sources() -> None:
    assert network_names() == sorted(path.stem for path in FOLDER.iterdir())
    assert not set(network_names()) & set(gpu_names())
    for name in network_names():
        network = load_network(name)
        assert network.name == name
        used = {key for _, key in loading.source_keys(yaml_file.read(FOLDER / f"{name}.yaml").value, "$")}
        assert used == set(network.sources)
        for source in network.sources.values():
            assert (source.document is None) != (source.repository is None)
            assert source.table or source.page or source.path
        for alias in network.aliases:
            assert network_path(alias) == FOLDER / f"{name}.yaml"


@pytest.mark.parametrize("given", ["InfiniBand_NDR", "infiniband ndr", "NDR", str(FOLDER / "infiniband-ndr.yaml")])
def test_names_aliases_and_paths(given: str) -> None:
    assert load_network(given).name == "infiniband-ndr"


@pytest.mark.parametrize(
    ("given", "nearest"), [("roce400", "roce-400"), ("infiniband-nrd", "infiniband-ndr"), ("xdrr", "xdr")]
)
def test_a_wrong_name_gets_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(KvperfError) as problem:
        load_network(given)
    assert problem.value.message == f"unknown network '{given}'"
    assert problem.value.hint.startswith(f"did you mean '{nearest}'? known: infiniband-hdr, ")


@pytest.mark.parametrize("given", ["", " ", "zzzzzzzz", "h100"])
def test_a_name_unlike_any_other(given: str) -> None:
    with pytest.raises(KvperfError, match="unknown network"):
        load_network(given)


def test_a_file_beside_a_wrong_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(NDR, encoding="utf-8")
    with pytest.raises(KvperfError) as problem:
        load_network("mine")
    assert problem.value.hint == "for a file write ./mine.yaml"
    with pytest.raises(KvperfError, match="No such file"):
        load_network("./absent.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("50 GB/s", "400 Gb/s", "'400 Gb/s' is not in B/s", "B/s"),
        ("50 GB/s", "50", "'50' has no unit", "'3.35 TB/s'"),
        ("50 GB/s", "0 GB/s", "0 is not a positive number", "leave out what is unknown"),
        ("3.7 us", "3.7 GB/s", "'3.7 GB/s' is not in s", "us"),
        ("latency: {", "latencyy: {", "unknown key 'latencyy'", "'latency'"),
        ("source: [ibta]", "source: [ibtta]", "unknown source 'ibtta'", "'ibta'"),
        ("title: ", "title: a\ntitle: ", "the key 'title' stands twice", "delete one"),
        ("kvperf.network/1", "kvperf.gpu/1", "this is a GPU profile (kvperf.gpu/1)", "give it to --gpu"),
    ],
)
def test_refuses_with_its_line(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    path = tmp_path / "bad.yaml"
    assert old in NDR
    path.write_text(NDR.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(KvperfError) as problem:
        load_network(str(path))
    assert message in problem.value.message
    assert hint in problem.value.hint
    line = int(problem.value.message.removeprefix(f"{path}:").split(":")[0])
    assert line == NDR[: NDR.index(old)].count("\n") + 1 + new.count("\n")


def test_latency_may_be_unknown(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "".join(line for line in NDR.splitlines(keepends=True) if not line.startswith("latency"))
    path.write_text(text, encoding="utf-8")
    assert load_network(str(path)).latency_s is None


def test_the_example_of_the_docs_loads(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "my-network.yaml"
    path.write_text(block, encoding="utf-8")
    network = load_network(str(path))
    assert (network.bytes_per_s, network.latency_s) == (25e9, 4.8e-6)


@pytest.mark.parametrize("name", gpu_names())
def test_what_a_profile_says_of_machines_hangs_together(name: str) -> None:
    gpu = load_gpu(name)
    if gpu.network:
        network = load_network(gpu.network)
        assert gpu.network == network.name
        assert gpu.node_gpus and gpu.link_gpus
        assert gpu.link_bytes_per_s and network.bytes_per_s < gpu.link_bytes_per_s
        # `gpus show` lists both files' sources under one another's keys.
        assert not set(network.sources) & {*gpu.profile.sources, *gpu.architecture.sources}
    assert (gpu.link_gpus == 2) == (name in BRIDGED) == ("bridge" in str(gpu.profile.links.gpu))
    assert gpu.profile.links.pcie is None or gpu.profile.links.pcie.gpus is None


@pytest.mark.parametrize(
    ("name", "link", "node", "network"),
    [
        ("h100", 8, 8, "infiniband-ndr"),
        ("h200", 8, 8, "infiniband-ndr"),
        ("h800", 8, 8, "infiniband-ndr"),
        ("h20", 8, 8, None),
        ("a100", 8, 8, "infiniband-hdr"),
        ("a100-40gb", 8, 8, "infiniband-hdr"),
        ("b200", 8, 8, "infiniband-xdr"),
        ("b300", 8, 8, "infiniband-xdr"),
        ("gb200", 72, 4, "infiniband-xdr"),
        ("gb300", 72, 4, "infiniband-xdr"),
        ("h100-pcie", 2, 8, None),
        ("a40", 2, None, None),
        ("l40s", None, 8, None),
        ("mi300x", 8, 8, None),
        ("mi355x", 8, 8, None),
        ("gh200", None, None, None),
        ("v100", None, None, None),
        ("t4", None, None, None),
    ],
)
def test_machines(name: str, link: int | None, node: int | None, network: str | None) -> None:
    gpu = load_gpu(name)
    assert (gpu.link_gpus, gpu.node_gpus, gpu.network) == (link, node, network)


def edited(tmp_path: Path, old: str, new: str) -> Path:
    path = tmp_path / "edited.yaml"
    assert old in H100
    path.write_text(H100.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_profile_names_a_network_that_ships(tmp_path: Path) -> None:
    path = edited(tmp_path, "name: infiniband-ndr", "name: infiniband-nrd")
    with pytest.raises(KvperfError) as problem:
        load_gpu(str(path))
    line = H100[: H100.index("name: infiniband-ndr")].count("\n") + 1
    assert problem.value.message.startswith(f"{path}:{line}:")
    assert "unknown network 'infiniband-nrd'" in problem.value.message
    assert problem.value.hint.startswith("did you mean 'infiniband-ndr'?")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("node: {gpus: {value: 8, ", "node: {gpus: {", "'value' is missing"),
        ("node: {gpus: {value: 8, ", "node: {gpus: {value: 0, ", "0 is not a positive number"),
        ("node: {gpus: ", "node: {gpu: ", "unknown key 'gpu'"),
        ("network: {name: infiniband-ndr, kind: spec, source: [aic]", "network: {name: ndr, kind: spec", "'source' is"),
    ],
)
def test_a_profile_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(KvperfError, match=message):
        load_gpu(str(edited(tmp_path, old, new)))


def test_check_finds_a_link_to_nobody(tmp_path: Path) -> None:
    path = edited(
        tmp_path, "gpus: {value: 8, kind: spec, source: [aic]}}", "gpus: {value: 1, kind: spec, source: [aic]}}"
    )
    (finding,) = lint.check(path).findings
    line = H100[: H100.index("  gpu: {name")].count("\n") + 1
    assert finding.where.startswith(f"{path}:{line}:")
    assert finding.message == "the link joins no other GPU: count this one too"
