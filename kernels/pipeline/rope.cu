// Rotate queries and keys by their position: the half-rotation layout, the first ROTARY elements of each head.
//
// What it does: the pair (x[i], x[i + ROTARY/2]) turns by the angle i of the token's position; the elements past
// ROTARY are copied. Out may be in: each thread reads its pairs before it writes them.
// Bytes, T tokens: every head is read and written once, a row of ROTARY fp32 (cosines, then sines) read once a token;
// every thread reads the token's position (4 bytes each, one sector a warp).
//
// q [T][Q_HEADS][HEAD_DIM], k [T][KV_HEADS][HEAD_DIM], positions [T] int32, table [positions][ROTARY]. grid T.
// Q_STRIDE and K_STRIDE are elements from one token to the next where q and k are parts of a wider row.
#include "pipeline/rows.cuh"

#define PIECE (ROTARY % 16 == 0 ? PIECE_OF(HEAD_DIM) : 1)
#define HALF (ROTARY / 2)
#define HEADS (Q_HEADS + KV_HEADS)
#define REST (HEAD_DIM - ROTARY)
static_assert(ROTARY % 2 == 0 && 0 < ROTARY && ROTARY <= HEAD_DIM, "ROTARY is an even part of HEAD_DIM");

#ifndef Q_STRIDE
#define Q_STRIDE (Q_HEADS * HEAD_DIM)
#endif
#ifndef K_STRIDE
#define K_STRIDE (KV_HEADS * HEAD_DIM)
#endif

// Where a head of this token starts, queries first.
template <int kQueries, int kKeys, typename Element> DEVICE Element* head_of(Element* q, Element* k, int head) {
  size_t token = blockIdx.x;
  return head < Q_HEADS ? q + token * kQueries + head * HEAD_DIM : k + token * kKeys + (head - Q_HEADS) * HEAD_DIM;
}
DEVICE const element* from_head(const element* q, const element* k, int head) {
  return head_of<Q_STRIDE, K_STRIDE>(q, k, head);
}
DEVICE element* to_head(element* q, element* k, int head) {
  return head_of<Q_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM>(q, k, head);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rope(const element* q, const element* k, const int* positions, const float* table, element* q_out,
         element* k_out) {
  __shared__ __align__(16) float turn[ROTARY];

  // Fetch the cosines and sines of the token's position.
  const float* angles = table + (size_t)positions[blockIdx.x] * ROTARY;
  for (int i = threadIdx.x; i < ROTARY; i += THREADS) turn[i] = angles[i];
  __syncthreads();

  // Rotate the pairs, a piece of each half at a time.
  for (int i = threadIdx.x; i < HEADS * (HALF / PIECE); i += THREADS) {
    int head = i / (HALF / PIECE), pair = i % (HALF / PIECE) * PIECE;
    const element* from = from_head(q, k, head) + pair;
    element* to = to_head(q_out, k_out, head) + pair;
    float x[PIECE], y[PIECE], rotated_x[PIECE], rotated_y[PIECE];
    load_piece(from, x);
    load_piece(from + HALF, y);
#pragma unroll
    for (int e = 0; e < PIECE; e++) {
      float cosine = turn[pair + e], sine = turn[HALF + pair + e];
      rotated_x[e] = x[e] * cosine - y[e] * sine;
      rotated_y[e] = y[e] * cosine + x[e] * sine;
    }
    store_piece(to, rotated_x);
    store_piece(to + HALF, rotated_y);
  }

#if ROTARY < HEAD_DIM
  // Copy the elements that are not rotated.
  for (int i = threadIdx.x; i < HEADS * (REST / PIECE); i += THREADS) {
    int head = i / (REST / PIECE), at = ROTARY + i % (REST / PIECE) * PIECE;
    copy_piece<PIECE>(to_head(q_out, k_out, head) + at, from_head(q, k, head) + at);
  }
#endif
}
