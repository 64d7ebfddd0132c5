// A ring of tiles in shared memory, filled by cp.async: what async_ring.cu and persistent.cu have in common.
//
// Every thread copies exactly the 16-byte pieces that it will use itself, so that it waits for nobody: the ring is a
// queue per thread, STAGES tiles deep, and the loop needs no barrier.
#pragma once

#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#ifndef STAGES
#define STAGES 3
#endif
#include "lanes.cuh"

struct Stage {
  uint4 key[KEYS_IN_FLIGHT][THREADS];
  uint4 value[KEYS_IN_FLIGHT][THREADS];
};

// Start the copies of the tile that begins at key `tile`, and close them as one group, even if there are none: the
// number of groups is what the wait counts.
DEVICE void copy_tile(Stage& stage, const element* lane_keys, const element* lane_values, int tile, int last) {
  int thread = threadIdx.x;
#pragma unroll
  for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
    int s = tile + u * OWNERS + owner_of(thread);
    bool valid = s < last;
    size_t offset = valid ? (size_t)s * HEAD_DIM : 0;
    copy_async(&stage.key[u][thread], lane_keys + offset, valid);
    copy_async(&stage.value[u][thread], lane_values + offset, valid);
  }
  commit_copies();
}

// Attend to the keys [first, last), with STAGES - 1 tiles under way while one is used.
DEVICE void attend_through_ring(Head (&heads)[GROUP], const GroupShared& shared, Stage* ring,
                                const element* lane_keys, const element* lane_values, int first, int last) {
  int thread = threadIdx.x;

  // Fill all stages but one.
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) copy_tile(ring[i], lane_keys, lane_values, first + i * TILE, last);

  int stage = 0;
  for (int tile = first; tile < last; tile += TILE) {
    // Wait for the oldest tile, then start the copies of the one STAGES - 1 ahead into the stage used last.
    wait_copies<STAGES - 2>();
    int free_stage = stage == 0 ? STAGES - 1 : stage - 1;
    copy_tile(ring[free_stage], lane_keys, lane_values, tile + (STAGES - 1) * TILE, last);

    // Take this thread's pieces, and fold them in.
    Keys keys;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      keys.penalty[u] = penalty_unless(tile + u * OWNERS + owner_of(thread) < last);
      keys.key_scale[u] = keys.value_scale[u] = 1;
      keys.key[u] = ring[stage].key[u][thread];
      keys.value[u] = ring[stage].value[u][thread];
    }
    attend(heads, shared, keys);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  wait_copies<0>();
}
