// Rows of any length, read and written in pieces: 16 bytes where every row is aligned to them, else single elements.
#pragma once

#include "ptx.cuh"

#define CEIL_DIV(n, size) (((n) + (size) - 1) / (size))
// Elements of a piece of 16-bit rows, and of fp32 rows, of this length.
#define PIECE_OF(length) ((length) % 8 == 0 ? 8 : 1)
#define FP32_PIECE_OF(length) ((length) % 4 == 0 ? 4 : 1)

// Load a piece of a row as floats.
DEVICE void load_piece(const element* from, float (&x)[8]) { unpack(*reinterpret_cast<const uint4*>(from), x); }
DEVICE void load_piece(const element* from, float (&x)[1]) {
  x[0] = low_of(*reinterpret_cast<const unsigned short*>(from));
}
DEVICE void load_piece(const float* from, float (&x)[4]) {
  float4 packed = *reinterpret_cast<const float4*>(from);
  x[0] = packed.x, x[1] = packed.y, x[2] = packed.z, x[3] = packed.w;
}
DEVICE void load_piece(const float* from, float (&x)[1]) { x[0] = *from; }

// Load a piece that nobody reads again.
DEVICE void load_piece_once(const element* from, float (&x)[8]) { unpack(load_once(from), x); }
DEVICE void load_piece_once(const element* from, float (&x)[1]) { load_piece(from, x); }

// Store a piece, rounded to the element type.
DEVICE void store_piece(element* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}
DEVICE void store_piece(element* to, const float (&x)[1]) { *to = to_element(x[0]); }

// The nearest number of the element type.
DEVICE float rounded(float x) { return low_of(pack(x, 0)); }

// Copy a piece as it is.
template <int kElements> DEVICE void copy_piece(element* to, const element* from) {
  if (kElements == 8)
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
  else
    *to = *from;
}

// Sum over the block, the same for every thread.
template <int kThreads> DEVICE float block_sum(float x) {
  __shared__ float sums[kThreads / 32];
  x = sum_over<32>(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; warp++) total += sums[warp];
  return total;
}
