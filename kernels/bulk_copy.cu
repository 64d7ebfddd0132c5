// The copy engine feeds the ring: bulk copies, barriers that count bytes, one warp that does nothing else.
//
// What it does: a producer warp orders whole tiles of K and V from the copy engine (cp.async.bulk); four consumer warps
// compute. `full` and `empty` barriers (mbarrier) hand the stages to and fro.
// What it changes against async_ring.cu: one instruction moves 8 KB where 512 did, and roles are split between warps.
// What it buys: issue slots and registers for the arithmetic, and copies that run ahead whatever the consumers do. It
// needs sm_90 and keys that lie together, which [B][Hkv][S][D] gives.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D].
// grid (splits, Hkv, B), 160 threads, STAGES stages of dynamic shared memory.
#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#ifndef STAGES
#define STAGES 4
#endif
#include "lanes.cuh"

#define CONSUMER_WARPS (THREADS / 32)
#define KEY_BYTES (HEAD_DIM * 2)

struct Stage {
  uint4 keys[TILE][LANES];
  uint4 values[TILE][LANES];
};

// The producer: keep every free stage filled. One thread runs it.
DEVICE void produce(Stage* ring, barrier* full, barrier* empty, const element* keys, const element* values, int first,
                    int last) {
  int stage = 0, phase = 0;
  for (int tile = first; tile < last; tile += TILE) {
    // Wait until the consumers have left the stage; they have never entered it in the first round.
    wait_for(&empty[stage], phase ^ 1);

    // Announce the bytes, and order them.
    int bytes = min(TILE, last - tile) * KEY_BYTES;
    arrive_expecting(&full[stage], 2 * bytes);
    copy_bulk(ring[stage].keys, keys + (size_t)tile * HEAD_DIM, bytes, &full[stage]);
    copy_bulk(ring[stage].values, values + (size_t)tile * HEAD_DIM, bytes, &full[stage]);
    if (++stage == STAGES) stage = 0, phase ^= 1;
  }
}

// The consumers: attend to each tile as it arrives.
DEVICE void consume(Head (&heads)[GROUP], const GroupShared& shared, Stage* ring, barrier* full, barrier* empty,
                    int first, int last) {
  int owner = owner_of(threadIdx.x), piece = threadIdx.x % LANES, stage = 0, phase = 0;
  for (int tile = first; tile < last; tile += TILE) {
    // Wait for the bytes.
    wait_for(&full[stage], phase);

    // Take this thread's pieces. What lies past the end was never copied: the last key stands in, and does not count.
    Keys keys;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      int row = u * OWNERS + owner, copied = min(row, last - tile - 1);
      keys.penalty[u] = penalty_unless(row == copied);
      keys.key_scale[u] = keys.value_scale[u] = 1;
      keys.key[u] = ring[stage].keys[copied][piece];
      keys.value[u] = ring[stage].values[copied][piece];
    }

    // Hand the stage back once the whole warp has read it, then fold the tile in.
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(&empty[stage]);
    attend(heads, shared, keys);
    if (++stage == STAGES) stage = 0, phase ^= 1;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS + 32, 1)
    bulk_copy(const element* q, const element* k, const element* v, output* out, float* partial_o,
              float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale) {
  __shared__ GroupShared shared;
  __shared__ barrier full[STAGES], empty[STAGES];
  DYNAMIC_SHARED(dynamic);
  Stage* ring = reinterpret_cast<Stage*>(dynamic);
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int kv_row = blockIdx.z * kv_heads + blockIdx.y;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  // Set the barriers up: `full` waits for the producer and its bytes, `empty` for every consumer warp.
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) initialise(&full[i], 1), initialise(&empty[i], CONSUMER_WARPS);
    publish_barriers();
  }
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);

  // Split the roles, and meet again to merge.
  const element* keys = k + (size_t)kv_row * seq * HEAD_DIM;
  const element* values = v + (size_t)kv_row * seq * HEAD_DIM;
  if (threadIdx.x < THREADS)
    consume(heads, shared, ring, full, empty, first, last);
  else if (threadIdx.x == THREADS)
    produce(ring, full, empty, keys, values, first, last);
  finish_heads(shared, heads, to, kv_row * GROUP);
}
