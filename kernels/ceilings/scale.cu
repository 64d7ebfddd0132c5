// Ceiling: bytes per second of to = factor * from in fp32, reads and writes together.
//
// 16-byte loads past L1, IN_FLIGHT of them under way in each thread. 16 bytes a word read, 16 written; 4 FLOP a word.
//
// from, to [count] of 4 floats. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) scale(const uint4* from, uint4* to, size count, float factor) {
  for (size i = first_word(); i < count; i += IN_FLIGHT * grid_threads()) {
    uint4 x[IN_FLIGHT];
    load_words(x, from, i, count);
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) {
      float4 a = floats_of(x[u]);
      x[u] = words_of(factor * a.x, factor * a.y, factor * a.z, factor * a.w);
    }
    store_words(to, x, i, count);
  }
}
