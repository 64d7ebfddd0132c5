// Ceiling: bytes per second that shared memory delivers, without bank conflicts.
//
// A warp reads 512 neighbouring bytes, in 4 wavefronts; IN_FLIGHT loads of each thread are under way. 16 bytes for
// each thread, load and repeat.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    shared_bandwidth(int repeats, unsigned seed, size never, unsigned* sink) {
  __shared__ uint4 buffer[IN_FLIGHT * THREADS];

  // Fill the buffer with words that differ from each other.
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    unsigned word = (u * THREADS + threadIdx.x) * 2654435761u ^ seed;
    buffer[u * THREADS + threadIdx.x] = make_uint4(word, word + 1, word + 2, word + 3);
  }
  __syncthreads();

  // Read it over and over; one logical operation a load uses what came.
  unsigned address = shared_address(buffer + threadIdx.x), sum = 0;
#pragma unroll 1
  for (int i = 0; i < repeats; i++) {
    uint4 x[IN_FLIGHT];
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) x[u] = load_shared(address + u * THREADS * 16);
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) sum ^= x[u].x ^ x[u].w;
  }
  keep(sum, never, sink);
}
