// RMSNorm of rows of HIDDEN elements, alone or with the residual addition before it.
//
// What it does: residual += x; out = residual / sqrt(mean(residual^2) + epsilon) * weight, on the sum as it is
// stored. One block holds one row in registers, so every row crosses memory once.
// Bytes, T rows: `add_rms_norm` reads 2 and writes 2 rows for each, `rms_norm` 1 and 1. Each block reads the weights:
// the first from memory, the others from L2.
//
// residual, x, out [T][HIDDEN], weight [HIDDEN]. grid T.
#include "pipeline/rows.cuh"

#define PIECE PIECE_OF(HIDDEN)
#define PIECES (HIDDEN / PIECE)
#define PER_THREAD CEIL_DIV(PIECES, THREADS)

// Scale a row, held in registers, by its root mean square and the weights.
DEVICE void normalise(const float (&row)[PER_THREAD][PIECE], const element* weight, element* out, float epsilon) {
  // Sum the squares.
  float squares = 0;
#pragma unroll
  for (int p = 0; p < PER_THREAD; p++)
#pragma unroll
    for (int e = 0; e < PIECE; e++) squares += row[p][e] * row[p][e];
  float scale = rsqrtf(block_sum<THREADS>(squares) / HIDDEN + epsilon);

  // Scale and store.
#pragma unroll
  for (int p = 0; p < PER_THREAD; p++) {
    int piece = p * THREADS + threadIdx.x;
    if (piece >= PIECES) break;
    float weights[PIECE], result[PIECE];
    load_piece(weight + piece * PIECE, weights);
#pragma unroll
    for (int e = 0; e < PIECE; e++) result[e] = row[p][e] * scale * weights[e];
    store_piece(out + piece * PIECE, result);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rms_norm(const element* x, const element* weight, element* out, float epsilon) {
  size_t start = (size_t)blockIdx.x * HIDDEN;
  float row[PER_THREAD][PIECE] = {};

  // Load the row.
#pragma unroll
  for (int p = 0; p < PER_THREAD; p++) {
    int piece = p * THREADS + threadIdx.x;
    if (piece < PIECES) load_piece(x + start + piece * PIECE, row[p]);
  }
  normalise(row, weight, out + start, epsilon);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_rms_norm(element* residual, const element* x, const element* weight, element* out, float epsilon) {
  size_t start = (size_t)blockIdx.x * HIDDEN;
  float row[PER_THREAD][PIECE] = {};

#pragma unroll
  for (int p = 0; p < PER_THREAD; p++) {
    int piece = p * THREADS + threadIdx.x;
    if (piece >= PIECES) break;
    size_t at = start + piece * PIECE;

    // Add the update to the residual.
    float update[PIECE];
    load_piece(residual + at, row[p]);
    load_piece(x + at, update);
#pragma unroll
    for (int e = 0; e < PIECE; e++) row[p][e] += update[e];

    // Store the sum, and go on with what was stored.
    store_piece(residual + at, row[p]);
#pragma unroll
    for (int e = 0; e < PIECE; e++) row[p][e] = rounded(row[p][e]);
  }
  normalise(row, weight, out + start, epsilon);
}
