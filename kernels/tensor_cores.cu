// Query heads packed into the rows of a tensor core instruction.
//
// What it does: the GROUP heads (times QUERY_LEN tokens) that share a KV head become the 16 rows of mma.sync.m16n8k16.
// Each warp runs its own online softmax over its own tiles of 16 keys, from its own cp.async ring.
// What it changes against async_ring.cu: scores and weighted values are matrix products, and several query tokens
// (speculative decoding) can share one read of K and V.
// What it buys: a key costs about as many instructions for 16 rows as it did for one. Rows that no head fills are
// wasted.
//
// q and out [B][QUERY_LEN][H][D], k and v [B][Hkv][S][D]; token i sees the first S - QUERY_LEN + i + 1 keys.
// grid (splits, Hkv * M_TILES, B), 32 * WARPS threads.
#ifndef QUERY_LEN
#define QUERY_LEN 1
#endif
#ifndef WARPS
#define WARPS 4
#endif
#ifndef STAGES
#define STAGES 3
#endif
#include "split.cuh"

#define ROWS (GROUP * QUERY_LEN)
#define M_TILES ((ROWS + 15) / 16)
#define TILE 16                        // keys of one warp's tile
#define K_STEPS (HEAD_DIM / 16)        // instructions along the dimensions of a score
#define N_TILES (HEAD_DIM / 8)         // instructions along the dimensions of the output
#define O_STRIDE (HEAD_DIM + 8)        // padded, so that the rows of a fragment fall into different banks

typedef element Tile[TILE * HEAD_DIM];
struct Stage {
  Tile keys, values;
};

// Where the eight dimensions of `chunk` of a row lie: neighbouring rows start at different banks.
DEVICE element* swizzled(element* tile, int row, int chunk) {
  return tile + row * HEAD_DIM + (chunk ^ (row & 7)) * 8;
}

// Start the copies of one tile; rows past the end become zeros. A group is closed even if it is empty.
DEVICE void copy_tile(Stage& stage, const element* keys, const element* values, int tile, int last) {
  int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int i = lane; i < TILE * HEAD_DIM / 8; i += 32) {
    int row = i / (HEAD_DIM / 8), chunk = i % (HEAD_DIM / 8);
    bool valid = tile + row < last;
    size_t offset = valid ? (size_t)(tile + row) * HEAD_DIM + chunk * 8 : 0;
    copy_async(swizzled(stage.keys, row, chunk), keys + offset, valid);
    copy_async(swizzled(stage.values, row, chunk), values + offset, valid);
  }
  commit_copies();
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    tensor_cores(const element* q, const element* k, const element* v, output* out, float* partial_o,
                 float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale) {
  DYNAMIC_SHARED(dynamic);
  __shared__ float all_m[WARPS][16], all_l[WARPS][16];
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, batch = blockIdx.z;
  int kv_head = blockIdx.y / M_TILES, first_row = blockIdx.y % M_TILES * 16, rows = min(16, ROWS - first_row);
  int fragment_row = lane / 4, fragment_column = lane % 4 * 2;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);
  size_t kv_row = batch * kv_heads + kv_head;
  const element* keys = k + kv_row * seq * HEAD_DIM;
  const element* values = v + kv_row * seq * HEAD_DIM;

  // The row of q and out that holds packed row i: token i / GROUP, head i % GROUP of the group.
  auto row_of = [&](int i) {
    int token = (first_row + i) / GROUP, head = kv_head * GROUP + (first_row + i) % GROUP;
    return (batch * QUERY_LEN + token) * kv_heads * GROUP + head;
  };

  // Fill all stages of this warp's ring but the last.
  Stage* ring = reinterpret_cast<Stage*>(dynamic) + warp * STAGES;
  int step = WARPS * TILE, first_tile = first + warp * TILE;
  for (int i = 0; i < STAGES - 1; i++) copy_tile(ring[i], keys, values, first_tile + i * step, last);

  // Meanwhile pack the queries, zeros below the last row, into the stage that is still free.
  element* packed = reinterpret_cast<Stage*>(dynamic)[STAGES - 1].keys;
  for (int i = threadIdx.x; i < 16 * HEAD_DIM / 8; i += 32 * WARPS) {
    int row = i / (HEAD_DIM / 8), chunk = i % (HEAD_DIM / 8);
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (row < rows) piece = load_once(q + (size_t)row_of(row) * HEAD_DIM + chunk * 8);
    *reinterpret_cast<uint4*>(swizzled(packed, row, chunk)) = piece;
  }
  __syncthreads();

  // Every warp takes all of them into registers.
  unsigned query[K_STEPS][4];
#pragma unroll
  for (int i = 0; i < K_STEPS; i++) load_matrix(query[i], swizzled(packed, lane % 16, i * 2 + lane / 16));
  __syncthreads();

  float o[N_TILES][4] = {}, m[2] = {LOWEST, LOWEST}, l[2] = {0, 0};
  int stage = 0;
  for (int tile = first_tile; tile < last; tile += step) {
    // Wait for the oldest tile, then start the copies of the one STAGES - 1 ahead into the stage used last.
    wait_copies<STAGES - 2>();
    __syncwarp();
    int free_stage = stage == 0 ? STAGES - 1 : stage - 1;
    copy_tile(ring[free_stage], keys, values, tile + (STAGES - 1) * step, last);

    // Multiply 16 rows with 16 keys.
    float score[2][4] = {};
#pragma unroll
    for (int i = 0; i < K_STEPS; i++) {
      unsigned key[4];
      load_matrix(key, swizzled(ring[stage].keys, lane % 8 + lane / 16 * 8, i * 2 + lane / 8 % 2));
      multiply(score[0], query[i], key[0], key[1]);
      multiply(score[1], query[i], key[2], key[3]);
    }

    // Raise each row's maximum; keys past the end, or past what the row's token sees, cannot win.
    float rescale[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int token = (first_row + fragment_row + r * 8) / GROUP;
      int visible = min(last, seq - QUERY_LEN + token + 1);
      float highest = m[r];
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
          bool valid = tile + n * 8 + fragment_column + i % 2 < visible;
          score[n][i] = valid ? score[n][i] * score_scale : MINUS_INFINITY;
          highest = fmaxf(highest, score[n][i]);
        }
      highest = max_over<4>(highest);
      rescale[r] = exp2_approx(m[r] - highest);
      m[r] = highest, l[r] *= rescale[r];
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) l[r] += score[n][i] = exp2_approx(score[n][i] - highest);
    }

    // Rescale the output, and multiply the weights with 16 values: a score fragment is a weight fragment.
    unsigned weight[4] = {pack(score[0][0], score[0][1]), pack(score[0][2], score[0][3]),
                          pack(score[1][0], score[1][1]), pack(score[1][2], score[1][3])};
#pragma unroll
    for (int n = 0; n < N_TILES; n += 2) {
      unsigned value[4];
      load_matrix_transposed(value, swizzled(ring[stage].values, lane % 16, n + lane / 16));
#pragma unroll
      for (int i = 0; i < 4; i++) o[n][i] *= rescale[i / 2], o[n + 1][i] *= rescale[i / 2];
      multiply(o[n], weight, value[0], value[1]);
      multiply(o[n + 1], weight, value[2], value[3]);
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }

  // Reuse the ring: lay the warps' outputs, maxima and sums out side by side.
  wait_copies<0>();
  __syncthreads();
  float* all_o = reinterpret_cast<float*>(dynamic);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = fragment_row + r * 8;
    float* mine = all_o + (warp * 16 + row) * O_STRIDE + fragment_column;
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
      *reinterpret_cast<float2*>(mine + n * 8) = make_float2(o[n][2 * r], o[n][2 * r + 1]);
    l[r] = sum_over<4>(l[r]);
    if (lane % 4 == 0) all_m[warp][row] = m[r], all_l[warp][row] = l[r];
  }
  __syncthreads();

  // Merge them row by row.
  for (int i = 0; i < rows; i++)
    merge_and_store<HEAD_DIM>(to, row_of(i), all_o + i * O_STRIDE, 16 * O_STRIDE, &all_m[0][i], &all_l[0][i], 16,
                              WARPS);
}
