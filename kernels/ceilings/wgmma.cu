// Ceiling: what `wgmma` can multiply per second in bf16, both operands in shared memory (sm_90a).
//
// Each warpgroup multiplies its 64 x 64 tile by a TILE_N x 64 tile that the block shares, TURNS times in a repeat,
// each in four steps of 16: 64 * TILE_N * 64 * TURNS multiply-adds a warpgroup and repeat, 2 FLOP each. Sums stay in
// registers. A warpgroup waits once a repeat, while another one multiplies.
//
// `never` is 2^32 or more. grid: blocks of an SM * SMs.
#include "ceilings/stream.cuh"

#ifndef TILE_N
#define TILE_N 256
#endif
#ifndef TURNS
#define TURNS 4
#endif
#define WARPGROUPS (THREADS / 128)
#define ROW_WORDS 32   // 64 elements of K: 128 bytes
static_assert(THREADS % 128 == 0, "whole warpgroups");

extern "C" __global__ void __launch_bounds__(THREADS)
    wgmma(int repeats, unsigned seed, size never, unsigned* sink) {
  DYNAMIC_SHARED(shared);
  unsigned* words = reinterpret_cast<unsigned*>(shared);   // [WARPGROUPS][64] rows of a, then [TILE_N] rows of b

  // Fill both operands with numbers between -1 and 1, none of them 0.
  for (int i = threadIdx.x; i < (WARPGROUPS * 64 + TILE_N) * ROW_WORDS; i += THREADS) {
    unsigned word = i * 2654435761u ^ seed;
    words[i] = word & 0x807f807fu | 0x3f003f00u;
  }
  publish_shared();
  __syncthreads();

  // Multiply and add: K advances by 16 elements, 32 bytes of a row.
  unsigned long long a = describe_tile(words + threadIdx.x / 128 * 64 * ROW_WORDS);
  unsigned long long b = describe_tile(words + WARPGROUPS * 64 * ROW_WORDS);
  float d[TILE_N / 2] = {};
#pragma unroll 1
  for (int i = 0; i < repeats; i++) {
    fence_warpgroup();
#pragma unroll
    for (int k = 0; k < 4 * TURNS; k++) multiply_warpgroup(d, a + k % 4 * 2, b + k % 4 * 2);
    commit_warpgroup();
    wait_warpgroup<0>();
  }

  unsigned sum = 0;
#pragma unroll
  for (int i = 0; i < TILE_N / 2; i++) sum ^= __float_as_uint(d[i]);
  keep(sum, never, sink);
}
