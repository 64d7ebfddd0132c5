"""Which spellings of an opcode the interpreter implements. Any other stops it: a modifier is never passed over.

Claims: every entry of the table of opcodes has its forms here, and an instruction is executed only if its modifiers,
all of them and in their order, are one of these forms.

A form is a list of places. A place holds one of its alternatives (`a|b`), or may be empty (`a|b?`); `*` is anything:
hints, and fences, which the interpreter does without.
"""

from __future__ import annotations

import re
from functools import cache

_BITS = "b16|b32|b64"
_SIGNED = "s16|s32|s64"
_INT = f"u16|u32|u64|{_SIGNED}"
_HALF = "f16|f16x2|bf16|bf16x2"
_SCALAR = f"b8|u8|s8|{_BITS}|{_INT}|f32|f64"
_SCOPE = "cta|cluster|gpu|sys?"
_SHARED = "shared|shared::cta?"
_SPACE = "global|shared|shared::cta|local|param|const?"
_L2 = "L2::64B|L2::128B|L2::256B?"
_EVICT = "L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate?"
_SUM = (_INT, "u16x2|s16x2", "sat s32", "rn? ftz? sat? f32", "rn? sat? f64", f"rn? {_HALF}", "rn? sat f16|f16x2")
_ROUNDED = "rn? ftz? sat? f32", "rn? f64", f"rn? {_HALF}", "rn? sat f16|f16x2"
_EXTREME = _INT, "u16x2|s16x2", "ftz? NaN? f32", "f64", f"NaN? {_HALF}"
_RELATION = "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan and|or|xor?"
_ATOMIC = f"relaxed|acquire|release|acq_rel? {_SCOPE} global|shared|shared::cta?"
_BARRIER = "cta? sync|arrive aligned?", "cta? red popc aligned? u32", "cta? red and|or aligned? pred"
_MMA = "sync aligned m16n8{} row col"
_TEST = f"parity? acquire|relaxed? {_SCOPE} {_SHARED} b64"

_ATOMIC_FORMS = (
    f"{_ATOMIC} add u32|s32|u64|f32|f64",
    f"{_ATOMIC} add noftz {_HALF}",
    f"{_ATOMIC} min|max u32|s32|u64|s64",
    f"{_ATOMIC} and|or|xor b32|b64",
    f"{_ATOMIC} inc|dec u32",
)

FORMS: dict[str, tuple[str, ...]] = {
    # Arithmetic
    "add": _SUM,
    "sub": _SUM,
    "mul": (f"lo|hi {_INT}", "wide u16|s16|u32|s32", *_ROUNDED),
    "mad": (f"lo|hi {_INT}", "wide u16|s16|u32|s32", "rn ftz? sat? f32"),
    "fma": ("rn ftz? sat? f32", f"rn relu? {_HALF}", "rn sat f16|f16x2"),
    "div": (_INT, "rn|approx|full ftz? f32", "rn f64"),
    "rem": (_INT,),
    "min": _EXTREME,
    "max": _EXTREME,
    "abs": (_SIGNED, "ftz? f32", f"f64|{_HALF}"),
    "neg": (_SIGNED, "ftz? f32", f"f64|{_HALF}"),
    "copysign": ("f32|f64",),
    "sad": (_INT,),
    "dp4a": ("u32|s32 u32|s32",),
    # Bits
    "and": (f"pred|{_BITS}",),
    "or": (f"pred|{_BITS}",),
    "xor": (f"pred|{_BITS}",),
    "not": (f"pred|{_BITS}",),
    "cnot": (_BITS,),
    "shl": (_BITS,),
    "shr": (f"{_BITS}|{_INT}",),
    "shf": ("l|r wrap|clamp b32",),
    "lop3": ("b32",),
    "bfe": ("u32|u64|s32|s64",),
    "bfi": ("b32|b64",),
    "prmt": ("b32",),
    "popc": ("b32|b64",),
    "clz": ("b32|b64",),
    "bfind": ("shiftamt? u32|u64|s32|s64",),
    "brev": ("b32|b64",),
    # Comparison
    "setp": (f"{_RELATION} {_BITS}|{_INT}|f64|{_HALF}", f"{_RELATION} ftz? f32"),
    "set": (f"{_RELATION} u32|s32|f32 {_BITS}|{_INT}|f64", f"{_RELATION} ftz? u32|s32|f32 f32"),
    "selp": (f"{_BITS}|{_INT}|f32|f64",),
    "slct": (f"{_BITS}|{_INT}|f32|f64 s32|f32",),
    "testp": ("finite|infinite|number|notanumber|normal|subnormal f32|f64",),
    # Moves and conversions
    "mov": (f"pred|{_BITS}|{_INT}|f32|f64",),
    "cvta": ("to? global|shared|shared::cta|local|const u64",),
    "cvt": (
        f"sat? u8|s8|{_INT} u8|s8|{_INT}",
        f"rni|rzi|rmi|rpi ftz? sat? u8|s8|{_INT} f32",
        f"rni|rzi|rmi|rpi sat? u8|s8|{_INT} f64|f16|bf16",
        f"rn sat? f16|f32|f64 u8|s8|{_INT}",
        "rni|rzi|rmi|rpi? ftz? sat? f32 f32",
        "rni|rzi|rmi|rpi? sat? f64 f64",
        "rn ftz? relu? f16|bf16 f32",
        "rn ftz? sat f16 f32",
        "rn ftz? sat? f32 f64",
        "rn sat? f16 f64",
        "ftz? sat? f32 f16|bf16",
        "ftz? sat? f64 f32",
        "sat? f64 f16|bf16",
        "rn relu? f16x2|bf16x2 f32",
        "rn satfinite relu? e4m3x2|e5m2x2 f32|f16x2",
        "rn relu? f16x2 e4m3x2|e5m2x2",
    ),
    # Special functions
    "ex2": ("approx ftz? f32", "approx f16|f16x2", "approx ftz bf16|bf16x2"),
    "lg2": ("approx ftz? f32",),
    "rcp": ("approx|rn ftz? f32", "rn f64"),
    "rsqrt": ("approx ftz? f32", "approx f64"),
    "sqrt": ("approx|rn ftz? f32", "rn f64"),
    "sin": ("approx ftz? f32",),
    "cos": ("approx ftz? f32",),
    "tanh": (f"approx f32|{_HALF}",),
    # Memory
    "ld": (
        f"weak|volatile|relaxed|acquire? {_SCOPE} {_SPACE} ca|cg|cs|lu|cv? nc? {_EVICT} L2::cache_hint? {_L2} "
        f"v2|v4|v8? {_SCALAR}",
        f"mmio relaxed sys global? {_SCALAR}",
    ),
    "ldu": (f"global? v2|v4? {_SCALAR}",),
    "st": (
        f"weak|volatile|relaxed|release? {_SCOPE} {_SPACE} wb|cg|cs|wt? {_EVICT} L2::cache_hint? v2|v4|v8? {_SCALAR}",
        f"mmio relaxed sys global? {_SCALAR}",
    ),
    "prefetch": ("*",),
    "prefetchu": ("*",),
    "applypriority": ("*",),
    "createpolicy": ("*",),
    "cp.async.bulk.prefetch": ("*",),
    "atom": (*_ATOMIC_FORMS, f"{_ATOMIC} exch b32|b64", f"{_ATOMIC} cas b16|b32|b64"),
    "red": _ATOMIC_FORMS,
    # Copies and mbarriers
    "cp.async.ca": (f"{_SHARED} global {_L2}",),
    "cp.async.cg": (f"{_SHARED} global {_L2}",),
    "cp.async.commit_group": ("",),
    "cp.async.wait_group": ("",),
    "cp.async.wait_all": ("",),
    "cp.async.bulk": ("shared::cluster|shared::cta global mbarrier::complete_tx::bytes L2::cache_hint?",),
    "mbarrier.init": (f"{_SHARED} b64",),
    "mbarrier.inval": (f"{_SHARED} b64",),
    "mbarrier.arrive": (f"expect_tx? release|relaxed? {_SCOPE} {_SHARED} b64",),
    "mbarrier.expect_tx": (f"relaxed? {_SCOPE} {_SHARED} b64",),
    "mbarrier.test_wait": (_TEST,),
    "mbarrier.try_wait": (_TEST,),
    # Warps
    "shfl": ("sync up|down|bfly|idx b32",),
    "vote": ("sync all|any|uni pred", "sync ballot b32"),
    "redux": ("sync add|min|max u32|s32", "sync and|or|xor b32"),
    "match": ("any|all sync b32|b64",),
    "activemask": ("b32",),
    "elect": ("sync",),
    "bar.warp": ("sync",),
    "mma": (
        f"{_MMA.format('k8|m16n8k16')} f32 f16 f16 f32",
        f"{_MMA.format('k8|m16n8k16')} f16 f16 f16 f16",
        f"{_MMA.format('k8|m16n8k16')} f32 bf16 bf16 f32",
        f"{_MMA.format('k4|m16n8k8')} f32 tf32 tf32 f32",
        f"{_MMA.format('k16|m16n8k32')} s32 s8|u8 s8|u8 s32",
        f"{_MMA.format('k16|m16n8k32')} f32 e4m3|e5m2 e4m3|e5m2 f32",
        f"{_MMA.format('k16|m16n8k32')} f16 e4m3|e5m2 e4m3|e5m2 f16",
    ),
    "ldmatrix": (f"sync aligned m8n8 x1|x2|x4 trans? {_SHARED} b16",),
    "stmatrix": (f"sync aligned m8n8 x1|x2|x4 trans? {_SHARED} b16",),
    # Control
    "bra": ("uni?",),
    "ret": ("uni?",),
    "exit": ("",),
    "bar": _BARRIER,
    "barrier": _BARRIER,
    "trap": ("",),
    "fence": ("*",),
    "membar": ("*",),
    "griddepcontrol": ("*",),
    "setmaxnreg": ("*",),
    "pmevent": ("*",),
    "nanosleep": ("u32",),
}


@cache
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile("|".join(_expression(form) for form in FORMS[key]))


def _expression(form: str) -> str:
    if form == "*":
        return ".*"
    places = []
    for place in form.split():
        alternatives = "|".join(map(re.escape, place.removesuffix("?").split("|")))
        places.append(rf"(?:\.(?:{alternatives})){'?' if place.endswith('?') else ''}")
    return "".join(places)


def implemented(key: str, modifiers: tuple[str, ...]) -> bool:
    """Whether what stands behind the entry `key` of the table is one of its forms."""
    return _pattern(key).fullmatch("".join(f".{modifier}" for modifier in modifiers)) is not None
