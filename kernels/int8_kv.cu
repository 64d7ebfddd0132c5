// INT8 keys and values, one scale per token and head, dequantised in registers.
//
// What it does: 16 bytes bring 16 dimensions; the key's scale is applied to its score and the value's to its weight, so
// no element is ever multiplied by a scale.
// What it changes against vector_loads.cu: the cache holds one byte per element and 4 bytes of scale per token.
// What it buys: about half the bytes. It costs conversions, and twice the accumulators per thread.
//
// q [B][H][D], k and v [B][Hkv][S][D] int8, k_scales and v_scales [B][Hkv][S] fp32, out [B][H][D].
// grid (splits, Hkv, B).
#define LANE_DIMS 16
#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#include "lanes.cuh"

// Four signed bytes become floats: biased to 0..255 they are the low byte of a float near 2^23.
DEVICE void unpack_int8(unsigned word, float* x) {
  unsigned biased = word ^ 0x80808080u;
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = __uint_as_float(__byte_perm(biased, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
}
DEVICE void unpack_cached(uint4 packed, float (&x)[LANE_DIMS]) {
  unpack_int8(packed.x, x), unpack_int8(packed.y, x + 4), unpack_int8(packed.z, x + 8), unpack_int8(packed.w, x + 12);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    int8_kv(const element* q, const signed char* k, const signed char* v, const float* k_scales,
            const float* v_scales, output* out, float* partial_o, float2* partial_ml, int kv_heads, int seq,
            int split_tokens, float score_scale) {
  __shared__ GroupShared shared;
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int kv_row = blockIdx.z * kv_heads + blockIdx.y, owner = owner_of(threadIdx.x), lane = threadIdx.x % LANES;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  // Load the queries; point at this lane's dimensions of the keys and values, and at the scales.
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);
  const signed char* lane_keys = k + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
  const signed char* lane_values = v + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
  k_scales += (size_t)kv_row * seq, v_scales += (size_t)kv_row * seq;

  for (int tile = first; tile < last; tile += TILE) {
    // Start all loads of the tile; keys past the end are zeros that don't count.
    Keys keys;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      int s = tile + u * OWNERS + owner;
      bool valid = s < last;
      keys.penalty[u] = penalty_unless(valid);
      keys.key[u] = load_once(lane_keys + (size_t)s * HEAD_DIM, valid);
      keys.value[u] = load_once(lane_values + (size_t)s * HEAD_DIM, valid);
    }

    // Lane u of the owner loads the scales of key u, and hands them round.
    int s = tile + lane * OWNERS + owner;
    bool mine = lane < KEYS_IN_FLIGHT && s < last;
    float key_scale = load_scale(k_scales + s, mine), value_scale = load_scale(v_scales + s, mine);
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      keys.key_scale[u] = __shfl_sync(FULL_WARP, key_scale, u, LANES);
      keys.value_scale[u] = __shfl_sync(FULL_WARP, value_scale, u, LANES);
    }

    // Fold the tile in.
    attend(heads, shared, keys);
  }
  finish_heads(shared, heads, to, kv_row * GROUP);
}
