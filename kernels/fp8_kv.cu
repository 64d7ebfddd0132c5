// FP8 (e4m3) keys and values, one scale per tensor, dequantised in registers.
//
// What it does: 16 bytes bring 16 dimensions; the converter of sm_89 turns two of them into halves at a time.
// What it changes against int8_kv.cu: the scales are two numbers of the launch: the key's joins the query's scale, the
// value's the stored output.
// What it buys: half the bytes of fp16 and no scales to read; a format that training and serving already have.
//
// q [B][H][D], k and v [B][Hkv][S][D] e4m3, out [B][H][D]. grid (splits, Hkv, B).
#define LANE_DIMS 16
#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#include "lanes.cuh"

// Four e4m3 numbers become floats, by way of halves, which hold them exactly.
DEVICE void unpack_e4m3(unsigned word, float* x) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    unsigned halves = halves_of_e4m3((unsigned short)(word >> 16 * i));
    x[2 * i] = __half2float(__ushort_as_half(halves & 0xffffu));
    x[2 * i + 1] = __half2float(__ushort_as_half(halves >> 16));
  }
}
DEVICE void unpack_cached(uint4 packed, float (&x)[LANE_DIMS]) {
  unpack_e4m3(packed.x, x), unpack_e4m3(packed.y, x + 4), unpack_e4m3(packed.z, x + 8), unpack_e4m3(packed.w, x + 12);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fp8_kv(const element* q, const unsigned char* k, const unsigned char* v, output* out, float* partial_o,
           float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale, float k_scale,
           float v_scale) {
  __shared__ GroupShared shared;
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int kv_row = blockIdx.z * kv_heads + blockIdx.y, owner = owner_of(threadIdx.x);
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  // Load the queries; point at this lane's dimensions of the keys and values.
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale * k_scale);
  const unsigned char* lane_keys = k + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
  const unsigned char* lane_values = v + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);

  for (int tile = first; tile < last; tile += TILE) {
    // Start all loads of the tile; keys past the end are zeros that don't count.
    Keys keys;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      int s = tile + u * OWNERS + owner;
      bool valid = s < last;
      keys.penalty[u] = penalty_unless(valid);
      keys.key_scale[u] = keys.value_scale[u] = 1;
      keys.key[u] = load_once(lane_keys + (size_t)s * HEAD_DIM, valid);
      keys.value[u] = load_once(lane_values + (size_t)s * HEAD_DIM, valid);
    }

    // Fold the tile in.
    attend(heads, shared, keys);
  }

  // Apply the scale of the values once, to the sums.
#pragma unroll
  for (int g = 0; g < GROUP; g++)
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) heads[g].o[i] *= v_scale;
  finish_heads(shared, heads, to, kv_row * GROUP);
}
