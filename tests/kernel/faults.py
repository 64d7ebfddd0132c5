"""Faults to put into the kernels, and the case that should notice each of them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.kernel.attention import Case


@dataclass(frozen=True)
class Injected:
    """`old` becomes `new` once in `file`. `ordering`: only the order of memory operations suffers, which no
    interpreter that executes them in order can see.
    """

    what: str
    file: str
    old: str
    new: str
    case: Case
    ordering: bool = False
    occurrence: int = 0


SYNC = "__syncthreads();"
CACHED = Case("cached_attention", seq=77, group=1)
FLASH = Case("flash", seq=77, group=1)
SPLIT = Case("split_kv", seq=200, group=1, splits=3)
SINGLE = Case("split_kv_single", seq=200, group=1, splits=3)
VECTOR = Case("vector_loads", seq=77, group=2)
RING = Case("async_ring", seq=300, group=2)
BULK = Case("bulk_copy", seq=300, group=2)
MATRIX = Case("tensor_cores", seq=300)
TOKENS = Case("tensor_cores", seq=300, q_len=3)
PAGED = Case("paged", seq=300, group=2)
MLA = Case("mla", head_dim=576, group=16, kv_heads=1, seq=77)
INT8 = Case("int8_kv", seq=77, group=2)
INT8_MMA = Case("int8_mma", seq=300)
FP8 = Case("fp8_kv", seq=77, group=2)
PERSISTENT = Case("persistent", seq=300, group=2, splits=3)


def _barrier(file: str, place: str, occurrence: int, case: Case, old: str = SYNC) -> Injected:
    return Injected(f"no barrier {place}", file, old, "", case, occurrence=occurrence)


FAULTS = (
    _barrier("three_pass.cu", "before the maxima are read", 0, Case("three_pass", group=1)),
    _barrier("three_pass.cu", "before the sums are read", 1, Case("three_pass", group=1)),
    _barrier("three_pass.cu", "behind the staged probabilities", 2, Case("three_pass", group=1, seq=300)),
    _barrier("three_pass.cu", "before the next probabilities", 3, Case("three_pass", group=1, seq=300)),
    _barrier("cached_attention.cu", "behind the tile of keys", 0, CACHED),
    _barrier("cached_attention.cu", "before the next tile of keys", 1, CACHED),
    _barrier("cached_attention.cu", "before the maxima are read", 2, CACHED),
    _barrier("cached_attention.cu", "before the sums are read", 3, CACHED),
    _barrier("cached_attention.cu", "behind the tile of values", 4, CACHED),
    _barrier("cached_attention.cu", "before the next tile of values", 5, CACHED),
    _barrier("cached_attention.cu", "before the partial outputs are read", 6, CACHED),
    _barrier("flash.cuh", "behind the tile", 0, FLASH),
    _barrier("flash.cuh", "behind the scores", 1, FLASH),
    _barrier("flash.cuh", "before the next tile", 2, FLASH),
    _barrier("flash.cuh", "before the partial outputs are read", 3, FLASH),
    Injected("the output is not rescaled", "flash.cuh", "softmax.o *= rescale;", "", FLASH),
    Injected("the sum is not rescaled", "flash.cuh", "softmax.l * rescale", "softmax.l", FLASH),
    Injected("one key too many", "flash.cuh", "tile + warp < last ?", "tile + warp <= last ?", FLASH),
    Injected("one key too few", "flash.cuh", "tile + warp < last ?", "tile + warp < last - 1 ?", FLASH),
    Injected("a tile too short", "flash.cuh", "min(TILE, last - tile)", "min(TILE, last - tile - 1)", FLASH),
    Injected(
        "a barrier that one warp misses",
        "flash.cuh",
        "    score = shared.scores[lane];",
        "    if (warp > 0) __syncthreads();\n    score = shared.scores[lane];",
        FLASH,
    ),
    Injected("combine without the maximum", "split.cuh", "exp2_approx(pieces[i].x - m)", "1.0f", SPLIT),
    Injected("the split's sum is not stored", "split.cuh", "make_float2(m, l)", "make_float2(m, 1)", SPLIT),
    Injected("the counter is not reset", "split.cuh", "if (ticket == blocks - 1) *counter = 0;", "", SINGLE),
    Injected("the last but one combines", "split.cuh", "return ticket == blocks - 1", "return ticket == blocks - 2", SINGLE),
    _barrier("split.cuh", "before the block arrives", 2, SINGLE),
    _barrier("split.cuh", "before the ticket is read", 3, SINGLE),
    Injected("no fence before the block arrives", "split.cuh", "__threadfence();", "", SINGLE, ordering=True),
    _barrier("split.cuh", "behind the maxima of the splits", 0, SPLIT),
    _barrier("split.cuh", "before the next row's maxima", 1, PERSISTENT),
    Injected("owners merge without the maximum", "split.cuh", "exp2_approx(m[i * ml_stride] - m_all)", "1.0f", VECTOR),
    _barrier("lanes.cuh", "behind the queries", 0, VECTOR),
    _barrier("lanes.cuh", "before the owners merge", 1, VECTOR),
    _barrier("lanes.cuh", "before the next head", 2, VECTOR),
    Injected("the output is not rescaled", "lanes.cuh", "heads[g].o[i] *= rescale;", "", VECTOR),
    Injected("keys past the end count", "lanes.cuh", " + keys.penalty[u]", "", VECTOR),
    Injected("a wait for one copy too few", "ring.cuh", "wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>", RING),
    Injected("the stage in use is refilled", "ring.cuh", "int free_stage = stage == 0 ? STAGES - 1 : stage - 1;", "int free_stage = stage;", RING),
    Injected("no group for an empty tile", "ring.cuh", "  commit_copies();\n", "  if (tile < last) commit_copies();\n", RING),
    Injected("a wait for one copy too few", "tensor_cores.cu", "wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>", MATRIX),
    Injected("keys are not swizzled", "tensor_cores.cu", "copy_async(swizzled(stage.keys, row, chunk)", "copy_async(stage.keys + row * HEAD_DIM + chunk * 8", MATRIX),
    Injected("values are swizzled otherwise", "tensor_cores.cu", "copy_async(swizzled(stage.values, row, chunk)", "copy_async(swizzled(stage.values, row, chunk ^ 1)", MATRIX),
    Injected("values are not transposed", "tensor_cores.cu", "load_matrix_transposed(value", "load_matrix(value", MATRIX),
    Injected("the output is not rescaled", "tensor_cores.cu", "o[n][i] *= rescale[i / 2], ", "", MATRIX),
    Injected("one key too many", "tensor_cores.cu", "fragment_column + i % 2 < visible", "fragment_column + i % 2 <= visible", MATRIX),
    Injected("a token sees the next one", "tensor_cores.cu", "seq - QUERY_LEN + token + 1", "seq - QUERY_LEN + token + 2", TOKENS),
    Injected("no wait for the rest of the warp's copies", "tensor_cores.cu", "    __syncwarp();\n", "", MATRIX, ordering=True),
    _barrier("tensor_cores.cu", "behind the packed queries", 0, MATRIX),
    _barrier("tensor_cores.cu", "before the queries are overwritten", 1, MATRIX),
    _barrier("tensor_cores.cu", "before the ring is reused", 2, MATRIX),
    _barrier("tensor_cores.cu", "before the warps merge", 3, MATRIX),
    Injected("half the bytes announced", "bulk_copy.cu", "arrive_expecting(&full[stage], 2 * bytes)", "arrive_expecting(&full[stage], bytes)", BULK),
    Injected("the consumers' phase stands still", "bulk_copy.cu", "stage = 0, phase ^= 1;", "stage = 0;", BULK, occurrence=1),
    Injected("a full stage is refilled", "bulk_copy.cu", "wait_for(&empty[stage], phase ^ 1);", "", BULK),
    Injected("no wait for the bytes", "bulk_copy.cu", "wait_for(&full[stage], phase);", "", BULK),
    Injected("one warp too few hands back", "bulk_copy.cu", "initialise(&empty[i], CONSUMER_WARPS)", "initialise(&empty[i], CONSUMER_WARPS + 1)", BULK),
    Injected("a page further", "paged.cu", "page = table[(tile + TILE) / PAGE]", "page = table[(tile + TILE) / PAGE + 1]", PAGED),
    Injected("a page beyond the table", "paged.cu", "if (tile + TILE < last) page", "page", Case("paged", seq=256, group=2, kv_heads=1)),
    Injected("the first page for all", "paged.cu", "(tile + TILE < last) page = table[(tile + TILE) / PAGE]", "(tile + TILE < last) page = table[0]", PAGED),
    Injected("the scale of another key", "int8_kv.cu", "key_scale, u, LANES", "key_scale, u ^ 1, LANES", INT8),
    Injected("bytes taken for unsigned", "int8_kv.cu", "8388736.0f", "8388608.0f", INT8),
    Injected("values without their scale", "int8_mma.cu", "weight[n][i] = p * __shfl_sync(FULL_WARP, scale, 16 + n * 8 + fragment_column + i % 2);", "weight[n][i] = p;", INT8_MMA),
    Injected("values of the wrong dimensions", "int8_mma.cu", "fragment_row * 4);", "(fragment_row ^ 1) * 4);", INT8_MMA),
    Injected("values without their scale", "fp8_kv.cu", "heads[g].o[i] *= v_scale;", "", FP8),
    Injected("bytes in the wrong order", "fp8_kv.cu", "word >> 16 * i", "word >> 16 * (1 - i)", FP8),
    _barrier("mla.cu", "behind the tile", 0, MLA),
    _barrier("mla.cu", "behind the scores", 1, MLA),
    _barrier("mla.cu", "behind the weights", 2, MLA),
    _barrier("mla.cu", "before the sums are read", 3, MLA),
    Injected("the output is not rescaled", "mla.cu", "o[t][n][i] *= rescale[i / 2];", "", MLA),
    Injected("a wait for one copy too few", "mla.cu", "wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>", MLA),
    Injected("a piece left out", "persistent.cu", "piece += gridDim.x", "piece += gridDim.x + 1", PERSISTENT),
)  # fmt: skip

# One of each kind, for every run of the tests; the rest under KVPERF_TEST_FULL=1.
USUAL = (0, 12, 15, 17, 20, 21, 37, 39, 42, 52, 57)
