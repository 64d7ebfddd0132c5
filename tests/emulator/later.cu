// Three kernels written after the interpreter was finished: they run without a change to it.
#define TILE 32

// Through shared memory, both sides coalesced; the extra column keeps the banks apart. Block (32, 8).
extern "C" __global__ void transpose(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[TILE][TILE + PAD];
  int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
  for (int i = 0; i < TILE; i += 8)
    if (x < columns && y + i < rows) tile[threadIdx.y + i][threadIdx.x] = in[(size_t)(y + i) * columns + x];
  __syncthreads();
  x = blockIdx.y * TILE + threadIdx.x;
  y = blockIdx.x * TILE + threadIdx.y;
  for (int i = 0; i < TILE; i += 8)
    if (x < rows && y + i < columns) out[(size_t)(y + i) * rows + x] = tile[threadIdx.x][threadIdx.y + i];
}

// The sum of n numbers: each block reduces its part, an atomic adds the parts.
extern "C" __global__ void reduction(const float* in, float* sum, int n) {
  __shared__ float of_thread[256];
  float x = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x += in[i];
  of_thread[threadIdx.x] = x;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(sum, of_thread[0]);
}

// One block per row, any length.
extern "C" __global__ void softmax(const float* in, float* out, int n) {
  __shared__ float of_warp[32];
  const float* row = in + (size_t)blockIdx.x * n;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  auto over_block = [&](float x, bool maximum) {
    for (int d = 16; d; d /= 2) {
      float y = __shfl_xor_sync(0xffffffffu, x, d);
      x = maximum ? fmaxf(x, y) : x + y;
    }
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    x = of_warp[0];
    for (int w = 1; w < warps; w++) x = maximum ? fmaxf(x, of_warp[w]) : x + of_warp[w];
    __syncthreads();
    return x;
  };
  float most = __int_as_float(0xff800000), sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, row[i]);
  most = over_block(most, true);
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __expf(row[i] - most);
  sum = over_block(sum, false);
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[(size_t)blockIdx.x * n + i] = __expf(row[i] - most) / sum;
}
