// Ceiling: 8-bit numbers per second that become scaled bf16, as a kernel does with a quantised cache.
//
// e4m3 goes by way of halves and floats (sm_89 has the converter), int8 by way of floats near 2^23; both end in
// packed bf16 and a multiplication by the scale. THREADS * CHAINS * STEPS * 4 numbers a block and repeat; each word
// is made from the numbers before it, at the cost of two logical operations for four numbers. Memory is not touched.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/chains.cuh"

#ifndef OPERAND_INT8
#define OPERAND_INT8 0
#endif

#if OPERAND_INT8
// Four signed bytes become floats: biased to 0..255 they are the low byte of a float near 2^23.
DEVICE void unpack_word(unsigned word, float (&x)[4]) {
  unsigned biased = word ^ 0x80808080u;
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = __uint_as_float(__byte_perm(biased, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
}
#else
// Four e4m3 numbers become floats, by way of halves, which hold them exactly.
DEVICE void unpack_word(unsigned word, float (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    unsigned halves = halves_of_e4m3((unsigned short)(word >> 16 * i));
    x[2 * i] = __half2float(__ushort_as_half(halves & 0xffffu));
    x[2 * i + 1] = __half2float(__ushort_as_half(halves >> 16));
  }
}
#endif

// Round two floats to bf16 and multiply them by the scale.
DEVICE unsigned scaled_pair(float low, float high, __nv_bfloat162 scale) {
  __nv_bfloat162 pair = __hmul2(__floats2bfloat162_rn(low, high), scale);
  return *reinterpret_cast<unsigned*>(&pair);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dequantise(int repeats, float scale, size never, unsigned* sink) {
  __nv_bfloat162 scales = __float2bfloat162_rn(scale);
  unsigned word[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; c++) word[c] = __float_as_uint(start_of(c)) & 0x77777777u;

  // The mask keeps NaN, which e4m3 has in 0x7f and 0xff, out of the words.
#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int c = 0; c < CHAINS; c++) {
        float x[4];
        unpack_word(word[c], x);
        word[c] ^= scaled_pair(x[0], x[1], scales) ^ scaled_pair(x[2], x[3], scales);
        word[c] &= 0x77777777u;
      }

  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum ^= word[c];
  keep(sum, never, sink);
}
