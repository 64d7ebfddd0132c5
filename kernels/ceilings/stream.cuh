// Walk over arrays of 16-byte words with a grid that stays: IN_FLIGHT loads of each thread are under way at a time.
#pragma once

#include "pipeline/ptx_extra.cuh"

#ifndef IN_FLIGHT
#define IN_FLIGHT 4
#endif
typedef unsigned long long size;

DEVICE size first_word() { return (size)blockIdx.x * THREADS + threadIdx.x; }
DEVICE size grid_threads() { return (size)gridDim.x * THREADS; }

// Load the words start, start + threads of the grid, …; those past the end are zeros.
DEVICE void load_words(uint4 (&x)[IN_FLIGHT], const uint4* from, size start, size count) {
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    size i = start + u * grid_threads();
    x[u] = make_uint4(0, 0, 0, 0);
    if (i < count) x[u] = load_once(from + i);
  }
}
DEVICE void store_words(uint4* to, const uint4 (&x)[IN_FLIGHT], size start, size count) {
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    size i = start + u * grid_threads();
    if (i < count) to[i] = x[u];
  }
}

DEVICE float4 floats_of(uint4 x) {
  return make_float4(__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w));
}
DEVICE uint4 words_of(float x, float y, float z, float w) {
  return make_uint4(__float_as_uint(x), __float_as_uint(y), __float_as_uint(z), __float_as_uint(w));
}

// Fold a word into a running exclusive or.
DEVICE unsigned fold(unsigned sum, uint4 x) { return sum ^ x.x ^ x.y ^ x.z ^ x.w; }

// Keep a result alive: the compiler can't know that `never`, 2^32 or more, equals no 32-bit number.
DEVICE void keep(unsigned result, size never, unsigned* sink) {
  if (result == never) *sink = result;
}
