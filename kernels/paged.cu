// Keys and values in pages, found through a block table.
//
// What it does: the cache is a pool of pages of PAGE tokens; `pages` says which page holds which stretch of a sequence,
// and `lengths` how many tokens each sequence has. A split past the end of a short sequence leaves an empty piece.
// What it changes against vector_loads.cu: one indirection per tile, read a tile ahead so that it delays nothing.
// What it buys: a cache without fragmentation, which is how servers keep it. A page holds whole tiles and is laid out
// [Hkv][PAGE][D], so that a tile stays contiguous and loads stay 16 bytes.
//
// q [B][H][D], k and v [pool][Hkv][PAGE][D], pages [B][pages_per_sequence], lengths [B], out [B][H][D].
// grid (splits, Hkv, B).
#ifndef KEYS_IN_FLIGHT
#define KEYS_IN_FLIGHT 4
#endif
#ifndef PAGE
#define PAGE 64
#endif
#include "lanes.cuh"
static_assert(PAGE % TILE == 0, "a page must hold whole tiles");

// NOTES: the 1 tells the compiler to spend registers rather than spill a few of them for one more block.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    paged(const element* q, const element* k, const element* v, const int* pages, const int* lengths, output* out,
          float* partial_o, float2* partial_ml, int kv_heads, int pages_per_sequence, int split_tokens,
          float score_scale) {
  __shared__ GroupShared shared;
  Destination to = {out, partial_o, partial_ml, (int)blockIdx.x, (int)gridDim.x};
  int batch = blockIdx.z, kv_head = blockIdx.y, kv_row = batch * kv_heads + kv_head;
  int owner = owner_of(threadIdx.x), first_dim = first_dim_of(threadIdx.x);
  int first = to.split * split_tokens, last = min(first + split_tokens, lengths[batch]);

  // Load the queries and the first page number.
  Head heads[GROUP];
  start_heads(shared, heads, q + (size_t)kv_row * GROUP * HEAD_DIM, score_scale);
  const int* table = pages + (size_t)batch * pages_per_sequence;
  int page = table[first / PAGE];

  for (int tile = first; tile < last; tile += TILE) {
    // Start all loads of the tile; keys past the end are zeros that don't count.
    size_t page_row = ((size_t)page * kv_heads + kv_head) * PAGE;
    Keys keys;
#pragma unroll
    for (int u = 0; u < KEYS_IN_FLIGHT; u++) {
      int s = tile + u * OWNERS + owner;
      size_t offset = (page_row + s % PAGE) * HEAD_DIM + first_dim;
      bool valid = s < last;
      keys.penalty[u] = penalty_unless(valid);
      keys.key_scale[u] = keys.value_scale[u] = 1;
      keys.key[u] = load_once(k + offset, valid);
      keys.value[u] = load_once(v + offset, valid);
    }

    // Look up the page of the next tile.
    if (tile + TILE < last) page = table[(tile + TILE) / PAGE];

    // Fold the tile in.
    attend(heads, shared, keys);
  }
  finish_heads(shared, heads, to, kv_row * GROUP);
}
