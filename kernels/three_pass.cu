// Decode attention in three launches: scores, softmax, weighted values.
//
// What it does: one query token per sequence attends to S cached ones; scores are materialised in global memory.
// What it changes: nothing, it is the baseline.
// What it buys: each pass is a few lines that are easy to trust. It costs two more launches, a round trip of the scores
// through memory, and every query head of a group reads the same keys and values again.
//
// q [B][H][D], k and v [B][Hkv][S][D], scores [B][H][S] in fp32, out [B][H][D]; H = Hkv * GROUP.
#include "ptx.cuh"

#define WARPS 4
#define TILE 32                     // keys of one block of `scores`
#define THREADS 128                 // threads of `softmax`, and probabilities staged at once by `weighted_values`
#define WORDS (HEAD_DIM / 2 / 32)   // 4-byte words of a key that one lane reads

// grid (ceil(S / TILE), H, B): a warp takes one key at a time, a lane two neighbouring dimensions per word.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    scores(const element* q, const element* k, float* scores, int kv_heads, int seq, float score_scale) {
  int head = blockIdx.y, batch = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int row = batch * kv_heads * GROUP + head;
  const unsigned* query = reinterpret_cast<const unsigned*>(q + (size_t)row * HEAD_DIM);
  const element* keys = k + (size_t)(batch * kv_heads + head / GROUP) * seq * HEAD_DIM;

  // Keep this lane's dimensions of the query, scaled once.
  float low[WORDS], high[WORDS];
  for (int i = 0; i < WORDS; i++) {
    unsigned word = query[i * 32 + lane];
    low[i] = low_of(word) * score_scale, high[i] = high_of(word) * score_scale;
  }

  // Multiply it with one key after the other.
  for (int s = blockIdx.x * TILE + warp; s < min((int)(blockIdx.x + 1) * TILE, seq); s += WARPS) {
    const unsigned* key = reinterpret_cast<const unsigned*>(keys + (size_t)s * HEAD_DIM);
    float score = 0;
    for (int i = 0; i < WORDS; i++) {
      unsigned word = key[i * 32 + lane];
      score += low[i] * low_of(word) + high[i] * high_of(word);
    }
    score = sum_over<32>(score);
    if (lane == 0) scores[(size_t)row * seq + s] = score;
  }
}

// Reduce over the block: every warp leaves its result in shared memory, then every thread reads them all.
DEVICE float block_max(float x, float* per_warp) {
  per_warp[threadIdx.x / 32] = max_over<32>(x);
  __syncthreads();
  return fmaxf(fmaxf(per_warp[0], per_warp[1]), fmaxf(per_warp[2], per_warp[3]));
}
DEVICE float block_sum(float x, float* per_warp) {
  per_warp[threadIdx.x / 32] = sum_over<32>(x);
  __syncthreads();
  return per_warp[0] + per_warp[1] + per_warp[2] + per_warp[3];
}

// grid (H, B): normalise one row of scores in place.
extern "C" __global__ void __launch_bounds__(THREADS) softmax(float* scores, int seq) {
  __shared__ float maxima[WARPS], sums[WARPS];
  float* row = scores + (size_t)(blockIdx.y * gridDim.x + blockIdx.x) * seq;

  // Find the largest score.
  float m = LOWEST;
  for (int s = threadIdx.x; s < seq; s += THREADS) m = fmaxf(m, row[s]);
  m = block_max(m, maxima);

  // Sum the exponentials.
  float l = 0;
  for (int s = threadIdx.x; s < seq; s += THREADS) l += exp2_approx(row[s] - m);
  l = block_sum(l, sums);

  // Write the probabilities.
  for (int s = threadIdx.x; s < seq; s += THREADS) row[s] = exp2_approx(row[s] - m) / l;
}

// grid (H, B), HEAD_DIM threads: one thread per output dimension.
extern "C" __global__ void __launch_bounds__(HEAD_DIM)
    weighted_values(const float* probabilities, const element* v, output* out, int kv_heads, int seq) {
  __shared__ float staged[HEAD_DIM];
  int head = blockIdx.x, batch = blockIdx.y, dim = threadIdx.x;
  size_t row = batch * kv_heads * GROUP + head;
  const element* values = v + (size_t)(batch * kv_heads + head / GROUP) * seq * HEAD_DIM + dim;

  float o = 0;
  for (int first = 0; first < seq; first += HEAD_DIM) {
    // Stage the next probabilities, one per thread.
    if (first + dim < seq) staged[dim] = probabilities[row * seq + first + dim];
    __syncthreads();

    // Weigh their values.
    int keys = min(HEAD_DIM, seq - first);
#pragma unroll 4
    for (int i = 0; i < keys; i++) o += staged[i] * to_float(values[(size_t)(first + i) * HEAD_DIM]);
    __syncthreads();
  }
  out[row * HEAD_DIM + dim] = to_output(o);
}
