// Blocks that stay: as many as the GPU holds at once, each taking piece after piece of the work.
//
// What it does: the pieces (batch, KV head, split) are dealt out round-robin to a grid that fits the GPU; whoever
// finishes the last split of a KV head combines its rows.
// What it changes against async_ring.cu: the grid is the GPU's size, not the problem's, and there is one launch.
// What it buys: no second launch, no block start-up per piece, and a partial last wave costs one piece, not one wave.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D], arrived [B][Hkv] zero before and after. grid (blocks).
#include "ring.cuh"

// NOTES: the 1 tells the compiler to spend registers rather than spill a few of them for one more block.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    persistent(const element* q, const element* k, const element* v, output* out, float* partial_o,
               float2* partial_ml, int* arrived, int kv_rows, int splits, int seq, int split_tokens,
               float score_scale) {
  __shared__ GroupShared shared;
  __shared__ float2 pieces[MAX_SPLITS];
  DYNAMIC_SHARED(ring);

  for (int piece = blockIdx.x; piece < kv_rows * splits; piece += gridDim.x) {
    int kv_row = piece / splits, split = piece % splits;
    int first = split * split_tokens, last = min(first + split_tokens, seq);
    Destination to = {out, partial_o, partial_ml, split, splits};

    // Attend to this piece, and merge the owners.
    Head heads[GROUP];
    start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);
    const element* lane_keys = k + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
    const element* lane_values = v + (size_t)kv_row * seq * HEAD_DIM + first_dim_of(threadIdx.x);
    attend_through_ring(heads, shared, reinterpret_cast<Stage*>(ring), lane_keys, lane_values, first, last);
    finish_heads(shared, heads, to, kv_row * GROUP);

    // Combine the rows of this KV head, if this was its last split.
    if (splits > 1 && last_to_arrive(arrived + kv_row, splits))
      for (int g = 0; g < GROUP; g++)
        combine_row<HEAD_DIM>(out, partial_o, partial_ml, kv_row * GROUP + g, splits, pieces);
  }
}
