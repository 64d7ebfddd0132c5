// Ceiling: fp16 or bf16 multiply-adds per second outside the tensor cores, two in each instruction.
//
// 2 * THREADS * CHAINS * STEPS FMAs a block and repeat, 2 FLOP each; memory is not touched.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/chains.cuh"

#if ELEMENT_BF16
typedef __nv_bfloat162 two;
DEVICE two pair_of(float x) { return __float2bfloat162_rn(x); }
#else
typedef __half2 two;
DEVICE two pair_of(float x) { return __float2half2_rn(x); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    fma_fp16(int repeats, float factor, float term, size never, unsigned* sink) {
  two x[CHAINS], factors = pair_of(factor), terms = pair_of(term);
#pragma unroll
  for (int c = 0; c < CHAINS; c++) x[c] = pair_of(start_of(c));

#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int c = 0; c < CHAINS; c++) x[c] = __hfma2(x[c], factors, terms);

  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum ^= *reinterpret_cast<unsigned*>(x + c);
  keep(sum, never, sink);
}
