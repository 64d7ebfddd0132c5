// Ceiling: bytes per second of to = first + factor * second in fp32 (STREAM triad), reads and writes together.
//
// 16-byte loads past L1, 2 * IN_FLIGHT of them under way in each thread. 32 bytes a word read, 16 written; 4 FMAs a
// word.
//
// first, second, to [count] of 4 floats. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    triad(const uint4* first, const uint4* second, uint4* to, size count, float factor) {
  for (size i = first_word(); i < count; i += IN_FLIGHT * grid_threads()) {
    uint4 x[IN_FLIGHT], y[IN_FLIGHT];
    load_words(x, first, i, count);
    load_words(y, second, i, count);
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) {
      float4 a = floats_of(x[u]), b = floats_of(y[u]);
      x[u] = words_of(fmaf(factor, b.x, a.x), fmaf(factor, b.y, a.y), fmaf(factor, b.z, a.z), fmaf(factor, b.w, a.w));
    }
    store_words(to, x, i, count);
  }
}
