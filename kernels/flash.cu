// The original grid with an online softmax.
//
// What it does: one block of (32, 32) threads per batch and query head walks K and V together, tile by tile; the
// running maximum and sum are corrected as larger scores turn up.
// What it changes against cached_attention.cu: no row of scores; each tile is scored, weighed and forgotten.
// What it buys: shared memory that does not depend on S, so any S. Bytes are the same: K and V once per query head.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D]. grid (H, B).
#include "flash.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    flash(const element* q, const element* k, const element* v, output* out, int kv_heads, int seq,
          float score_scale) {
  __shared__ FlashShared shared;
  int head = blockIdx.x, batch = blockIdx.y, thread = threadIdx.y * 32 + threadIdx.x;
  size_t row = batch * kv_heads * GROUP + head, kv_row = batch * kv_heads + head / GROUP;
  const element* keys = k + kv_row * seq * HEAD_DIM;
  const element* values = v + kv_row * seq * HEAD_DIM;

  // Walk the whole sequence, and normalise at the end.
  Softmax softmax = flash_attend(shared, q + row * HEAD_DIM, keys, values, 0, seq, score_scale);
  if (thread < HEAD_DIM) out[row * HEAD_DIM + thread] = to_output(softmax.o / softmax.l);
}
