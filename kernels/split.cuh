// Splitting one sequence over several blocks, and putting the pieces together again.
//
// A split leaves, for each query row, its maximum m, its sum l of 2^(score - m), and its unnormalised output o.
// Pieces merge by rescaling to the common maximum: o = sum o_i 2^(m_i - m), l = sum l_i 2^(m_i - m), out = o / l.
#pragma once

#include "ptx.cuh"

#define MAX_SPLITS 128

DEVICE int flat_thread() { return threadIdx.y * blockDim.x + threadIdx.x; }
DEVICE int block_threads() { return blockDim.x * blockDim.y; }

// Where the pieces go: out [rows][kOutputDim]; partial_o [rows][splits][kOutputDim]; partial_ml [rows][splits].
struct Destination {
  output* out;
  float* partial_o;
  float2* partial_ml;
  int split;
  int splits;
};

// Store one dimension of a row: the output itself where one block saw the whole sequence, else this split's part.
template <int kOutputDim>
DEVICE void store(const Destination& to, int row, int dim, float o, float m, float l) {
  if (to.splits == 1) {
    to.out[(size_t)row * kOutputDim + dim] = to_output(o / l);
  } else {
    size_t piece = (size_t)row * to.splits + to.split;
    to.partial_o[piece * kOutputDim + dim] = o;
    if (dim == 0) to.partial_ml[piece] = make_float2(m, l);
  }
}

// Merge what the owners (warps, or groups of lanes) of one row left in shared memory, and store it.
template <int kOutputDim>
DEVICE void merge_and_store(const Destination& to, int row, const float* o, int stride, const float* m,
                            const float* l, int ml_stride, int owners) {
  // Find the common maximum.
  float m_all = LOWEST;
  for (int i = 0; i < owners; i++) m_all = fmaxf(m_all, m[i * ml_stride]);

  // Add the owners' sums, each rescaled to that maximum.
  for (int dim = flat_thread(); dim < kOutputDim; dim += block_threads()) {
    float o_all = 0, l_all = 0;
    for (int i = 0; i < owners; i++) {
      float rescale = exp2_approx(m[i * ml_stride] - m_all);
      l_all += l[i * ml_stride] * rescale;
      o_all += o[i * stride + dim] * rescale;
    }
    store<kOutputDim>(to, row, dim, o_all, m_all, l_all);
  }
}

// Combine the splits of one row; all threads of the block take part. `pieces` is shared memory.
template <int kOutputDim>
DEVICE void combine_row(output* out, const float* partial_o, const float2* partial_ml, int row, int splits,
                        float2* pieces) {
  // Fetch the maxima and sums past L1, where another block's writes would not show.
  for (int i = flat_thread(); i < splits; i += block_threads())
    pieces[i] = __ldcg(partial_ml + (size_t)row * splits + i);
  __syncthreads();

  // Find the common maximum.
  float m = LOWEST;
  for (int i = 0; i < splits; i++) m = fmaxf(m, pieces[i].x);

  // Add the splits, each rescaled to that maximum, and normalise.
  for (int dim = flat_thread(); dim < kOutputDim; dim += block_threads()) {
    float o = 0, l = 0;
    for (int i = 0; i < splits; i++) {
      float rescale = exp2_approx(pieces[i].x - m);
      l += pieces[i].y * rescale;
      o += __ldcg(partial_o + ((size_t)row * splits + i) * kOutputDim + dim) * rescale;
    }
    out[(size_t)row * kOutputDim + dim] = to_output(o / l);
  }
  __syncthreads();
}

// Whether this block is the last of `blocks` to arrive at the counter; the last one also resets it.
DEVICE bool last_to_arrive(int* counter, int blocks) {
  __shared__ int last;
  __threadfence();
  __syncthreads();
  if (flat_thread() == 0) last = arrives_last(counter, blocks);
  __syncthreads();
  __threadfence();
  return last;
}

#ifndef OUTPUT_DIM
#define OUTPUT_DIM HEAD_DIM
#endif

// The second kernel: one block of 128 threads per query row.
extern "C" __global__ void __launch_bounds__(128)
    combine(output* out, const float* partial_o, const float2* partial_ml, int splits) {
  __shared__ float2 pieces[MAX_SPLITS];
  combine_row<OUTPUT_DIM>(out, partial_o, partial_ml, blockIdx.x, splits, pieces);
}
