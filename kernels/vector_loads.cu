// 16-byte loads, several keys in flight, one block per KV head.
//
// What it does: groups of lanes read whole keys and values, 16 bytes a lane, straight into registers, KEYS_IN_FLIGHT of
// each before they compute; all GROUP query heads use what was read.
// What it changes against split_kv.cu: no tile in shared memory and no barrier in the loop; a block serves a KV head.
// What it buys: K and V are read once, not GROUP times, by the widest loads, with many of them outstanding. It costs
// registers: 8 accumulators and a softmax per query head in every thread.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D]. grid (splits, Hkv, B), 128 threads.
#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#include "lanes.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    vector_loads(const element* q, const element* k, const element* v, output* out, float* partial_o,
                 float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale) {
  __shared__ GroupShared shared;
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int kv_row = blockIdx.z * kv_heads + blockIdx.y, owner = owner_of(threadIdx.x);
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  // Load the queries; point at this lane's dimensions of the keys and values.
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);
  const element* lane_keys = k + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
  const element* lane_values = v + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);

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

    // Fold them in.
    attend(heads, shared, keys);
  }
  finish_heads(shared, heads, to, kv_row * GROUP);
}
