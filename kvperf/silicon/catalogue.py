"""Which tables measure which kernel family, per GPU and stack, and in which order its constants are fitted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import msgspec

from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, load_gpu
from kvperf.launches.collective import Mode, Phase
from kvperf.predict import collective as collectives
from kvperf.predict import decode_attention as decoding
from kvperf.predict import experts as expert
from kvperf.predict import gemm as products
from kvperf.predict import latent_attention as latent
from kvperf.predict import prefill_attention as prefilling
from kvperf.predict.families import FAMILIES
from kvperf.silicon import collective, decode_attention, experts, gemm, latent_attention, prefill_attention
from kvperf.silicon.lint import RULES, release, screen
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import row_count, versions


class Group(msgspec.Struct, frozen=True):
    """Rows of one format or operation, after lint."""

    label: str
    rows: Rows


class Stage(msgspec.Struct, frozen=True):
    """One fit: the groups it takes, and the constants it finds; those of earlier stages are held."""

    groups: tuple[str, ...]
    constants: tuple[str, ...]


class Tables(msgspec.Struct, frozen=True):
    """The measurements of one family.

    measured  stack, version and table; of a reader: what else it took
    read      rows of the formats that are used, before lint
    drops     what lint took of them: rule, reason, rows
    held      constants whose mechanism these kernels do not have, at the value that takes them out
    """

    measured: str
    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    read: int
    drops: tuple[tuple[str, str, int], ...] = ()
    held: dict[str, float] = {}

    @property
    def dropped(self) -> int:
        return sum(rows for _, _, rows in self.drops)


# Each family's main table.
TABLES = {
    "decode_attention": "attention/generation_attention_perf",
    "prefill_attention": "attention/context_attention_perf",
    "latent_attention": "mla/generation_mla_perf",
    "latent_prefill": "mla/context_mla_perf",
    "gemm": "gemm/gemm_perf",
    "experts": "moe/moe_perf",
    "collective": "comm/custom_allreduce_perf",
    "exchange": "comm/wideep_deepep_ll_perf",
}
FORMATS = ("bfloat16", "fp8")
EXCHANGES: tuple[tuple[Mode, Phase], ...] = tuple(itertools.product(("low_latency", "normal"), ("dispatch", "combine")))
BLACKWELL = ("sm_100", "sm_103")
# Rules of the rooms: name and reason.
STAND_IN = (
    "other_kernel",
    "a kernel that stands in where the stack's own does not take the head: not what is modelled",
)
FASTER = ("faster_than_physics", "below the floor at the row's own cache state")
SPIKE = ("lone_spike", "more than 1.6 times both neighbours in context: one sample was disturbed")
PRODUCTS = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
EXPERT_FORMATS = ("fp8_block", "bfloat16", "fp8", "nvfp4", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "int4_wo")
ROUTINGS = ("balanced", "power_law_1.01", "power_law_1.2")


def tables(family: str, gpu: str, stack: str) -> Tables | None:
    """The newest table of a stack that a rule does not reject as a whole, or None where there is none."""
    table = TABLES[family]
    known = [v for v in versions(gpu, table, stack) if not _rejected(gpu, table, stack, v)]
    if not known:
        return None
    # A version that measured few shapes, or fewer formats of experts, only follows up on another.
    sizes = {v: row_count(gpu, table, stack, v) for v in known}
    if family == "experts":
        sizes = {v: len(set(experts.excluded(gpu, stack, v)) & set(EXPERT_FORMATS)) for v in known}
    whole = [v for v in known if (1 if family == "experts" else 2) * sizes[v] >= max(sizes.values())]
    version = max(whole, key=_order)
    found = READERS[family](load_gpu(gpu), gpu, stack, version)
    measured = f"{stack} {version}, {table}" + (f"; {found.measured}" if found.measured else "")
    return msgspec.structs.replace(found, measured=measured) if found.groups else None


def _rejected(gpu: str, table: str, stack: str, version: str) -> bool:
    return any(rule.column is None and rule.applies(gpu, table, stack, version) for rule in RULES)


def _order(version: str) -> tuple[int, ...]:
    try:
        return release(version)
    except ValueError:
        return ()


def _decode_attention(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, total, stand_ins, impossible, spikes = [], 0, 0, 0, 0
    for kv in FORMATS:
        rows, lint = decode_attention.linted(gpu, stack, version, kv)
        total, stand_ins = total + lint.rows, stand_ins + lint.stand_ins
        impossible, spikes = impossible + lint.impossible, spikes + lint.spikes
        if rows.keys:
            groups.append(Group(kv, rows))
    drops = ((*STAND_IN, stand_ins), (*FASTER, impossible), (*SPIKE, spikes))
    held = _neutral("decode_attention", decoding.held(stack, device))
    return Tables("", tuple(groups), (_joint("decode_attention", groups),), total, drops, held)


def _prefill_attention(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, total, stand_ins, impossible = [], 0, 0, 0
    for kv in FORMATS:
        try:
            unchecked, others = prefill_attention.unchecked(gpu, stack, version, kv)
        except KvperfError:
            continue
        rows, lint = prefill_attention.lint(unchecked, device)
        total, stand_ins = total + len(unchecked.keys) + others, stand_ins + others
        impossible += sum(lint.values())
        groups.append(Group(kv, rows))
    stages, seen = [], set()
    unhelped = _without_helper(stack, device.architecture.name)
    for group in groups:
        kind = "bf16" if group.label == "bfloat16" else group.label
        names = [c.name for c in prefilling.family(kind, {}).constants if c.name not in unhelped]
        stages.append(Stage((group.label,), tuple(n for n in names if n not in seen)))
        seen |= set(names) - {"helper_s"}  # some stacks launch a helper for fp8 alone
    held = _neutral("prefill_attention", unhelped)
    return Tables("", tuple(groups), tuple(stages), total, ((*STAND_IN, stand_ins), (*FASTER, impossible)), held)


def _without_helper(stack: str, architecture: str) -> set[str]:
    """Terms of prefill attention that these kernels do not have: a helper beside them, a cache write that counts."""
    helped = stack == "sglang" or (stack == "trtllm" and architecture == "sm_90")
    writes = (
        stack == "vllm" or architecture not in ("sm_90", *BLACKWELL) or (stack, architecture) == ("sglang", "sm_90")
    )
    return (set() if helped else {"helper_s"}) | (set() if writes else {"write_s"})


def _latent_attention(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, dequantised = [], 0
    hopper = stack == "sglang" and device.architecture.name == "sm_90"
    for kv in FORMATS:
        rows = latent_attention.rows(gpu, stack, version, kv, by_batch=True)
        if hopper and kv == "fp8":
            dequantised = len(rows.keys)
        elif rows.keys:
            groups.append(Group(kv, rows))
    kept, fast = _possible("latent_attention", groups, device)
    rule = next(rule for rule in RULES if rule.name == "sglang_mla_fp8_hopper")
    drops = ((rule.name, rule.reason, dequantised), (*FASTER, fast))
    held = _neutral("latent_attention", latent.unused(stack, device.architecture.name))
    total = _rows(kept) + dequantised + fast
    return Tables("", kept, (_joint("latent_attention", kept[:1]),), total, drops, held)


def _latent_prefill(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups = [Group(kv, latent_attention.prefill_rows(gpu, stack, version, kv, by_batch=True)) for kv in FORMATS]
    kept, fast = _possible("latent_prefill", [group for group in groups if group.rows.keys], device)
    return Tables("", kept, (_joint("latent_prefill", kept[:1]),), _rows(kept) + fast, ((*FASTER, fast),))


def _gemm(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, stages, total, impossible, seen = [], [], 0, 0, set()
    # On Hopper the multiplies of the smallest tile take longer than a step of the loop.
    hidden = {"step_s"} if device.architecture.name == "sm_90" else set()
    if device.architecture.name in BLACKWELL:  # two L2 halves: what hits them is no faster than the HBM
        hidden.add("l2_ratio")
    for name, kind in PRODUCTS.items():
        try:
            unchecked = gemm.unchecked(gpu, stack, version, name)
        except KvperfError:
            continue
        rows, lint = gemm.lint(unchecked, device)
        total, impossible = total + len(unchecked.keys), impossible + sum(lint.values())
        groups.append(Group(name, rows))
        names = [c.name for c in products.family(kind, stack).constants if c.name not in hidden]
        stages.append(Stage((name,), tuple(n for n in names if n not in seen)))
        seen |= set(names)
    return Tables("", tuple(groups), tuple(stages), total, ((*FASTER, impossible),), _neutral("gemm", hidden))


def _experts(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, total, untuned = [], 0, 0
    counted = experts.excluded(gpu, stack, version)
    for name in (name for name in EXPERT_FORMATS if name in counted):
        rows = experts.rows(gpu, stack, version, (name,), ROUTINGS, (1, 1 << 20))
        untuned, total = untuned + counted[name][0], total + counted[name][1]
        if rows.keys:
            groups.append(Group(name, rows))
    slower = total - untuned - _rows(groups)
    kept, fast = _possible("experts", groups, device)
    architecture = device.architecture.name
    fitted = [group.label for group in kept if (group.rows.parts() == "fit").any()]
    stages = tuple(Stage(*stage) for stage in expert.stages(stack, architecture, fitted)) if fitted else ()
    if (
        stages and stack == "trtllm" and architecture == "sm_120"
    ):  # one set of constants for all formats: no room for more
        stages = (Stage(tuple(fitted), stages[0].constants),)
    held = _neutral("experts", expert.unused(stack, architecture))
    drops = ((*experts.UNTUNED, untuned), (*experts.SLOWER, slower), (*FASTER, fast))
    return Tables("", kept if fitted else (), stages, total, drops, held)


def _collective(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    own, nccl = collective.rows(gpu, stack, version), collective.nccl_rows(gpu)
    kept, fast = _possible("collective", [Group("nccl", nccl), Group(stack, own)], device)
    waits = set() if stack == "vllm" else {"read_s"}  # only vLLM's kernel has too few loads in flight
    if stack == "trtllm" and device.architecture.name in BLACKWELL:
        waits.add("peer_s")
    stages = (
        Stage(("nccl",), tuple(c.name for c in collectives.NCCL_CONSTANTS)),
        Stage((stack,), tuple(c.name for c in collectives.OWN_CONSTANTS if c.name not in waits)),
    )
    total = row_count(gpu, TABLES["collective"], stack, version) + len(nccl.keys)
    rule = next(rule for rule in RULES if rule.name == "eager_all_reduce")
    others = total - _rows(kept) - fast
    drops = ((rule.name, f"{rule.reason}; ranks beyond one node", others), (*FASTER, fast))
    return Tables("", kept, stages, total, drops, _neutral("collective", waits))


def _exchange(device: Gpu, gpu: str, stack: str, version: str) -> Tables:
    groups, beyond, congested = [], [], 0
    for mode, phase in EXCHANGES:
        groups.append(Group(f"{mode}_{phase}", collective.exchange_rows(gpu, mode, phase, version)))
        rows, slow = collective.network_exchange_rows(gpu, mode, phase)
        congested += slow
        if rows.keys:
            beyond.append(Group(f"{mode}_{phase}_nodes", rows))
    kept, fast = _possible("exchange", [*groups, *beyond], device)
    stages = [
        Stage(
            ("low_latency_dispatch", "low_latency_combine"), tuple(c.name for c in collectives.LOW_LATENCY_CONSTANTS)
        ),
        Stage(("normal_dispatch", "normal_combine"), tuple(c.name for c in collectives.NORMAL_CONSTANTS)),
    ]
    measured = collective.EXCHANGE_TABLES["normal"]
    if beyond:
        stages.append(Stage(tuple(g.label for g in beyond), tuple(c.name for c in collectives.NETWORK_CONSTANTS)))
        measured += f"; several nodes: {collective.SEVERAL_NODES}"
    drops = ((*collective.CONGESTED, congested), (*FASTER, fast))
    return Tables(measured, kept, tuple(stages), _rows(kept) + congested + fast, drops)


def _possible(family: str, groups: Iterable[Group], device: Gpu) -> tuple[tuple[Group, ...], int]:
    """The groups without rows below the floor, and how many these were."""
    kept, fast = [], 0
    for group in groups:
        good, _ = screen(group.rows.measured_s, FAMILIES[family].floor(group.rows.launch, device))
        fast += int((~good).sum())
        kept.append(Group(group.label, group.rows.where(good)))
    return tuple(kept), fast


READERS: dict[str, Callable[[Gpu, str, str, str], Tables]] = {
    "decode_attention": _decode_attention,
    "prefill_attention": _prefill_attention,
    "latent_attention": _latent_attention,
    "latent_prefill": _latent_prefill,
    "gemm": _gemm,
    "experts": _experts,
    "collective": _collective,
    "exchange": _exchange,
}


def _joint(family: str, groups: Iterable[Group]) -> Stage:
    return Stage(tuple(g.label for g in groups), tuple(c.name for c in FAMILIES[family].constants))


def _neutral(family: str, names: Iterable[str]) -> dict[str, float]:
    known = {c.name: c.neutral for c in FAMILIES[family].constants}
    return {name: value for name in names if (value := known[name]) is not None}


def _rows(groups: Iterable[Group]) -> int:
    return sum(len(group.rows.keys) for group in groups)
