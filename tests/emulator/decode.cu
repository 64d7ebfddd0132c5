// Decode attention in four small kernels, as test inputs of the interpreter: q [B,H,D], k and v [B,Hkv,S,D] in fp16,
// results in fp32. One block has four warps.
#include <cuda_fp16.h>

#define D 64
#define TILE 32
#define WARPS 4
#define NONE __int_as_float(0xff800000)

__device__ float warp_sum(float x) {
  for (int lanes = 16; lanes; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}
__device__ float warp_max(float x) {
  for (int lanes = 16; lanes; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}
__device__ float weight(float score, float most) { return score == NONE ? 0.0f : __expf(score - most); }
__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ float2 pair(unsigned bits) { return __half22float2(*reinterpret_cast<__half2*>(&bits)); }
__device__ unsigned packed(float low, float high) {
  __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<unsigned*>(&both);
}

// One block per query head; K and V in tiles through shared memory; online softmax.
extern "C" __global__ void __launch_bounds__(128)
fused(const __half* q, const __half* k, const __half* v, float* out, int heads, int group, int S, float scale) {
  __shared__ __align__(16) __half keys[TILE][D + 8], values[TILE][D + 8];
  __shared__ float scores[TILE], half_of_out[D];
  int head = blockIdx.x, t = threadIdx.x, lane = t % 32, warp = t / 32;
  const __half* K = k + (size_t)(head / group) * S * D;
  const __half* V = v + (size_t)(head / group) * S * D;
  float q0 = __half2float(q[head * D + 2 * lane]) * scale, q1 = __half2float(q[head * D + 2 * lane + 1]) * scale;
  float most = NONE, sum = 0, o = 0;
  for (int start = 0; start < S; start += TILE) {
    for (int piece = t; piece < TILE * D / 8; piece += 128) {
      int row = piece / (D / 8), column = piece % (D / 8) * 8;
      uint4 zero = make_uint4(0, 0, 0, 0);
      bool inside = start + row < S;
      size_t at = (size_t)(start + row) * D + column;
      *(uint4*)&keys[row][column] = inside ? *(const uint4*)(K + at) : zero;
      *(uint4*)&values[row][column] = inside ? *(const uint4*)(V + at) : zero;
    }
    __syncthreads();  // TILE LOADED
    for (int row = warp; row < TILE; row += WARPS) {
      float x = q0 * __half2float(keys[row][2 * lane]) + q1 * __half2float(keys[row][2 * lane + 1]);
      x = warp_sum(x);
      if (lane == 0) scores[row] = start + row < S ? x : NONE;
    }
    __syncthreads();  // SCORES THERE
    float now = fmaxf(most, warp_max(scores[lane])), p = weight(scores[lane], now), old = weight(most, now);
    sum = sum * old + warp_sum(p);
    o *= old;  // RESCALE
    most = now;
    for (int row = t / D; row < TILE; row += 2)
      o += __shfl_sync(0xffffffffu, p, row) * __half2float(values[row][t % D]);
    __syncthreads();  // TILE DONE
  }
  if (t >= D) half_of_out[t - D] = o;
  __syncthreads();
  if (t < D) out[head * D + t] = (o + half_of_out[t]) / sum;
}

// A part of the sequence: each warp takes whole keys, 4-byte loads straight to registers.
extern "C" __global__ void __launch_bounds__(128)
split(const __half* q, const __half* k, const __half* v, float* partial, float* most_and_sum, int group, int S,
      int chunk, float scale) {
  __shared__ float of_warp[WARPS][D], most_of[WARPS], sum_of[WARPS];
  int head = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const __half* K = k + (size_t)(head / group) * S * D;
  const __half* V = v + (size_t)(head / group) * S * D;
  float2 query = pair(((const unsigned*)q)[head * D / 2 + lane]), o = make_float2(0, 0);
  int first = blockIdx.y * chunk, end = min(S, first + chunk);
  float most = NONE, sum = 0;
  for (int s = first + warp; s < end; s += WARPS) {
    float2 key = pair(((const unsigned*)(K + (size_t)s * D))[lane]);
    float2 value = pair(((const unsigned*)(V + (size_t)s * D))[lane]);
    float score = warp_sum(query.x * key.x + query.y * key.y) * scale;
    float now = fmaxf(most, score), old = weight(most, now), p = __expf(score - now);
    sum = sum * old + p;
    o = make_float2(o.x * old + p * value.x, o.y * old + p * value.y);
    most = now;
  }
  of_warp[warp][2 * lane] = o.x;
  of_warp[warp][2 * lane + 1] = o.y;
  if (lane == 0) { most_of[warp] = most; sum_of[warp] = sum; }
  __syncthreads();  // WARPS DONE
  if (threadIdx.x >= D) return;
  float M = NONE, L = 0, x = 0;
  for (int w = 0; w < WARPS; w++) M = fmaxf(M, most_of[w]);
  for (int w = 0; w < WARPS; w++) {
    L += sum_of[w] * weight(most_of[w], M);
    x += of_warp[w][threadIdx.x] * weight(most_of[w], M);
  }
  int row = head * gridDim.y + blockIdx.y;
  partial[row * D + threadIdx.x] = x;
  if (threadIdx.x == 0) { most_and_sum[2 * row] = M; most_and_sum[2 * row + 1] = L; }
}

// The parts of one head together.
extern "C" __global__ void combine(const float* partial, const float* most_and_sum, float* out, int splits) {
  const float* ml = most_and_sum + 2 * blockIdx.x * splits;
  float M = NONE, L = 0, x = 0;
  for (int s = 0; s < splits; s++) M = fmaxf(M, ml[2 * s]);
  for (int s = 0; s < splits; s++) {
    L += ml[2 * s + 1] * weight(ml[2 * s], M);
    x += partial[(blockIdx.x * splits + s) * D + threadIdx.x] * weight(ml[2 * s], M);
  }
  out[blockIdx.x * D + threadIdx.x] = x / L;
}

// One warp per KV head: its query heads are the rows of mma.sync, keys come through a ring of cp.async.
#define KEYS 16
#define STAGES 3
__device__ __half* swizzled(__half* tile, int row, int chunk) { return tile + row * D + (chunk ^ row % 8) * 8; }
__device__ void ldmatrix(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ void ldmatrix_trans(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ void copy16(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0)
               : "memory");
}
extern "C" __global__ void __launch_bounds__(32)
matrix(const __half* q, const __half* k, const __half* v, float* out, int group, int S, float scale) {
  extern __shared__ __align__(128) unsigned char memory[];
  __half* ring = (__half*)memory;
  int lane = threadIdx.x, row = lane / 4, column = lane % 4 * 2, tiles = (S + KEYS - 1) / KEYS;
  const __half* K = k + (size_t)blockIdx.x * S * D;
  const __half* V = v + (size_t)blockIdx.x * S * D;
  unsigned query[D / 16][4];
  for (int i = 0; i < D / 16; i++)
    for (int r = 0; r < 4; r++) {
      int head = row + r % 2 * 8;
      const __half* at = q + (blockIdx.x * group + head) * D + i * 16 + r / 2 * 8 + column;
      query[i][r] = head < group ? packed(__half2float(at[0]) * scale, __half2float(at[1]) * scale) : 0;
    }
  auto load = [&](int tile) {
    __half* keys = ring + tile % STAGES * 2 * KEYS * D;
    for (int piece = lane; piece < KEYS * D / 8; piece += 32) {
      int r = piece / (D / 8), chunk = piece % (D / 8), s = tile * KEYS + r;
      size_t at = (size_t)(s < S ? s : 0) * D + chunk * 8;
      copy16(swizzled(keys, r, chunk), K + at, s < S);
      copy16(swizzled(keys + KEYS * D, r, chunk), V + at, s < S);
    }
  };
  for (int tile = 0; tile < STAGES - 1; tile++) {
    if (tile < tiles) load(tile);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  float o[D / 8][4] = {}, most[2] = {NONE, NONE}, sum[2] = {0, 0};
  for (int tile = 0; tile < tiles; tile++) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncwarp();
    if (tile + STAGES - 1 < tiles) load(tile + STAGES - 1);
    asm volatile("cp.async.commit_group;" ::: "memory");
    __half* keys = ring + tile % STAGES * 2 * KEYS * D;
    float s[2][4] = {};
    for (int i = 0; i < D / 16; i++) {
      unsigned b[4];
      ldmatrix(b, swizzled(keys, lane % 8 + lane / 16 * 8, i * 2 + lane / 8 % 2));
      mma(s[0], query[i], b[0], b[1]);
      mma(s[1], query[i], b[2], b[3]);
    }
    for (int n = 0; n < 2; n++)
      for (int i = 0; i < 4; i++)
        if (tile * KEYS + n * 8 + column + i % 2 >= S) s[n][i] = NONE;  // MASK
    float old[2];
    for (int r = 0; r < 2; r++) {
      float x = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
      float now = fmaxf(most[r], x);
      old[r] = weight(most[r], now);
      most[r] = now;
      sum[r] *= old[r];
      for (int n = 0; n < 2; n++)
        for (int i = 2 * r; i < 2 * r + 2; i++) sum[r] += s[n][i] = weight(s[n][i], now);
    }
    unsigned p[4] = {packed(s[0][0], s[0][1]), packed(s[0][2], s[0][3]), packed(s[1][0], s[1][1]), packed(s[1][2], s[1][3])};
    for (int n = 0; n < D / 8; n += 2) {
      unsigned b[4];
      ldmatrix_trans(b, swizzled(keys + KEYS * D, lane % 8 + lane / 8 % 2 * 8, n + lane / 16));
      for (int i = 0; i < 4; i++) { o[n][i] *= old[i / 2]; o[n + 1][i] *= old[i / 2]; }
      mma(o[n], p, b[0], b[1]);
      mma(o[n + 1], p, b[2], b[3]);
    }
    __syncwarp();
  }
  for (int r = 0; r < 2; r++) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    int head = row + 8 * r;
    if (head < group)
      for (int n = 0; n < D / 8; n++)
        for (int i = 0; i < 2; i++) out[(blockIdx.x * group + head) * D + n * 8 + column + i] = o[n][2 * r + i] / sum[r];
  }
}
