// The original design: one launch, one block of (32, 32) threads per batch and query head.
//
// What it does: streams K through shared memory in tiles of 32 keys, keeps the whole row of scores in shared memory,
// takes its softmax there, and streams V through the same tile buffer.
// What it changes against three_pass.cu: the three passes are fused, so scores never leave the SM.
// What it buys: one launch and no score traffic. It costs 4 bytes of shared memory per cached token, which caps S, and
// K/V are still read once per *query* head: GROUP times too often.
//
// q [B][H][D], k and v [B][Hkv][S][D], out [B][H][D].
#include "ptx.cuh"

#define TILE 32
#define THREADS 1024
#define TILE_WORDS (TILE * HEAD_DIM / 2)
#define KEY_GROUPS (THREADS / HEAD_DIM)   // threads that share one output dimension

// Copy the rows [first, first + TILE) of K or V; rows past the end become zeros.
DEVICE void load_tile(unsigned* tile, const element* rows, int first, int seq, int thread) {
  const unsigned* words = reinterpret_cast<const unsigned*>(rows + (size_t)first * HEAD_DIM);
  int valid = min(TILE, seq - first) * (HEAD_DIM / 2);
  for (int i = thread; i < TILE_WORDS; i += THREADS) tile[i] = i < valid ? words[i] : 0;
}

// grid (H, B). Dynamic shared memory: q, one tile, reductions, and S scores.
extern "C" __global__ void __launch_bounds__(THREADS)
    cached_attention(const element* q, const element* k, const element* v, output* out, int kv_heads, int seq,
                     float score_scale) {
  DYNAMIC_SHARED(shared);
  float* query = reinterpret_cast<float*>(shared);                       // [HEAD_DIM]
  unsigned* tile = reinterpret_cast<unsigned*>(query + HEAD_DIM);        // [TILE][HEAD_DIM] elements
  float* maxima = reinterpret_cast<float*>(tile + TILE_WORDS);           // [32]
  float* sums = maxima + 32;                                             // [32]
  float* partial = sums + 32;                                            // [KEY_GROUPS][HEAD_DIM]
  float* scores = partial + THREADS;                                     // [S]

  int lane = threadIdx.x, warp = threadIdx.y, thread = warp * 32 + lane;
  int head = blockIdx.x, batch = blockIdx.y;
  size_t row = batch * kv_heads * GROUP + head, kv_row = batch * kv_heads + head / GROUP;
  const element* keys = k + kv_row * seq * HEAD_DIM;
  const element* values = v + kv_row * seq * HEAD_DIM;

  // Load the query, scaled once.
  if (thread < HEAD_DIM) query[thread] = to_float(q[row * HEAD_DIM + thread]) * score_scale;

  for (int first = 0; first < seq; first += TILE) {
    // Load a tile of keys.
    load_tile(tile, keys, first, seq, thread);
    __syncthreads();

    // Score one key per warp, two dimensions per lane and word.
    float score = 0;
    for (int i = lane; i < HEAD_DIM / 2; i += 32) {
      unsigned word = tile[warp * (HEAD_DIM / 2) + i];
      score += query[2 * i] * low_of(word) + query[2 * i + 1] * high_of(word);
    }
    score = sum_over<32>(score);
    if (lane == 0 && first + warp < seq) scores[first + warp] = score;
    __syncthreads();
  }

  // Find the largest score of the row.
  float m = LOWEST;
  for (int s = thread; s < seq; s += THREADS) m = fmaxf(m, scores[s]);
  maxima[warp] = max_over<32>(m);
  __syncthreads();
  m = max_over<32>(maxima[lane]);

  // Replace the scores by their exponentials, and sum them.
  float l = 0;
  for (int s = thread; s < seq; s += THREADS) l += scores[s] = exp2_approx(scores[s] - m);
  sums[warp] = sum_over<32>(l);
  __syncthreads();
  l = sum_over<32>(sums[lane]);

  float o = 0;
  for (int first = 0; first < seq; first += TILE) {
    // Load a tile of values.
    load_tile(tile, values, first, seq, thread);
    __syncthreads();

    // Weigh every KEY_GROUPS-th of them; a thread owns one dimension.
    const element* tile_values = reinterpret_cast<const element*>(tile);
    for (int i = thread / HEAD_DIM; i < min(TILE, seq - first); i += KEY_GROUPS)
      o += scores[first + i] * to_float(tile_values[i * HEAD_DIM + thread % HEAD_DIM]);
    __syncthreads();
  }

  // Add up the groups of keys, and normalise.
  partial[thread] = o;
  __syncthreads();
  if (thread < HEAD_DIM) {
    o = 0;
    for (int i = 0; i < KEY_GROUPS; i++) o += partial[i * HEAD_DIM + thread];
    out[row * HEAD_DIM + thread] = to_output(o / l);
  }
}
