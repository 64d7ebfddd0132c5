// The matrix product of one token: y = W x, a stream of weights.
//
// What it does: SPLIT_K warps share ROWS rows of W, each takes every SPLIT_K-th stretch of K; a lane has ROWS loads
// of 16 bytes in flight and uses its piece of x for all of them. The warps' sums meet in shared memory. fp32 sums.
// Bytes: W once; x once for each ROWS rows (L1 and L2 serve it); y once, in fp32 where OUTPUT_FP32 says so (logits).
//
// weight [N][INPUTS], x [INPUTS], y [N]. grid ceil(N / (ROWS * THREADS / 32 / SPLIT_K)).
#include "pipeline/rows.cuh"

#ifndef ROWS
#define ROWS 4
#endif
#ifndef SPLIT_K
#define SPLIT_K 4
#endif
#define PIECE PIECE_OF(INPUTS)
#define WARPS (THREADS / 32)
#define TEAMS (WARPS / SPLIT_K)
static_assert(WARPS % SPLIT_K == 0 && ROWS <= 32, "whole teams of SPLIT_K warps");

extern "C" __global__ void __launch_bounds__(THREADS)
    gemv(const element* weight, const element* x, output* y, int outputs) {
  __shared__ float sums[WARPS][ROWS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, team = warp / SPLIT_K, part = warp % SPLIT_K;
  int first = (blockIdx.x * TEAMS + team) * ROWS;
  const element* rows = weight + (size_t)first * INPUTS;
  float sum[ROWS] = {};

  if (first < outputs) {
#pragma unroll 2
    for (int k = (part * 32 + lane) * PIECE; k < INPUTS; k += SPLIT_K * 32 * PIECE) {
      // Start the loads of all rows; rows past the end are zeros.
      float weights[ROWS][PIECE] = {}, given[PIECE];
#pragma unroll
      for (int r = 0; r < ROWS; r++)
        if (first + r < outputs) load_piece_once(rows + (size_t)r * INPUTS + k, weights[r]);
      load_piece(x + k, given);

      // Multiply and add.
#pragma unroll
      for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int e = 0; e < PIECE; e++) sum[r] = fmaf(weights[r][e], given[e], sum[r]);
    }
  }

  // Add up the lanes of each warp.
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    sum[r] = sum_over<32>(sum[r]);
    if (lane == 0) sums[warp][r] = sum[r];
  }
  __syncthreads();

  // Add up the warps of each team, one lane a row, and store.
  if (part == 0 && lane < ROWS && first + lane < outputs) {
    float total = 0;
#pragma unroll
    for (int p = 0; p < SPLIT_K; p++) total += sums[warp + p][lane];
    y[first + lane] = to_output(total);
  }
}
