// Ceiling: what `mma.sync` can multiply per second: bf16, fp16, int8 or e4m3, fragments in registers.
//
// ACCUMULATORS independent products of each warp in each repeat: 16 x 8 x 16 multiply-adds in 16 bits, 16 x 8 x 32 in
// 8 bits; 2 operations each. Every product has a b of its own: that of accumulator c is b with its columns turned by c.
// e4m3 needs sm_89 or sm_120; sm_90 and sm_100 have no such instruction.
//
// fragments [32][6]: words of a and b of each lane, random; `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

#ifndef ACCUMULATORS
#define ACCUMULATORS 8
#endif
#ifndef OPERAND_INT8
#define OPERAND_INT8 0
#endif
#ifndef OPERAND_E4M3
#define OPERAND_E4M3 0
#endif

#if OPERAND_INT8
typedef int sum_type;
#define MULTIPLY multiply_int8
DEVICE unsigned bits_of(int x) { return x; }
#else
typedef float sum_type;
DEVICE unsigned bits_of(float x) { return __float_as_uint(x); }
#if OPERAND_E4M3
#define MULTIPLY multiply_e4m3
#else
#define MULTIPLY multiply
#endif
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    mma_sync(const unsigned* fragments, int repeats, size never, unsigned* sink) {
  // Load this lane's part of the operands; the lanes of a column of b are four neighbours.
  unsigned a[4], b[ACCUMULATORS][2];
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; i++) a[i] = fragments[lane * 6 + i];
#pragma unroll
  for (int c = 0; c < ACCUMULATORS; c++)
#pragma unroll
    for (int i = 0; i < 2; i++) b[c][i] = fragments[(lane + 4 * c) % 32 * 6 + 4 + i];

  // Multiply and add.
  sum_type d[ACCUMULATORS][4] = {};
#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int c = 0; c < ACCUMULATORS; c++) MULTIPLY(d[c], a, b[c][0], b[c][1]);

  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < ACCUMULATORS; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) sum += bits_of(d[c][i]);
  keep(sum, never, sink);
}
