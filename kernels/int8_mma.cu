// INT8 keys against INT8 queries on the tensor cores.
//
// What it does: the query is quantised on arrival, one scale per row; scores are mma.sync.m16n8k32 on bytes, whose
// integer sums are scaled once; values become halves in registers, on the way into mma.sync.m16n8k16.
// What it changes against int8_kv.cu: no key element is converted, and GROUP heads share an instruction.
// What it buys: the halved bytes without the conversions of K, and a GROUP up to 16. It costs the rounding of the
// query.
//
// q [B][H][D], k and v [B][Hkv][S][D] int8, k_scales and v_scales [B][Hkv][S] fp32, out [B][H][D].
// grid (splits, Hkv, B), 32 * WARPS threads.
#ifndef WARPS
#define WARPS 4
#endif
#ifndef STAGES
#define STAGES 3
#endif
#include "split.cuh"

#define TILE 16                        // keys of one warp's tile
#define STRIDE (HEAD_DIM + 16)         // bytes of a row in shared memory: padded, so that rows start at different banks
#define K_STEPS (HEAD_DIM / 32)
#define N_TILES (HEAD_DIM / 8)
#define O_STRIDE (HEAD_DIM + 8)

struct Stage {
  signed char keys[TILE][STRIDE], values[TILE][STRIDE];
};

// Start the copies of one tile; rows past the end become zeros. A group is closed even if it is empty.
DEVICE void copy_tile(Stage& stage, const signed char* keys, const signed char* values, int tile, int last) {
  int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int i = lane; i < TILE * HEAD_DIM / 16; i += 32) {
    int row = i / (HEAD_DIM / 16), column = i % (HEAD_DIM / 16) * 16;
    bool valid = tile + row < last;
    size_t offset = valid ? (size_t)(tile + row) * HEAD_DIM + column : 0;
    copy_async(&stage.keys[row][column], keys + offset, valid);
    copy_async(&stage.values[row][column], values + offset, valid);
  }
  commit_copies();
}

// Quantise one row of q by a warp: bytes to `row`, and the scale that undoes it as the result.
DEVICE float quantise_row(signed char* row, const element* q, bool valid) {
  int lane = threadIdx.x % 32;
  float x[HEAD_DIM / 32], highest = 0;
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 32; i++) {
    x[i] = valid ? to_float(q[i * 32 + lane]) : 0;
    highest = fmaxf(highest, fabsf(x[i]));
  }
  highest = max_over<32>(highest);
  float inverse = highest > 0 ? 127.0f / highest : 0;
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 32; i++) row[i * 32 + lane] = (signed char)__float2int_rn(x[i] * inverse);
  return highest / 127.0f;
}

// Byte `i` of two words as two halves: biased to 0..255 a byte is the low part of a half near 1024.
DEVICE unsigned halves_of_int8(unsigned first, unsigned second, int i) {
  unsigned bytes = __byte_perm(first ^ 0x80808080u, second ^ 0x80808080u, i | (4 + i) << 4);
  unsigned biased = __byte_perm(bytes, 0x64646464u, 0x4140);
  __half2 halves = __hsub2(*reinterpret_cast<__half2*>(&biased), __float2half2_rn(1152.0f));
  return *reinterpret_cast<unsigned*>(&halves);
}
DEVICE unsigned pack_halves(float low, float high) {
  __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}

// NOTES: the 1 tells the compiler to spend registers rather than spill a few of them for one more block.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
    int8_mma(const element* q, const signed char* k, const signed char* v, const float* k_scales,
             const float* v_scales, output* out, float* partial_o, float2* partial_ml, int kv_heads, int seq,
             int split_tokens, float score_scale) {
  DYNAMIC_SHARED(dynamic);
  __shared__ __align__(16) signed char quantised[16][STRIDE];
  __shared__ float query_scales[16], all_m[WARPS][16], all_l[WARPS][16];
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv_row = blockIdx.z * kv_heads + blockIdx.y;
  int fragment_row = lane / 4, fragment_column = lane % 4 * 2;
  int first = to.split * split_tokens, last = min(first + split_tokens, seq);
  const signed char* keys = k + (size_t)kv_row * seq * HEAD_DIM;
  const signed char* values = v + (size_t)kv_row * seq * HEAD_DIM;

  // Fill all stages of this warp's ring but the last.
  Stage* ring = reinterpret_cast<Stage*>(dynamic) + warp * STAGES;
  int step = WARPS * TILE, first_tile = first + warp * TILE;
  for (int i = 0; i < STAGES - 1; i++) copy_tile(ring[i], keys, values, first_tile + i * step, last);

  // Quantise the queries, one row per warp at a time; rows without a head are zeros.
  for (int row = warp; row < 16; row += WARPS) {
    float scale = quantise_row(quantised[row], q + ((size_t)kv_row * GROUP + row) * HEAD_DIM, row < GROUP);
    if (lane == 0) query_scales[row] = scale * score_scale;
  }
  __syncthreads();
  unsigned query[K_STEPS][4];
#pragma unroll
  for (int i = 0; i < K_STEPS; i++) load_matrix(query[i], &quantised[lane % 16][(i * 2 + lane / 16) * 16]);
  float query_scale[2] = {query_scales[fragment_row], query_scales[fragment_row + 8]};

  // Lanes 0-15 load the scales of a tile's keys, lanes 16-31 those of its values, one tile ahead.
  const float* lane_scales = (lane < 16 ? k_scales : v_scales) + (size_t)kv_row * seq + lane % 16;
  float next_scale = load_scale(lane_scales + first_tile, first_tile + lane % 16 < last);

  // `o` is counted in `unit`, the largest weight times scale so far, `l` in 1.
  float o[N_TILES][4] = {}, m[2] = {LOWEST, LOWEST}, l[2] = {0, 0}, unit[2] = {0, 0};
  int stage = 0;
  for (int tile = first_tile; tile < last; tile += step) {
    // Wait for the oldest tile, then start the copies of the one STAGES - 1 ahead into the stage used last.
    wait_copies<STAGES - 2>();
    __syncwarp();
    int free_stage = stage == 0 ? STAGES - 1 : stage - 1;
    copy_tile(ring[free_stage], keys, values, tile + (STAGES - 1) * step, last);
    float scale = next_scale;
    next_scale = load_scale(lane_scales + tile + step, tile + step + lane % 16 < last);

    // Multiply 16 rows with 16 keys, in integers.
    int dot[2][4] = {};
#pragma unroll
    for (int i = 0; i < K_STEPS; i++) {
      unsigned key[4];
      load_matrix(key, &ring[stage].keys[lane % 8 + lane / 16 * 8][(i * 2 + lane / 8 % 2) * 16]);
      multiply_int8(dot[0], query[i], key[0], key[1]);
      multiply_int8(dot[1], query[i], key[2], key[3]);
    }

    // Scale the sums; keys past the end cannot win. Raise each row's maximum.
    float weight[2][4], highest[2] = {m[0], m[1]}, rescale[2];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int key = n * 8 + fragment_column + i % 2;
        float key_scale = __shfl_sync(FULL_WARP, scale, key);
        weight[n][i] = tile + key < last ? dot[n][i] * (query_scale[i / 2] * key_scale) : MINUS_INFINITY;
        highest[i / 2] = fmaxf(highest[i / 2], weight[n][i]);
      }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      highest[r] = max_over<4>(highest[r]);
      rescale[r] = exp2_approx(m[r] - highest[r]);
      m[r] = highest[r], l[r] *= rescale[r];
    }

    // Exponentiate, sum, and give each weight the scale of its value; above 0, so that there is a unit to divide by.
    float largest[2] = {1e-30f, 1e-30f};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float p = exp2_approx(weight[n][i] - m[i / 2]);
        l[i / 2] += p;
        weight[n][i] = p * __shfl_sync(FULL_WARP, scale, 16 + n * 8 + fragment_column + i % 2);
        largest[i / 2] = fmaxf(largest[i / 2], weight[n][i]);
      }

    // Raise each row's unit: as halves, weights in 1 would underflow where values are small or one key has it all.
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float before = unit[r] * rescale[r];
      unit[r] = fmaxf(before, max_over<4>(largest[r]));
      inverse[r] = __fdividef(1, unit[r]), rescale[r] = before * inverse[r];
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) weight[n][i] *= inverse[i / 2];
    unsigned packed[4] = {pack_halves(weight[0][0], weight[0][1]), pack_halves(weight[0][2], weight[0][3]),
                          pack_halves(weight[1][0], weight[1][1]), pack_halves(weight[1][2], weight[1][3])};

    // Multiply with the values, 32 dimensions at a time: column c of instruction j is dimension 4 c + j.
#pragma unroll
    for (int n = 0; n < N_TILES; n += 4) {
      unsigned word[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const signed char* row = ring[stage].values[fragment_column + i % 2 + i / 2 * 8];
        word[i] = *reinterpret_cast<const unsigned*>(row + n * 8 + fragment_row * 4);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) o[n + j][i] *= rescale[i / 2];
        multiply_fp16(o[n + j], packed, halves_of_int8(word[0], word[1], j), halves_of_int8(word[2], word[3], j));
      }
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }

  // Reuse the ring: lay the warps' outputs, maxima and sums out side by side.
  wait_copies<0>();
  __syncthreads();
  float* all_o = reinterpret_cast<float*>(dynamic);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = fragment_row + r * 8;
    float* mine = all_o + (warp * 16 + row) * O_STRIDE;
#pragma unroll
    for (int n = 0; n < N_TILES; n += 4)
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mine[n * 8 + (fragment_column + i) * 4 + j] = o[n + j][2 * r + i] * unit[r];
    l[r] = sum_over<4>(l[r]);
    if (lane % 4 == 0) all_m[warp][row] = m[r], all_l[warp][row] = l[r];
  }
  __syncthreads();

  // Merge them row by row.
  for (int i = 0; i < GROUP; i++)
    merge_and_store<HEAD_DIM>(to, kv_row * GROUP + i, all_o + i * O_STRIDE, 16 * O_STRIDE, &all_m[0][i],
                              &all_l[0][i], 16, WARPS);
}
