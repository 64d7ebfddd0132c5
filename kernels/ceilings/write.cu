// Ceiling: bytes per second that a kernel can write to device memory.
//
// 16-byte stores of words that differ from each other. 16 bytes a word, written once; no word is read.
//
// data [count] of 16 bytes. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) write(uint4* data, size count, unsigned seed) {
#pragma unroll IN_FLIGHT
  for (size i = first_word(); i < count; i += grid_threads()) {
    unsigned word = (unsigned)i * 2654435761u ^ seed;
    data[i] = make_uint4(word, ~word, word * 2246822519u, word ^ 0x9e3779b9u);
  }
}
