"""Reading a `config.json` strictly: every key is declared, or it is an error that names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from kvperf.errors import KvperfError
from kvperf.model.validation import LARGEST_SIZE, MOST_LAYERS

T = TypeVar("T")


def words(text: str) -> frozenset[str]:
    """The keys in a text, separated by blanks."""
    return frozenset(text.split())


# Keys that say nothing about shapes, bytes or FLOPs, by what they are for.
BOOKKEEPING = words(
    "_name_or_path architectures auto_map model_type transformers_version torchscript tf_legacy_loss use_cache "
    "use_bfloat16 return_dict output_attentions output_hidden_states output_router_logits problem_type id2label "
    "label2id finetuning_task task_specific_params prefix tokenizer_class num_labels pruned_heads sep_token_id "
    "cross_attention_hidden_size decoder_start_token_id is_decoder unsloth_fixed unsloth_version _attn_implementation "
    "attn_implementation _attn_implementation_autoset cache_implementation _vllm_kernel_config _commit_hash"
)
TOKENS = words("bos_token_id eos_token_id pad_token_id ignore_index")
GENERATION = words(
    "bad_words_ids begin_suppress_tokens chunk_size_feed_forward diversity_penalty do_sample early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id "
    "length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences "
    "output_scores remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature top_k "
    "top_p typical_p num_logits_to_keep"
)
TRAINING = words(
    "attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout dropout layerdrop activation_dropout "
    "classifier_dropout initializer_range init_std initializer_factor router_aux_loss_coef router_jitter_noise "
    "aux_loss_alpha seq_aux rescale_prenorm_residual gradient_checkpointing"
)
# Constants inside an operation: they change values, not work.
NUMERICS = words(
    "rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps rope_theta rope_scaling "
    "original_max_position_embeddings swa_rope_theta rope_local_base_freq rope_interleave residual_in_fp32 "
    "attn_logit_softcapping final_logit_softcapping query_pre_attn_scalar swiglu_limit"
)
# How the router turns logits into weights and breaks ties: the same work whatever it says.
ROUTING = "norm_topk_prob routed_scaling_factor scoring_func n_group topk_group topk_method moe_router_dtype"
PARALLELISM = words("ep_size pretraining_tp")
INERT = BOOKKEEPING | TOKENS | GENERATION | TRAINING | NUMERICS | PARALLELISM
# Keys any config may have, the value that holds where it is absent, and the only values that can be expressed.
ONLY: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
}
OPTIONAL: dict[str, Any] = {"dtype": None, "torch_dtype": None, "quantization_config": None}

REMOVE = "remove a key only if it changes no tensor or mask"

# Activations that take the same work as the family's: gated FFNs apply one to the gate, plain ones to the only input.
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "relu2")


# What no model is larger than: a typing error must not become gigabytes of layers.
LAYER_COUNTS = ("num_hidden_layers", "n_layer")


class Table(msgspec.Struct, frozen=True):
    """The keys of one family.

    required  keys that matter and that every published config of the family has
    optional  keys that matter, and the value that holds where published configs omit them
    only      keys with the values the model can express; an absent key has the first of them
    inert     keys without a bearing on the model
    """

    required: frozenset[str]
    optional: dict[str, Any] = {}
    only: dict[str, tuple[Any, ...]] = {}
    inert: frozenset[str] = frozenset()

    def known(self) -> set[str]:
        return set(self.required) | set(self.optional) | set(self.only) | set(self.inert)


def table(required: str, optional: dict[str, Any] | None = None, only: Any = None, inert: str = "") -> Table:
    """A family's table: its own keys, and those that any config may have."""
    return Table(
        words(required),
        OPTIONAL | (optional or {}),
        ONLY | (only or {}),
        (INERT | words(inert)) - words(required) - set(optional or {}) - set(only or {}),
    )


class UnknownKeysError(KvperfError):
    """Keys of one JSON object of a config that its table does not declare."""

    def __init__(self, name: str, where: str, keys: Sequence[str], declared: Table, present: frozenset[str]) -> None:
        self.where, self.keys = where, tuple(keys)
        self.close = {key: _close(key, declared.known() - present) for key in keys}
        super().__init__(f"{name}: {_named('unknown config key', [where + key for key in keys])}", REMOVE)


class MissingKeysError(KvperfError):
    """Keys that every config of the family states, and this one does not."""

    def __init__(self, name: str, where: str, keys: Sequence[str]) -> None:
        self.keys = tuple(where + key for key in keys)
        super().__init__(
            f"{name}: the {_named('config key', self.keys)} {'is' if len(keys) == 1 else 'are'} missing",
            f"every published config of this family has {'it' if len(keys) == 1 else 'them'}; add what is missing",
        )


class Keys:
    """One JSON object of a config, checked against a table. Reading an undeclared key is a KeyError.

    name   what errors call the config;  where  the path of this object in it (`text_config.`)
    """

    def __init__(self, values: Any, declared: Table, name: str, where: str = "") -> None:
        self.name, self.where, self.table = name, where, declared
        if not isinstance(values, Mapping):
            raise self.error(where.rstrip("."), f"is {values!r}, not a JSON object", "give the whole config")
        self.present = frozenset(values)
        known = declared.known()
        unknown = [key for key in values if key not in known]
        if unknown:
            raise UnknownKeysError(name, where, unknown, declared, self.present)
        missing = sorted(declared.required - self.present)
        if missing:
            raise MissingKeysError(name, where, missing)
        for key, allowed in declared.only.items():
            if key in values and values[key] not in allowed:
                raise self.error(key, f"is {values[key]!r}", f"only {_listed(allowed)} can be expressed")
        self.values = declared.optional | {k: v for k, v in values.items() if k not in declared.inert}

    def error(self, key: str, problem: str, hint: str) -> KvperfError:
        """The error for one key of this object."""
        return KvperfError(f"{self.name}: the config key '{self.where}{key}' {problem}", hint)

    def given(self, key: str) -> bool:
        """Whether the config states `key` with a value other than null."""
        return self.values[key] is not None

    def count(self, key: str) -> int:
        """A whole number of at least 1."""
        value = self.values[key]
        if value is None:
            raise self.error(key, "is missing", "this layer needs it")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, f"is {value!r}", "a whole number of at least 1 is needed")
        if value > (MOST_LAYERS if key in LAYER_COUNTS else LARGEST_SIZE):
            raise self.error(key, f"is {str(value)[:12]}", "no model is that large")
        return value

    def dense_prefix(self, layers: int) -> int:
        """Dense layers before the first one with experts. Raises KvperfError where none is left for them."""
        dense = self.count_or_zero("first_k_dense_replace")
        if dense >= layers:
            raise self.error(
                "first_k_dense_replace", f"is {str(dense)[:12]}", f"it leaves none of {layers} layers experts"
            )
        return dense

    def count_or_none(self, key: str) -> int | None:
        """A whole number of at least 1, or None where the key is absent or null."""
        return self.count(key) if self.given(key) else None

    def count_or_zero(self, key: str) -> int:
        """A whole number of at least 0; absent and null are 0."""
        return self.count(key) if self.values[key] else 0

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}", "true or false is needed")
        return value

    def fraction(self, key: str) -> float:
        """A number above 0 and at most 1."""
        value = self.values[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
            raise self.error(key, f"is {value!r}", "a number above 0 and at most 1 is needed")
        return float(value)

    def choice(self, key: str, allowed: Mapping[str, T]) -> T:
        """What `allowed` makes of the text under `key`."""
        value = self.values[key]
        if not isinstance(value, str) or value not in allowed:
            raise self.error(key, f"is {value!r}", f"one of {', '.join(allowed)} can be expressed")
        return allowed[value]

    def activation(self, key: str = "hidden_act") -> None:
        """Check that the activation is one of ACTIVATIONS."""
        if self.values[key] not in ACTIVATIONS:
            raise self.error(key, f"is {self.values[key]!r}", f"one of {', '.join(ACTIVATIONS)} can be expressed")

    def each_layer(self, key: str, layers: int, allowed: Mapping[Any, Any], spare: int = 0) -> list[Any]:
        """A list with one entry a layer (and up to `spare` more), each translated by `allowed`."""
        value = self.values[key]
        if not isinstance(value, (list, str)) or not layers <= len(value) <= layers + spare:
            size = len(value) if isinstance(value, (list, str)) else repr(value)
            raise self.error(key, f"has {size} entries for {layers} layers", "one entry a layer is needed")
        for entry in value:
            if isinstance(entry, (list, dict)) or entry not in allowed:
                raise self.error(key, f"holds {entry!r}", f"only {_listed(tuple(allowed))} can be expressed")
        return [allowed[entry] for entry in value]

    def section(self, key: str, declared: Table) -> Keys:
        """The JSON object under `key`, checked against its own table."""
        return Keys(self.values[key], declared, self.name, f"{self.where}{key}.")


def _close(key: str, known: Iterable[str]) -> str | None:
    """The key that `key` is a slip of, and no key that is merely like it: taking that one would change the model."""
    import difflib

    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)), None)


def _named(noun: str, keys: Sequence[str]) -> str:
    """`config key 'a'`, or `config keys 'a', 'b'`."""
    return f"{noun}{'' if len(keys) == 1 else 's'} {', '.join(repr(str(key)) for key in keys)}"


def _listed(allowed: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in allowed)
