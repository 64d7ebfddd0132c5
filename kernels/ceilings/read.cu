// Ceiling: bytes per second that a kernel can read from device memory.
//
// 16-byte loads past L1, IN_FLIGHT of them under way in each thread. 16 bytes a word, read once; no word is written.
//
// data [count] of 16 bytes; `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    read(const uint4* data, size count, size never, unsigned* sink) {
  unsigned sum = 0;
  for (size i = first_word(); i < count; i += IN_FLIGHT * grid_threads()) {
    uint4 x[IN_FLIGHT];
    load_words(x, data, i, count);
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) sum = fold(sum, x[u]);
  }
  keep(sum, never, sink);
}
