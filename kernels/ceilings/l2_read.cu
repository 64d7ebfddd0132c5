// Ceiling: bytes per second that all SMs together can read from L2.
//
// Every block walks `passes` times over a set that fits L2, each from a start of its own, past L1. 16 bytes for each
// word, pass and block; device memory is read once at most.
//
// data [count] of 16 bytes; `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    l2_read(const uint4* data, int count, int passes, size never, unsigned* sink) {
  int shift = (int)((size)blockIdx.x * count / gridDim.x);
  unsigned sum = 0;
  for (int pass = 0; pass < passes; pass++) {
#pragma unroll IN_FLIGHT
    for (int i = threadIdx.x; i < count; i += THREADS) {
      int at = i + shift < count ? i + shift : i + shift - count;
      sum = fold(sum, load_l2(data + at));
    }
  }
  keep(sum, never, sink);
}
