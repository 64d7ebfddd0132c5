// Gather one row of the embedding table for each new token.
//
// Bytes: T rows of HIDDEN elements read and written; every thread of a block reads its token's id (4 bytes each, one
// sector a warp).
//
// table [V][HIDDEN], ids [T] int32, out [T][HIDDEN]. grid T.
#include "pipeline/rows.cuh"

#define PIECE PIECE_OF(HIDDEN)

extern "C" __global__ void __launch_bounds__(THREADS)
    embedding(const element* table, const int* ids, element* out) {
  // Find the row of this block's token.
  const element* row = table + (size_t)ids[blockIdx.x] * HIDDEN;
  out += (size_t)blockIdx.x * HIDDEN;

  // Copy it.
  for (int i = threadIdx.x * PIECE; i < HIDDEN; i += THREADS * PIECE) copy_piece<PIECE>(out + i, row + i);
}
