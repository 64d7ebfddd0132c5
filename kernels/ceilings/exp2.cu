// Ceiling: 2^x per second on the special function units.
//
// THREADS * CHAINS * STEPS exponentials a block and repeat; memory is not touched.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/chains.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) exponentials(int repeats, size never, unsigned* sink) {
  float x[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; c++) x[c] = start_of(c);

  // A turned sign keeps the numbers between 0.5 and 1; another unit turns it meanwhile.
#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int c = 0; c < CHAINS; c++) x[c] = exp2_approx(-x[c]);

  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum ^= __float_as_uint(x[c]);
  keep(sum, never, sink);
}
