// The activation of a gated FFN: out = silu(gate) * up, with silu(x) = x / (1 + exp(-x)).
//
// Bytes, T tokens: gate and up, which one product leaves side by side, are read once, out is written once.
//
// gate_up [T][2][WIDTH], out [T][WIDTH]. grid (T, ceil(WIDTH / (THREADS * elements of a piece))).
#include "pipeline/rows.cuh"

#define PIECE PIECE_OF(WIDTH)
#define LOG2_E 1.4426950408889634f

extern "C" __global__ void __launch_bounds__(THREADS) silu_mul(const element* gate_up, element* out) {
  int i = (blockIdx.y * THREADS + threadIdx.x) * PIECE;
  if (i >= WIDTH) return;

  // Load gate and up.
  const element* row = gate_up + (size_t)blockIdx.x * 2 * WIDTH;
  float gate[PIECE], up[PIECE], result[PIECE];
  load_piece(row + i, gate);
  load_piece(row + WIDTH + i, up);

  // Activate, multiply, store.
#pragma unroll
  for (int e = 0; e < PIECE; e++) result[e] = __fdividef(gate[e], 1 + exp2_approx(-LOG2_E * gate[e])) * up[e];
  store_piece(out + (size_t)blockIdx.x * WIDTH + i, result);
}
