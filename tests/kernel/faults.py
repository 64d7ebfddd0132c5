"""Faults to put into the kernels, and the case that should notice each of them."""

from __future__ import annotations

from dataclasses import dataclass

from kvperf.kernel.trial import Case


@dataclass(frozen=True)
class Injected:
    """`old` becomes `new` once in `file`.

    shows  how it must show under at least one schedule: the kind of the interpreter's fault, "result" for a wrong one,
           "counts" for requests that are not those predicted. UNSEEN: only the order in which other threads see memory
           suffers, or a race between two blocks that the schedules do not reach, and it must not show
    """

    what: str
    file: str
    old: str
    new: str
    case: Case
    shows: str
    occurrence: int = 0


UNSEEN = ""
SYNC = "__syncthreads();"
WAIT = ("wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>")
THREE = Case("three_pass", group=1)
THREE_LONG = Case("three_pass", group=1, seq=300)
CACHED = Case("cached_attention", seq=77, group=1)
FLASH = Case("flash", seq=77, group=1)
RISING = Case("flash", seq=77, group=1, values="rising")
SPLIT = Case("split_kv", seq=200, group=1, splits=3)
SINGLE = Case("split_kv_single", seq=200, group=1, splits=3)
ONE_BY_ONE = Case("split_kv_single", seq=200, group=1, splits=3, resident_blocks=1)
VECTOR = Case("vector_loads", seq=77, group=2)
RING = Case("async_ring", seq=300, group=2)
BULK = Case("bulk_copy", seq=300, group=2)
MATRIX = Case("tensor_cores", seq=300)
TOKENS = Case("tensor_cores", seq=300, q_len=3)
PAGED = Case("paged", seq=300, group=2)
PAGED_FULL = Case("paged", seq=256, group=2, kv_heads=1)
PAGED_RAGGED = Case("paged", seq=256, group=2, kv_heads=1, batch=3, lengths=(256, 3, 130), splits=3)
MLA = Case("mla", head_dim=576, group=16, kv_heads=1, seq=77)
MLA_RISING = Case("mla", head_dim=576, group=16, kv_heads=1, seq=77, values="rising")
INT8 = Case("int8_kv", seq=77, group=2)
INT8_MMA = Case("int8_mma", seq=300)
FP8 = Case("fp8_kv", seq=77, group=2)
PERSISTENT = Case("persistent", seq=300, group=2, splits=3)


def _in(file: str, case: Case, changes: dict[str, tuple[str, str]], shows: str = "result") -> list[Injected]:
    return [Injected(what, file, old, new, case, shows) for what, (old, new) in changes.items()]


def _barriers(file: str, case: Case, places: dict[int, str], shows: str = "uninitialised") -> list[Injected]:
    """Barriers left out, by their place in the file."""
    return [Injected(f"no barrier {what}", file, SYNC, "", case, shows, n) for n, what in places.items()]


FAULTS = [
    *_barriers("three_pass.cu", THREE, {0: "before the maxima are read", 1: "before the sums are read"}),
    *_barriers("three_pass.cu", THREE_LONG, {2: "behind the probabilities"}),
    *_barriers("three_pass.cu", THREE_LONG, {3: "before the next probabilities"}, "result"),
    *_barriers(
        "cached_attention.cu",
        CACHED,
        {
            0: "behind the tile of keys",
            1: "before the next tile of keys",
            2: "before the maxima are read",
            3: "before the sums are read",
            6: "before the partial outputs are read",
        },
    ),
    *_barriers(
        "cached_attention.cu", CACHED, {4: "behind the tile of values", 5: "before the next tile of values"}, "result"
    ),
    *_barriers("flash.cuh", FLASH, {0: "behind the tile", 1: "behind the scores", 3: "before the outputs are read"}),
    *_barriers("flash.cuh", FLASH, {2: "before the next tile"}, "result"),
    *_in(
        "flash.cuh",
        FLASH,
        {
            "one key too many": ("tile + warp < last ?", "tile + warp <= last ?"),
            "one key too few": ("tile + warp < last ?", "tile + warp < last - 1 ?"),
        },
    ),
    *_in("flash.cuh", FLASH, {"a tile too short": ("min(TILE, last - tile)", "min(TILE, last - tile - 1)")}, "counts"),
    *_in(
        "flash.cuh",
        FLASH,
        {
            "a barrier that one warp misses": (
                "    score = shared.scores[lane];",
                "    if (warp > 0) __syncthreads();\n    score = shared.scores[lane];",
            ),
        },
        "divergence",
    ),
    *_in(
        "flash.cuh",
        RISING,
        {
            "the output is not rescaled": ("softmax.o *= rescale;", ""),
            "the sum is not rescaled": ("softmax.l * rescale", "softmax.l"),
        },
    ),
    *_barriers("split.cuh", SPLIT, {0: "behind the maxima of the splits"}),
    *_barriers("split.cuh", SINGLE, {2: "before the block arrives"}, UNSEEN),
    *_barriers("split.cuh", SINGLE, {3: "before the ticket is read"}),
    *_barriers("split.cuh", PERSISTENT, {1: "before the next row's maxima"}, "result"),
    *_in(
        "split.cuh",
        SPLIT,
        {
            "combine without the maximum": ("exp2_approx(pieces[i].x - m)", "1.0f"),
            "a split's sum is not stored": ("make_float2(m, l)", "make_float2(m, 1)"),
        },
    ),
    *_in("ptx.cuh", SINGLE, {"the counter is not reset": ("if (last) *counter = 0;", "")}, "workspace"),
    *_in("ptx.cuh", ONE_BY_ONE, {"the last but one combines": ("== count - 1", "== count - 2")}, "uninitialised"),
    *(
        Injected(f"{what} through the read-only cache", "split.cuh", "__ldcg", "__ldg", case, "read-only", place)
        for place, what in enumerate(("the maxima of the splits", "the outputs of the splits"))
        for case in (SINGLE, PERSISTENT)
    ),
    *_in("split.cuh", SINGLE, {"no fence before the block arrives": ("__threadfence();", "")}, UNSEEN),
    *_in("split.cuh", VECTOR, {"owners merge without the maximum": ("exp2_approx(m[i * ml_stride] - m_all)", "1.0f")}),
    *_barriers("lanes.cuh", VECTOR, {0: "behind the queries", 1: "before the owners merge"}),
    *_barriers("lanes.cuh", VECTOR, {2: "before the next head"}, "result"),
    *_in(
        "lanes.cuh",
        VECTOR,
        {
            "the output is not rescaled": ("heads[g].o[i] *= rescale;", "heads[g].o[i] *= 1;"),
            "keys past the end count": (" + keys.penalty[u]", ""),
        },
    ),
    *_in(
        "ring.cuh",
        RING,
        {
            "a wait for one copy too few": WAIT,
            "the stage in use is refilled": ("= stage == 0 ? STAGES - 1 : stage - 1;", "= stage;"),
            "no group for an empty tile": ("  commit_copies();\n", "  if (tile < last) commit_copies();\n"),
        },
        "uninitialised",
    ),
    *_barriers("tensor_cores.cu", MATRIX, {0: "behind the packed queries", 3: "before the warps merge"}),
    *_barriers(
        "tensor_cores.cu", MATRIX, {1: "before the queries are overwritten", 2: "before the ring is reused"}, "result"
    ),
    *_in("tensor_cores.cu", MATRIX, {"a wait for one copy too few": WAIT}, "uninitialised"),
    *_in(
        "tensor_cores.cu",
        MATRIX,
        {
            "keys are not swizzled": (
                "copy_async(swizzled(stage.keys, row, chunk)",
                "copy_async(stage.keys + row * HEAD_DIM + chunk * 8",
            ),
            "values are swizzled otherwise": (
                "(swizzled(stage.values, row, chunk)",
                "(swizzled(stage.values, row, chunk ^ 1)",
            ),
            "values are not transposed": ("load_matrix_transposed(value", "load_matrix(value"),
            "the output is not rescaled": ("o[n][i] *= rescale[i / 2], ", ""),
            "one key too many": ("fragment_column + i % 2 < visible", "fragment_column + i % 2 <= visible"),
        },
    ),
    *_in("tensor_cores.cu", TOKENS, {"a token sees the next one": ("QUERY_LEN + token + 1", "QUERY_LEN + token + 2")}),
    *_in("tensor_cores.cu", MATRIX, {"no wait for the warp's copies": ("    __syncwarp();\n", "")}, UNSEEN),
    *_in("int8_mma.cu", INT8_MMA, {"no wait for the warp's copies": ("    __syncwarp();\n", "")}, UNSEEN),
    *_in(
        "bulk_copy.cu",
        BULK,
        {
            "half the bytes announced": ("expecting(&full[stage], 2 * bytes)", "expecting(&full[stage], bytes)"),
            "no wait for the bytes": ("wait_for(&full[stage], phase);", ""),
            "no wait for the rest of the warp": ("    __syncwarp();\n", ""),
        },
        "uninitialised",
    ),
    *_in(
        "bulk_copy.cu",
        BULK,
        {
            "the producer's phase stands still": ("stage = 0, phase ^= 1;", "stage = 0;"),
            "a full stage is refilled": ("wait_for(&empty[stage], phase ^ 1);", ""),
        },
        "mbarrier",
    ),
    *_in(
        "bulk_copy.cu",
        BULK,
        {"one warp too many is waited for": ("(&empty[i], CONSUMER_WARPS)", "(&empty[i], CONSUMER_WARPS + 1)")},
        "divergence",
    ),
    *_in(
        "paged.cu",
        PAGED,
        {"a page further": ("page = table[(tile + TILE) / PAGE]", "page = table[(tile + TILE) / PAGE + 1]")},
        "bounds",
    ),
    *_in("paged.cu", PAGED, {"the first page for all": (" page = table[(tile + TILE) / PAGE]", " page = table[0]")}),
    *_in("paged.cu", PAGED_RAGGED, {"the first length for all": ("lengths[batch]", "lengths[0]")}, "counts"),
    *_in("paged.cu", PAGED_FULL, {"a page beyond the table": ("if (tile + TILE < last) page", "page")}, "bounds"),
    *_in(
        "int8_kv.cu",
        INT8,
        {
            "the scale of another key": ("key_scale, u, LANES", "key_scale, u ^ 1, LANES"),
            "bytes taken for unsigned": ("8388736.0f", "8388608.0f"),
        },
    ),
    *_in(
        "int8_mma.cu",
        INT8_MMA,
        {
            "values with the keys' scale": ("scale, 16 + n * 8 + fragment_column", "scale, n * 8 + fragment_column"),
            "values of the wrong dimensions": ("fragment_row * 4);", "(fragment_row ^ 1) * 4);"),
        },
    ),
    *_in(
        "fp8_kv.cu",
        FP8,
        {
            "values without their scale": ("heads[g].o[i] *= v_scale;", "heads[g].o[i] *= 1;"),
            "bytes in the wrong order": ("word >> 16 * i", "word >> 16 * (1 - i)"),
        },
    ),
    *_barriers(
        "mla.cu",
        MLA,
        {0: "behind the tile", 1: "behind the scores", 2: "behind the weights", 3: "before the sums are read"},
    ),
    *_in("mla.cu", MLA_RISING, {"the output is not rescaled": ("*= rescale[i / 2];", "*= 1;")}),
    *_in("mla.cu", MLA, {"a wait for one copy too few": WAIT}, "uninitialised"),
    *_in(
        "persistent.cu", PERSISTENT, {"a piece left out": ("piece += gridDim.x", "piece += gridDim.x + 1")}, "workspace"
    ),
]

# Some of each kind, for every run of the tests; the rest under KVPERF_TEST_FULL=1.
USUAL = (
    "no barrier behind the probabilities",
    "no barrier behind the scores",
    "one key too many",
    "a barrier that one warp misses",
    "combine without the maximum",
    "no group for an empty tile",
    "values are not transposed",
    "values are swizzled otherwise",
    "half the bytes announced",
    "no wait for the rest of the warp",
    "the outputs of the splits through the read-only cache",
    "a page beyond the table",
)
