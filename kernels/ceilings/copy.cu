// Ceiling: bytes per second of a copy in device memory, reads and writes together.
//
// 16-byte loads past L1, IN_FLIGHT of them under way in each thread. 16 bytes a word read, 16 written.
//
// from, to [count] of 16 bytes. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) copy(const uint4* from, uint4* to, size count) {
  for (size i = first_word(); i < count; i += IN_FLIGHT * grid_threads()) {
    uint4 x[IN_FLIGHT];
    load_words(x, from, i, count);
    store_words(to, x, i, count);
  }
}
