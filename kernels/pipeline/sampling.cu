// Choose the next token of each row of logits: the largest, or a draw among the TOP_K largest.
//
// A logit and its index make one 64-bit key: the larger logit is the larger key, and of equal ones the lower index. A
// NaN is larger than all numbers, so that it shows.
//   argmax         each block takes the maximum of a stretch; the last block of a row writes the id
//   top_k_select   each block keeps the TOP_K largest keys of its stretch: a histogram of the leading 11 bits finds
//                  the digit of the TOP_K-th, a second pass collects what is not below it; where that is too much,
//                  the histogram goes on to the next 11 bits
//   top_k_draw     one block a row merges the stretches, takes the softmax of the TOP_K and draws with a given
//                  uniform number
// Bytes, T rows of V logits: `argmax` reads the logits once, `top_k_select` twice (once more for each further digit,
// the second time from L2) and writes 8 * TOP_K a stretch, which `top_k_draw` reads. An id is 8 bytes.
//
// logits [T][VOCABULARY] fp32, ids [T] int64. `stretch`, logits of a block, is a multiple of 4. grid (T, splits).
#include "pipeline/rows.cuh"

#define PIECE FP32_PIECE_OF(VOCABULARY)
#define WARPS (THREADS / 32)
#define LOG2_E 1.4426950408889634f
#ifndef TOP_K
#define TOP_K 50
#endif
#ifndef SORTED
#define SORTED 1024   // keys that fit the sort: those of one block, and those of all stretches of a row
#endif
#define DIGIT_BITS 11
#define BINS (1 << DIGIT_BITS)
static_assert(TOP_K <= SORTED && (SORTED & (SORTED - 1)) == 0, "SORTED is a power of two of at least TOP_K");

// Keys in the order of the logits, then of falling indices: 32 + 23 bits, five digits of 11. 0 is below all keys.
typedef unsigned long long key;
#define INDEX_MASK 0x7fffff
#define KEY_BITS 55
static_assert(VOCABULARY <= INDEX_MASK, "an index has 23 bits");
DEVICE key key_of(float logit, int index) {
  unsigned bits = __float_as_uint(logit);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  if (logit == 0) bits = 0x80000000u;
  if (logit != logit) bits = 0xffffffffu;
  return (key)bits << 23 | (INDEX_MASK - index);
}
DEVICE float logit_of(key k) {
  unsigned bits = (unsigned)(k >> 23);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}
DEVICE int index_of(key k) { return INDEX_MASK - (int)(k & INDEX_MASK); }

// Call `visit` with the key of each logit of [first, last).
template <typename Visit> DEVICE void for_each_key(const float* row, int first, int last, Visit visit) {
#pragma unroll 4
  for (int i = first + threadIdx.x * PIECE; i < last; i += THREADS * PIECE) {
    float x[PIECE];
    load_piece(row + i, x);
#pragma unroll
    for (int e = 0; e < PIECE; e++) visit(key_of(x[e], i + e));
  }
}

// `best` and `arrived` [T] are zero before and after; with one split they are not touched.
extern "C" __global__ void __launch_bounds__(THREADS)
    argmax(const float* logits, long long* ids, key* best, int* arrived, int stretch) {
  __shared__ key maxima[WARPS];
  int row = blockIdx.x, first = blockIdx.y * stretch, last = min(first + stretch, VOCABULARY);

  // Find the largest key of the stretch.
  key largest = 0;
  for_each_key(logits + (size_t)row * VOCABULARY, first, last, [&](key k) { largest = max(largest, k); });
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) largest = max(largest, __shfl_xor_sync(FULL_WARP, largest, offset));
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = largest;
  __syncthreads();
  if (threadIdx.x > 0) return;
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) largest = max(largest, maxima[warp]);

  if (gridDim.y > 1) {
    // Hand it in; go on if all other stretches of the row have been handed in.
    atomicMax(best + row, largest);
    __threadfence();
    if (!arrives_last(arrived + row, gridDim.y)) return;

    // Take the largest of the row, and leave zero for the next launch.
    __threadfence();
    largest = atomicExch(best + row, 0ull);
  }
  ids[row] = index_of(largest);
}

// Sort `count` keys in shared memory, the largest first; keys up to the next power of two become 0.
DEVICE void sort(key* keys, int count) {
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += THREADS) keys[i] = 0;
  __syncthreads();

  // Bitonic: merge runs of growing width, by compare and exchange over a shrinking distance.
  for (int width = 2; width <= size; width *= 2) {
    for (int distance = width / 2; distance > 0; distance /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += THREADS) {
        int low = 2 * i - i % distance, high = low + distance;
        key a = keys[low], b = keys[high];
        bool falling = (low & width) == 0;
        if (falling == (a < b)) keys[low] = b, keys[high] = a;
      }
      __syncthreads();
    }
  }
}

struct Digit {
  int bin;      // the digit of the key looked for
  int above;    // keys with a larger digit
  int within;   // keys with this digit
};

// The digit of the `rank`-th largest key of the histogram, counted from 1; the smallest digit if there are fewer.
DEVICE Digit find_digit(const int* histogram, int rank) {
  __shared__ int of_warp[WARPS];
  __shared__ Digit found;
  constexpr int kBins = BINS / THREADS;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = BINS - 1 - threadIdx.x * kBins;

  // Count the keys of this thread's bins, largest digits in the first thread, and of all bins before them.
  int count = 0;
#pragma unroll
  for (int b = 0; b < kBins; b++) count += histogram[top - b];
  int before = count;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    int other = __shfl_up_sync(FULL_WARP, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) of_warp[warp] = before;
  __syncthreads();
  before -= count;
#pragma unroll
  for (int w = 0; w < WARPS; w++) before += w < warp ? of_warp[w] : 0;

  // The thread whose bins reach the rank says which bin it is.
  if (before < rank && (rank <= before + count || threadIdx.x == THREADS - 1)) {
    int bin = top;
    while (bin > top - kBins + 1 && before + histogram[bin] < rank) before += histogram[bin--];
    found = {bin, before, histogram[bin]};
  }
  __syncthreads();
  return found;
}

// kept [T][splits][TOP_K]; where a stretch is shorter than TOP_K, the rest of its keys are 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    top_k_select(const float* logits, key* kept, int stretch) {
  __shared__ int histogram[BINS];
  __shared__ key keys[SORTED];
  __shared__ int collected;
  int row = blockIdx.x, first = blockIdx.y * stretch, last = min(first + stretch, VOCABULARY);
  const float* row_logits = logits + (size_t)row * VOCABULARY;
  if (threadIdx.x == 0) collected = 0;

  // Find the digits of the TOP_K-th key, until the keys not below them fit the sort.
  key threshold = 0;
  int rank = TOP_K, above = 0;
  for (int shift = KEY_BITS - DIGIT_BITS;; shift -= DIGIT_BITS) {
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) histogram[bin] = 0;
    __syncthreads();
    for_each_key(row_logits, first, last, [&](key k) {
      if ((k ^ threshold) >> shift < BINS) atomicAdd(histogram + (int)(k >> shift & (BINS - 1)), 1);
    });
    __syncthreads();
    Digit digit = find_digit(histogram, rank);
    threshold |= (key)digit.bin << shift;
    above += digit.above, rank -= digit.above;
    if (above + digit.within <= SORTED) break;
  }

  // Collect them, and sort.
  for_each_key(row_logits, first, last, [&](key k) {
    if (k >= threshold) keys[atomicAdd(&collected, 1)] = k;
  });
  __syncthreads();
  int count = collected;
  sort(keys, count);

  // Keep the TOP_K largest.
  kept += ((size_t)row * gridDim.y + blockIdx.y) * TOP_K;
  for (int i = threadIdx.x; i < TOP_K; i += THREADS) kept[i] = i < count ? keys[i] : 0;
}

// kept [T][splits][TOP_K], at most SORTED a row; uniforms [T] in [0, 1). grid T.
extern "C" __global__ void __launch_bounds__(THREADS)
    top_k_draw(const key* kept, const float* uniforms, long long* ids, int splits, float inverse_temperature) {
  __shared__ key keys[SORTED];
  int row = blockIdx.x, count = splits * TOP_K, lane = threadIdx.x;

  // Merge the stretches.
  for (int i = threadIdx.x; i < count; i += THREADS) keys[i] = kept[(size_t)row * count + i];
  sort(keys, count);
  if (threadIdx.x >= 32) return;

  // Sum the weights of the softmax.
  float scale = LOG2_E * inverse_temperature, largest = logit_of(keys[0]);
  auto weight = [&](int i) {
    return i < TOP_K && keys[i] ? exp2_approx((logit_of(keys[i]) - largest) * scale) : 0;
  };
  float total = 0;
  for (int i = lane; i < TOP_K; i += 32) total += weight(i);
  total = sum_over<32>(total);

  // Walk along them until the sum passes the drawn number; the first is taken where rounding or a NaN keeps it below.
  float drawn = uniforms[row] * total, passed = 0;
  int chosen = 0;
  for (int start = 0; start < TOP_K; start += 32) {
    float upto = weight(start + lane);
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      float other = __shfl_up_sync(FULL_WARP, upto, offset);
      if (lane >= offset) upto += other;
    }
    unsigned reached = __ballot_sync(FULL_WARP, passed + upto > drawn);
    if (reached) {
      chosen = start + __ffs(reached) - 1;
      break;
    }
    passed += __shfl_sync(FULL_WARP, upto, 31);
  }
  if (lane == 0) ids[row] = index_of(keys[chosen]);
}
