"""The config of a model on the Hugging Face hub; the only module that uses the network."""

from __future__ import annotations

from pathlib import Path

from kvperf.errors import KvperfError
from kvperf.model.architecture import Model


def import_hub_id(hub_id: str, hint: str) -> Model:
    """Fetch and import `config.json` of a hub id. `hint` says what else may have been meant, and begins every hint."""
    try:
        from huggingface_hub import hf_hub_download  # pyright: ignore[reportMissingImports]
        from huggingface_hub.errors import EntryNotFoundError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise KvperfError(
            f"'{hub_id}' is no shipped model, and huggingface_hub is not installed to fetch it",
            f"{hint}run `pip install huggingface_hub`, or download its config.json and give the path of that file",
        ) from None
    from kvperf.model.hub import import_path

    try:
        file = Path(hf_hub_download(hub_id, "config.json"))
    except Exception as problem:  # the hub's client raises many kinds: no network, no such id, no access
        reason = str(problem).strip().splitlines()
        raise KvperfError(
            f"cannot fetch config.json of '{hub_id}': {reason[0] if reason else type(problem).__name__}",
            f"{hint}check the id, the network and `huggingface-cli login`, or give the path of a config.json",
        ) from None
    try:
        hf_hub_download(hub_id, "hf_quant_config.json")
    except EntryNotFoundError:
        pass
    except Exception as problem:
        raise KvperfError(f"cannot fetch hf_quant_config.json of '{hub_id}': {problem}", f"{hint}try again") from None
    import msgspec

    model = import_path(file)
    name = hub_id.rpartition("/")[2].lower()
    return msgspec.structs.replace(model, name=name, hub_id=hub_id, source=(f"huggingface.co/{hub_id} config.json",))
