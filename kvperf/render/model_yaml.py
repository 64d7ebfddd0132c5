"""A model as the YAML a person edits: keys in reading order, defaults left out."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.model.architecture import Model

WIDTH = 118
# Keys with defaults that are printed all the same: they are the first thing a reader looks for.
ALWAYS = ("hub_id", "published", "norm")
ORDER = (
    "schema",
    "name",
    "hub_id",
    "source",
    "published",
    "notes",
    "hidden_size",
    "vocab_size",
    "max_context_tokens",
    "tied_embeddings",
    "norm",
    "final_norm",
    "learned_positions",
    "lm_head_bias",
    "mixers",
    "ffns",
    "layers",
    "mtp",
    "extra_parameters",
    "checkpoint",
)


def yaml_text(model: Model) -> str:
    """`model` as a file that `load_model` reads back into the same value."""
    values = _without_defaults(model)
    values = {key: values[key] for key in ORDER if values.get(key) is not None}
    return "".join(_entry(key, value, 0) for key, value in values.items())


def _without_defaults(value: Any, tagged: bool = True) -> Any:
    """Structs as dicts of what differs from their defaults; one of several kinds begins with its kind."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        found: dict[str, Any] = {config.tag_field: config.tag} if tagged and config.tag_field else {}
        for field in msgspec.structs.fields(value):
            held = getattr(value, field.name)
            if field.required or held != field.default:
                found[field.encode_name] = _without_defaults(held, tagged=isinstance(held, dict))
        return found
    if isinstance(value, dict):
        return {key: _without_defaults(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_defaults(held) for held in value]
    return value


def _entry(key: str, value: Any, indent: int) -> str:
    lead = " " * indent
    line = f"{lead}{key}: {_flow(value)}\n"
    simple = not isinstance(value, (dict, list)) or _is_leaf(value)
    if isinstance(value, str) and len(line) > WIDTH:
        return f"{lead}{key}: >-\n{_wrapped(value, indent + 2)}"
    if simple and len(line) <= WIDTH:
        return line
    if isinstance(value, dict):
        return f"{lead}{key}:\n" + "".join(_entry(inner, held, indent + 2) for inner, held in value.items())
    if isinstance(value, list):
        return f"{lead}{key}:\n" + "".join(_item(held, indent + 2) for held in value)
    return line


def _item(value: Any, indent: int) -> str:
    lead = " " * indent
    line = f"{lead}- {_flow(value)}\n"
    if isinstance(value, dict) and (len(line) > WIDTH or len(value.get("block", ())) > 1):
        body = "".join(_entry(key, held, indent + 2) for key, held in value.items())
        return f"{lead}- {body.lstrip()}"
    return line


def _is_leaf(value: Any) -> bool:
    """Whether a value reads well on one line: it holds no mapping of mappings and no list of mappings."""
    held = value.values() if isinstance(value, dict) else value
    return not any(isinstance(item, dict) for item in held) or (isinstance(value, dict) and "kind" in value)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(held) for held in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    return _scalar(value) if isinstance(value, str) else str(value)


def _scalar(text: str) -> str:
    """A string, quoted where plain YAML would read it as something else."""
    import yaml

    plain = yaml.safe_dump(text, width=1 << 20, allow_unicode=True, default_flow_style=True).strip()
    plain = plain.removesuffix("\n...").removesuffix("...").strip()
    # Inside { } and [ ] a comma or bracket ends a plain string.
    needs_quotes = plain[0] not in "'\"" and any(mark in text for mark in ",[]{}")
    return "'" + text.replace("'", "''") + "'" if needs_quotes else plain


def _wrapped(text: str, indent: int) -> str:
    import textwrap

    lead = " " * indent
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines) + "\n"
