// Flash-decoding: several blocks share one sequence.
//
// What it does: each block attends to a stretch of the sequence and leaves a partial result; the partials are combined
// by a second kernel, or in the same launch by whichever block arrives last.
// What it changes against flash.cu: a third grid dimension, the split.
// What it buys: enough blocks to fill the GPU where batch * heads is smaller than the number of SMs. It costs a round
// trip of (D + 2) floats per split and row.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D]. grid (splits, H, B); split i has the keys from i * split_tokens.
#include "flash.cuh"
#include "split.cuh"

// Attend to this block's stretch, and store the result or the partial.
DEVICE void attend_and_store(const element* q, const element* k, const element* v, Destination to, int kv_heads,
                             int seq, int split_tokens, float score_scale) {
  __shared__ FlashShared shared;
  int head = blockIdx.y, batch = blockIdx.z, thread = threadIdx.y * 32 + threadIdx.x;
  int row = batch * kv_heads * GROUP + head;
  size_t kv_row = batch * kv_heads + head / GROUP;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);

  Softmax softmax = flash_attend(shared, q + (size_t)row * HEAD_DIM, k + kv_row * seq * HEAD_DIM,
                                 v + kv_row * seq * HEAD_DIM, first, last, score_scale);
  if (thread < HEAD_DIM) store<HEAD_DIM>(to, row, thread, softmax.o, softmax.m, softmax.l);
}

// Two launches: this one, then `combine` where there is more than one split.
extern "C" __global__ void __launch_bounds__(THREADS)
    split_kv(const element* q, const element* k, const element* v, output* out, float* partial_o,
             float2* partial_ml, int kv_heads, int seq, int split_tokens, float score_scale) {
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  attend_and_store(q, k, v, to, kv_heads, seq, split_tokens, score_scale);
}

// One launch: the last block of a row combines. `arrived` [B][H] is zero before and after.
extern "C" __global__ void __launch_bounds__(THREADS)
    split_kv_single(const element* q, const element* k, const element* v, output* out, float* partial_o,
                    float2* partial_ml, int* arrived, int kv_heads, int seq, int split_tokens, float score_scale) {
  __shared__ float2 pieces[MAX_SPLITS];
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  attend_and_store(q, k, v, to, kv_heads, seq, split_tokens, score_scale);
  if (to.splits == 1) return;

  // Combine, if all other splits of this row have been written.
  int row = blockIdx.z * kv_heads * GROUP + blockIdx.y;
  if (last_to_arrive(arrived + row, to.splits))
    combine_row<HEAD_DIM>(out, partial_o, partial_ml, row, to.splits, pieces);
}
