// The online softmax of one query head by a block of (32, 32) threads: what flash.cu and split_kv.cu have in common.
#pragma once

#include "ptx.cuh"

#define TILE 32
#define THREADS 1024
#define TILE_WORDS (TILE * HEAD_DIM / 2)
#define KEY_GROUPS (THREADS / HEAD_DIM)   // threads that share one output dimension
#define THREAD_WORDS (TILE_WORDS / THREADS)
static_assert(TILE_WORDS % THREADS == 0, "every thread loads as many words of a tile");

struct FlashShared {
  float query[HEAD_DIM];
  unsigned keys[TILE_WORDS];
  unsigned values[TILE_WORDS];
  float scores[TILE];
  float partial[KEY_GROUPS][HEAD_DIM];
};

// The softmax so far: its maximum, the sum of 2^(score - m), and one dimension of the unnormalised output.
struct Softmax {
  float m, l, o;
};

// Attend to the keys [first, last) of one KV head. Threads below HEAD_DIM return their dimension.
DEVICE Softmax flash_attend(FlashShared& shared, const element* query, const element* keys, const element* values,
                            int first, int last, float score_scale) {
  int lane = threadIdx.x, warp = threadIdx.y, thread = warp * 32 + lane;

  // Load the query, scaled once.
  if (thread < HEAD_DIM) shared.query[thread] = to_float(query[thread]) * score_scale;

  Softmax softmax = {LOWEST, 0, 0};
  for (int tile = first; tile < last; tile += TILE) {
    // Start all loads of a tile of keys and of its values; rows past the end become zeros.
    const unsigned* key_words = reinterpret_cast<const unsigned*>(keys + (size_t)tile * HEAD_DIM);
    const unsigned* value_words = reinterpret_cast<const unsigned*>(values + (size_t)tile * HEAD_DIM);
    int valid = min(TILE, last - tile) * (HEAD_DIM / 2);
    unsigned key[THREAD_WORDS], value[THREAD_WORDS];
#pragma unroll
    for (int j = 0; j < THREAD_WORDS; j++) {
      int i = thread + j * THREADS;
      key[j] = i < valid ? key_words[i] : 0;
      value[j] = i < valid ? value_words[i] : 0;
    }

    // Lay them down for the block.
#pragma unroll
    for (int j = 0; j < THREAD_WORDS; j++) {
      shared.keys[thread + j * THREADS] = key[j];
      shared.values[thread + j * THREADS] = value[j];
    }
    __syncthreads();

    // Score one key per warp; keys past the end cannot win.
    float score = 0;
    for (int i = lane; i < HEAD_DIM / 2; i += 32) {
      unsigned word = shared.keys[warp * (HEAD_DIM / 2) + i];
      score += shared.query[2 * i] * low_of(word) + shared.query[2 * i + 1] * high_of(word);
    }
    score = sum_over<32>(score);
    if (lane == 0) shared.scores[warp] = tile + warp < last ? score : MINUS_INFINITY;
    __syncthreads();

    // Raise the maximum, and rescale what was summed under the old one.
    score = shared.scores[lane];
    float m = fmaxf(softmax.m, max_over<32>(score));
    float rescale = exp2_approx(softmax.m - m);
    float probability = exp2_approx(score - m);
    softmax.m = m;
    softmax.l = softmax.l * rescale + sum_over<32>(probability);
    softmax.o *= rescale;

    // Weigh every KEY_GROUPS-th value; a thread owns one dimension.
    const element* tile_values = reinterpret_cast<const element*>(shared.values);
    for (int i = thread / HEAD_DIM; i < TILE; i += KEY_GROUPS) {
      float weight = __shfl_sync(FULL_WARP, probability, i);
      softmax.o += weight * to_float(tile_values[i * HEAD_DIM + thread % HEAD_DIM]);
    }
    __syncthreads();
  }

  // Add up the groups of keys.
  shared.partial[thread / HEAD_DIM][thread % HEAD_DIM] = softmax.o;
  __syncthreads();
  softmax.o = 0;
  for (int i = 0; i < KEY_GROUPS; i++) softmax.o += shared.partial[i][thread % HEAD_DIM];
  return softmax;
}
