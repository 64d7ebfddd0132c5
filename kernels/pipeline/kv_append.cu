// Append the new tokens' keys and values to the paged cache, as they are or quantised.
//
// What it does: LANES neighbouring lanes own one head vector; they hold it in registers, agree on its largest
// magnitude where the format needs a scale, and store it at the token's slot. A slot below zero is padding and is
// left out.
//   kv_append              the element type
//   kv_append_int8         int8, one scale (largest magnitude / 127) for each token and head
//   kv_append_e4m3         e4m3, one scale (largest magnitude / 448) for each token and head
//   kv_append_e4m3_tensor  e4m3, the two scales of the cache given
// Zeros have scale 0. A NaN is NaN in e4m3 and 0 in int8.
// Bytes, T tokens: each vector is read once and written once, 4 bytes a scale; every lane reads its token's slot (8
// bytes each, one sector a warp).
//
// k [T][KV_HEADS][HEAD_DIM], v [T][KV_HEADS][VALUE_DIM], tokens k_stride and v_stride elements apart; VALUE_DIM 0:
// there are no values (a latent cache). slots [T] int64: page * PAGE + place in the page.
// k_cache [pool][KV_HEADS][PAGE][HEAD_DIM], v_cache likewise, k_scales and v_scales [pool][KV_HEADS][PAGE] fp32.
// grid (ceil(T * KV_HEADS * LANES / THREADS), 2): keys, then values.
#include <cuda_fp8.h>

#include "pipeline/rows.cuh"

static_assert(LANES <= 32 && (LANES & (LANES - 1)) == 0, "LANES is a power of two within a warp");

// How an element is kept, with kLargest the largest number of the format. `pair` is two of them, the first in the low
// byte.
struct AsIs {
  typedef element stored;
  static constexpr bool kScaled = false;
};
struct Int8 {
  typedef unsigned char stored;
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 127;
  static DEVICE unsigned pair(float low, float high) { return one(low) | one(high) << 8; }
  // Bounds are those of integers: a NaN has become 0 by then.
  static DEVICE unsigned one(float x) { return max(-127, min(127, __float2int_rn(x))) & 0xff; }
};
struct E4m3 {
  typedef unsigned char stored;
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 448;
  static DEVICE unsigned pair(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
  }
};
struct E4m3OfTensor : E4m3 {
  static constexpr bool kScaled = false;
};

// Store a piece: as it is, or divided by the scale and quantised.
template <typename Format, int kPiece> DEVICE void store_as(element* to, const float (&x)[kPiece], float) {
  store_piece(to, x);
}
template <typename Format> DEVICE void store_as(unsigned char* to, const float (&x)[8], float inverse) {
  unsigned pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = Format::pair(x[2 * i] * inverse, x[2 * i + 1] * inverse);
  *reinterpret_cast<uint2*>(to) = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}
template <typename Format> DEVICE void store_as(unsigned char* to, const float (&x)[1], float inverse) {
  *to = Format::pair(x[0] * inverse, 0);
}

// Append one head vector of kDim elements of a token's. `given_scale` holds where the format has no scale of its own.
template <typename Format, int kDim>
DEVICE void append(const element* token, typename Format::stored* cache, float* scales, float given_scale, int head,
                   long long slot) {
  constexpr int kPiece = PIECE_OF(kDim), kPieces = kDim / kPiece, kPerLane = CEIL_DIV(kPieces, LANES);
  const element* from = token + head * kDim;
  int lane = threadIdx.x % LANES;
  float x[kPerLane][kPiece] = {};

  // Load the vector, and find its largest magnitude.
  float largest = 0;
  if (slot >= 0) {
#pragma unroll
    for (int p = 0; p < kPerLane; p++) {
      int piece = p * LANES + lane;
      if (piece < kPieces) load_piece(from + piece * kPiece, x[p]);
#pragma unroll
      for (int e = 0; e < kPiece; e++) largest = fmaxf(largest, fabsf(x[p][e]));
    }
  }
  float inverse = 1 / given_scale, scale = 0;
  if constexpr (Format::kScaled) {
    largest = max_over<LANES>(largest);
    scale = largest / Format::kLargest;
    inverse = largest > 0 ? Format::kLargest / largest : 0;
  }
  if (slot < 0) return;

  // Store it at its place in its page, and its scale.
  size_t place = ((size_t)(slot / PAGE) * KV_HEADS + head) * PAGE + slot % PAGE;
#pragma unroll
  for (int p = 0; p < kPerLane; p++) {
    int piece = p * LANES + lane;
    if (piece < kPieces) store_as<Format>(cache + place * kDim + piece * kPiece, x[p], inverse);
  }
  if (Format::kScaled && lane == 0) scales[place] = scale;
}

// Append the vector of this group of lanes: a key, or in the second row of blocks a value.
template <typename Format>
DEVICE void append_keys_and_values(const element* k, const element* v, const long long* slots,
                                   typename Format::stored* k_cache, typename Format::stored* v_cache,
                                   float* k_scales, float* v_scales, float k_scale, float v_scale, int tokens,
                                   int k_stride, int v_stride) {
  int vector = (blockIdx.x * THREADS + threadIdx.x) / LANES, token = vector / KV_HEADS, head = vector % KV_HEADS;
  long long slot = token < tokens ? slots[token] : -1;
  if (blockIdx.y == 0)
    append<Format, HEAD_DIM>(k + (size_t)token * k_stride, k_cache, k_scales, k_scale, head, slot);
#if VALUE_DIM
  else
    append<Format, VALUE_DIM>(v + (size_t)token * v_stride, v_cache, v_scales, v_scale, head, slot);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_append(const element* k, const element* v, const long long* slots, element* k_cache, element* v_cache,
              int tokens, int k_stride, int v_stride) {
  append_keys_and_values<AsIs>(k, v, slots, k_cache, v_cache, nullptr, nullptr, 1, 1, tokens, k_stride, v_stride);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_append_int8(const element* k, const element* v, const long long* slots, unsigned char* k_cache,
                   unsigned char* v_cache, float* k_scales, float* v_scales, int tokens, int k_stride, int v_stride) {
  append_keys_and_values<Int8>(k, v, slots, k_cache, v_cache, k_scales, v_scales, 1, 1, tokens, k_stride, v_stride);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_append_e4m3(const element* k, const element* v, const long long* slots, unsigned char* k_cache,
                   unsigned char* v_cache, float* k_scales, float* v_scales, int tokens, int k_stride, int v_stride) {
  append_keys_and_values<E4m3>(k, v, slots, k_cache, v_cache, k_scales, v_scales, 1, 1, tokens, k_stride, v_stride);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_append_e4m3_tensor(const element* k, const element* v, const long long* slots, unsigned char* k_cache,
                          unsigned char* v_cache, float k_scale, float v_scale, int tokens, int k_stride,
                          int v_stride) {
  append_keys_and_values<E4m3OfTensor>(k, v, slots, k_cache, v_cache, nullptr, nullptr, k_scale, v_scale, tokens,
                                       k_stride, v_stride);
}
