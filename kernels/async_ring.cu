// Asynchronous copies into a ring of tiles.
//
// What it does: cp.async moves K and V to shared memory without passing through registers; STAGES - 1 tiles are under
// way while one is used.
// What it changes against vector_loads.cu: loads of later tiles are outstanding during the arithmetic, too.
// What it buys: bytes in flight that cost shared memory, not registers, so latency stays covered at any GROUP.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D].
// grid (splits, Hkv, B), 128 threads, STAGES stages of dynamic shared memory.
#include "ring.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    async_ring(const element* q, const element* k, const element* v, output* out, float* partial_o,
               float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale) {
  __shared__ GroupShared shared;
  DYNAMIC_SHARED(ring);
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int kv_row = blockIdx.z * kv_heads + blockIdx.y;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  // Load the queries; point at this lane's dimensions of the keys and values.
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);
  const element* lane_keys = k + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
  const element* lane_values = v + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);

  // Walk the stretch, and merge the owners.
  attend_through_ring(heads, shared, reinterpret_cast<Stage*>(ring), lane_keys, lane_values, first, last);
  finish_heads(shared, heads, to, kv_row * GROUP);
}
