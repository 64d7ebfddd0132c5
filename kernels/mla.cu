// Multi-head latent attention, absorbed: every query head attends to one shared latent.
//
// What it does: the cache holds LATENT + ROPE numbers per token; all of them make the key, the first LATENT are also
// the value. A block serves HEADS heads of one sequence; tiles of 32 tokens come through a cp.async ring.
// What it changes against tensor_cores.cu: keys and values are the same bytes; 16 to 64 rows per block; the output is
// too wide for one warp's registers, so each of the 8 warps accumulates 64 of its 512 dimensions for all rows.
// What it buys: a token costs 1152 bytes for all heads together, and is read once per HEADS of them.
//
// q [B][heads][LATENT + ROPE], latent [B][S][LATENT + ROPE], out [B][heads][LATENT].
// grid (splits, ceil(heads / HEADS), B), 256 threads.
#define LATENT 512
#define ROPE 64
#define OUTPUT_DIM LATENT
#ifndef HEADS
#define HEADS 16   // rows of a block: 16, 32 or 64
#endif
#ifndef STAGES
#define STAGES 2
#endif
#include "split.cuh"

#define WARPS 8
#define THREADS (32 * WARPS)
#define TILE 32
#define KEY_DIM (LATENT + ROPE)
#define KEY_CHUNKS (KEY_DIM / 8)
#define M_TILES (HEADS / 16)
#define WARP_TILES (LATENT / WARPS / 8)   // output instructions along one warp's dimensions
#define WARP_ROWS (HEADS / WARPS)         // rows whose softmax one warp takes
#define JOB_KEYS (M_TILES * TILE / WARPS < 8 ? 8 : M_TILES * TILE / WARPS)   // keys that a warp scores at a time
#define STRIDE (TILE + 8)                 // padded, so that rows start at different banks

struct Shared {
  element query[HEADS * KEY_DIM];
  element ring[STAGES][TILE * KEY_DIM];
  float scores[HEADS][STRIDE];
  element weights[HEADS][STRIDE];
  float rescale[HEADS], m[HEADS], l[HEADS];
};

// Where the eight dimensions of `chunk` of a row lie: neighbouring rows start at different banks.
DEVICE element* swizzled(element* tile, int row, int chunk) {
  return tile + row * KEY_DIM + (chunk ^ (row & 7)) * 8;
}

// Start the copies of rows [0, rows) of `source`; those from `valid` on become zeros.
DEVICE void copy_rows(element* tile, const element* source, int rows, int valid) {
  for (int i = threadIdx.x; i < rows * KEY_CHUNKS; i += THREADS) {
    int row = i / KEY_CHUNKS, chunk = i % KEY_CHUNKS;
    size_t offset = row < valid ? (size_t)row * KEY_DIM + chunk * 8 : 0;
    copy_async(swizzled(tile, row, chunk), source + offset, row < valid);
  }
}

// Scores of all rows against the tile: a job of a warp is 16 rows by JOB_KEYS keys, for which it reads the rows once.
DEVICE void score_tile(Shared& shared, element* tile) {
  int lane = threadIdx.x % 32, job = threadIdx.x / 32;
  if (job >= M_TILES * TILE / JOB_KEYS) return;
  int row = job % M_TILES * 16, key = job / M_TILES * JOB_KEYS;

  // Multiply and add.
  float score[JOB_KEYS / 8][4] = {};
#pragma unroll 6
  for (int chunk = 0; chunk < KEY_CHUNKS; chunk += 4) {
    unsigned first[4], second[4];
    load_matrix(first, swizzled(shared.query, row + lane % 16, chunk + lane / 16));
    load_matrix(second, swizzled(shared.query, row + lane % 16, chunk + 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < JOB_KEYS / 8; n++) {
      unsigned keys[4];
      load_matrix(keys, swizzled(tile, key + n * 8 + lane % 8, chunk + lane / 8));
      multiply(score[n], first, keys[0], keys[1]);
      multiply(score[n], second, keys[2], keys[3]);
    }
  }

  // Lay them down for the softmax.
#pragma unroll
  for (int n = 0; n < JOB_KEYS / 8; n++) {
    float2* mine = reinterpret_cast<float2*>(&shared.scores[row + lane / 4][key + n * 8 + lane % 4 * 2]);
    mine[0] = make_float2(score[n][0], score[n][1]);
    mine[4 * STRIDE] = make_float2(score[n][2], score[n][3]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    mla(const element* q, const element* latent, output* out, float* partial_o, float2* partial_ml, int heads,
        int seq, int split_tokens, float score_scale) {
  DYNAMIC_SHARED(dynamic);
  Shared& shared = *reinterpret_cast<Shared*>(dynamic);
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, batch = blockIdx.z, first_head = blockIdx.y * HEADS;
  int rows = min(HEADS, heads - first_head), first_row = batch * heads + first_head;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);
  const element* tokens = latent + (size_t)batch * seq * KEY_DIM;

  // Start the copies of the queries and of the first tiles.
  auto copy_tile = [&](int stage, int tile) {
    if (tile < last) copy_rows(shared.ring[stage], tokens + (size_t)tile * KEY_DIM, TILE, last - tile);
    commit_copies();
  };
  copy_rows(shared.query, q + (size_t)first_row * KEY_DIM, HEADS, rows);
  for (int i = 0; i < STAGES - 1; i++) copy_tile(i, first + i * TILE);

  float o[M_TILES][WARP_TILES][4] = {}, m[WARP_ROWS], l[WARP_ROWS];
#pragma unroll
  for (int i = 0; i < WARP_ROWS; i++) m[i] = LOWEST, l[i] = 0;

  int stage = 0;
  for (int tile = first; tile < last; tile += TILE) {
    // Wait for the oldest tile; once all warps are here, refill the stage used last.
    wait_copies<STAGES - 2>();
    __syncthreads();
    copy_tile(stage == 0 ? STAGES - 1 : stage - 1, tile + (STAGES - 1) * TILE);

    // Score it.
    score_tile(shared, shared.ring[stage]);
    __syncthreads();

    // Take the softmax of each row, a key per lane; keys past the end cannot win.
#pragma unroll
    for (int i = 0; i < WARP_ROWS; i++) {
      int row = i * WARPS + warp;
      float score = tile + lane < last ? shared.scores[row][lane] * score_scale : MINUS_INFINITY;
      float highest = fmaxf(m[i], max_over<32>(score)), weight = exp2_approx(score - highest);
      float rescale = exp2_approx(m[i] - highest);
      m[i] = highest, l[i] = l[i] * rescale + sum_over<32>(weight);
      shared.weights[row][lane] = to_element(weight);
      if (lane == 0) shared.rescale[row] = rescale;
    }
    __syncthreads();

    // Rescale this warp's dimensions of every row.
#pragma unroll
    for (int t = 0; t < M_TILES; t++) {
      float rescale[2] = {shared.rescale[t * 16 + lane / 4], shared.rescale[t * 16 + lane / 4 + 8]};
#pragma unroll
      for (int n = 0; n < WARP_TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) o[t][n][i] *= rescale[i / 2];
    }

    // Add the weighted values: each value fragment serves all rows.
#pragma unroll
    for (int key = 0; key < TILE; key += 16) {
      unsigned weight[M_TILES][4];
#pragma unroll
      for (int t = 0; t < M_TILES; t++)
        load_matrix(weight[t], &shared.weights[t * 16 + lane % 16][key + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < WARP_TILES; n += 2) {
        unsigned value[4];
        load_matrix_transposed(
            value, swizzled(shared.ring[stage], key + lane % 16, warp * WARP_TILES + n + lane / 16));
#pragma unroll
        for (int t = 0; t < M_TILES; t++) {
          multiply(o[t][n], weight[t], value[0], value[1]);
          multiply(o[t][n + 1], weight[t], value[2], value[3]);
        }
      }
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }

  // Tell every warp the maxima and sums.
#pragma unroll
  for (int i = 0; i < WARP_ROWS; i++)
    if (lane == 0) shared.m[i * WARPS + warp] = m[i], shared.l[i * WARPS + warp] = l[i];
  __syncthreads();

  // Store this warp's dimensions.
#pragma unroll
  for (int t = 0; t < M_TILES; t++)
#pragma unroll
    for (int n = 0; n < WARP_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = t * 16 + lane / 4 + i / 2 * 8, dim = (warp * WARP_TILES + n) * 8 + lane % 4 * 2 + i % 2;
        if (row < rows) store<LATENT>(to, first_row + row, dim, o[t][n][i], shared.m[row], shared.l[row]);
      }
}
