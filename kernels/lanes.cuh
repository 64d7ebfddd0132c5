// One block per KV head: GROUP query heads share every key and value that is read.
//
// LANES neighbouring lanes hold one key, 16 bytes each; such a group of lanes is an "owner" of the keys it meets. Each
// owner runs its own online softmax for all query heads, in registers, and the owners of a block merge at the end.
// A kernel brings the bytes, by whatever route; what they mean is settled here.
#pragma once

#include "split.cuh"

#define THREADS 128
#ifndef LANE_DIMS
#define LANE_DIMS 8   // dimensions in 16 bytes: 8 of two bytes, 16 of one
#endif
#define LANES (HEAD_DIM / LANE_DIMS)
#define OWNERS (THREADS / LANES)
#define TILE (OWNERS * KEYS_IN_FLIGHT)
static_assert(LANES <= 32 && 32 % LANES == 0, "a key must fit a warp");

// A query lies in the order in which it is read: the first four dimensions of every lane, then the next four, so that
// the lanes of a key meet different banks.
struct GroupShared {
  float4 query[GROUP][HEAD_DIM / 4];
  float o[OWNERS][HEAD_DIM];
  float m[OWNERS], l[OWNERS];
};

// The softmax of one query head so far: its maximum, the sum of 2^(score - m), the unnormalised output.
struct Head {
  float m, l, o[LANE_DIMS];
};

// The keys one owner works on at a time, as they came: packed, with the scales of a quantised cache, and with minus
// infinity as the penalty of those past the end.
struct Keys {
  uint4 key[KEYS_IN_FLIGHT], value[KEYS_IN_FLIGHT];
  float key_scale[KEYS_IN_FLIGHT], value_scale[KEYS_IN_FLIGHT];
  float penalty[KEYS_IN_FLIGHT];
};

DEVICE int owner_of(int thread) { return thread / LANES; }
DEVICE int first_dim_of(int thread) { return thread % LANES * LANE_DIMS; }
DEVICE int query_place_of(int dim) {
  int lane = dim / LANE_DIMS, four = dim % LANE_DIMS / 4;
  return (four * LANES + lane) * 4 + dim % 4;
}

#if LANE_DIMS == 8
DEVICE void unpack_cached(uint4 packed, float (&x)[LANE_DIMS]) { unpack(packed, x); }
#else
DEVICE void unpack_cached(uint4 packed, float (&x)[LANE_DIMS]);   // the quantised kernels bring their own
#endif

// Load the query heads of the group, scaled once, and start their softmaxes.
DEVICE void start_heads(GroupShared& shared, Head (&heads)[GROUP], const element* q, float score_scale) {
  float* query = reinterpret_cast<float*>(shared.query);
  for (int i = flat_thread(); i < GROUP * HEAD_DIM; i += block_threads())
    query[i / HEAD_DIM * HEAD_DIM + query_place_of(i % HEAD_DIM)] = to_float(q[i]) * score_scale;
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    heads[g].m = LOWEST, heads[g].l = 0;
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) heads[g].o[i] = 0;
  }
  __syncthreads();
}

// Fold a few keys and their values into the softmax of every query head.
DEVICE void attend(Head (&heads)[GROUP], const GroupShared& shared, const Keys& keys) {
  int lane = threadIdx.x % LANES;

  // Score each key against each head: a lane multiplies its dimensions, the owner's lanes add up.
  float weight[KEYS_IN_FLIGHT][GROUP];
#pragma unroll
  for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
    float key[LANE_DIMS];
    unpack_cached(keys.key[u], key);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < LANE_DIMS; i += 4) {
        float4 query = shared.query[g][i / 4 * LANES + lane];
        score += query.x * key[i] + query.y * key[i + 1] + query.z * key[i + 2] + query.w * key[i + 3];
      }
      weight[u][g] = sum_over<LANES>(score) * keys.key_scale[u] + keys.penalty[u];
    }
  }

  // Raise each head's maximum, and rescale what was summed under the old one.
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    float m = heads[g].m;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) m = fmaxf(m, weight[u][g]);
    float rescale = exp2_approx(heads[g].m - m);
    heads[g].m = m, heads[g].l *= rescale;
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) heads[g].o[i] *= rescale;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      weight[u][g] = exp2_approx(weight[u][g] - m);
      heads[g].l += weight[u][g];
    }
  }

  // Add the weighted values.
#pragma unroll
  for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
    float value[LANE_DIMS];
    unpack_cached(keys.value[u], value);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      float scaled = weight[u][g] * keys.value_scale[u];
#pragma unroll
      for (int i = 0; i < LANE_DIMS; i++) heads[g].o[i] += scaled * value[i];
    }
  }
}

// Merge the owners head by head and store the rows first_row ... first_row + GROUP - 1. All threads call it.
DEVICE void finish_heads(GroupShared& shared, const Head (&heads)[GROUP], const Destination& to, int first_row) {
  int thread = flat_thread();
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    // Lay the owners' results out side by side.
    if (thread < THREADS) {
#pragma unroll
      for (int i = 0; i < LANE_DIMS; i++) shared.o[owner_of(thread)][first_dim_of(thread) + i] = heads[g].o[i];
      if (first_dim_of(thread) == 0) {
        shared.m[owner_of(thread)] = heads[g].m;
        shared.l[owner_of(thread)] = heads[g].l;
      }
    }
    __syncthreads();

    // Merge and store them, before the next head overwrites them.
    merge_and_store<HEAD_DIM>(to, first_row + g, shared.o[0], HEAD_DIM, shared.m, shared.l, 1, OWNERS);
    __syncthreads();
  }
}
