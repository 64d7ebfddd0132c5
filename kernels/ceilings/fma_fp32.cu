// Ceiling: fp32 multiply-adds per second outside the tensor cores.
//
// THREADS * CHAINS * STEPS FMAs a block and repeat, 2 FLOP each; memory is not touched.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/chains.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    fma_fp32(int repeats, float factor, float term, size never, unsigned* sink) {
  float x[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; c++) x[c] = start_of(c);

#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int c = 0; c < CHAINS; c++) x[c] = fmaf(x[c], factor, term);

  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum ^= __float_as_uint(x[c]);
  keep(sum, never, sink);
}
