// The prelude of every kernel: element types, and all inline PTX behind functions with plain names.
//
// Macros a kernel is compiled with: HEAD_DIM, GROUP (query heads per KV head), ELEMENT_BF16 (0: fp16),
// OUTPUT_FP32 (0: the element type), and its own tile sizes. NVRTC has no standard library: nothing of it is used.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef ELEMENT_BF16
#define ELEMENT_BF16 0
#endif
#ifndef OUTPUT_FP32
#define OUTPUT_FP32 0
#endif

// Scores below this don't occur; a finite start of the running maximum keeps inf - inf out of the arithmetic.
#define LOWEST (-1e30f)
#define MINUS_INFINITY __int_as_float(0xff800000)
#define FULL_WARP 0xffffffffu
#define DEVICE __device__ __forceinline__

// Name the dynamic shared memory of a kernel, aligned for swizzled tiles and bulk copies.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

#if ELEMENT_BF16
typedef __nv_bfloat16 element;
DEVICE float to_float(element x) { return __bfloat162float(x); }
DEVICE element to_element(float x) { return __float2bfloat16_rn(x); }
DEVICE float low_of(unsigned pair) { return __uint_as_float(pair << 16); }
DEVICE float high_of(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE unsigned pack(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}
#else
typedef __half element;
DEVICE float to_float(element x) { return __half2float(x); }
DEVICE element to_element(float x) { return __float2half_rn(x); }
DEVICE float low_of(unsigned pair) { return __half2float(__ushort_as_half(pair & 0xffffu)); }
DEVICE float high_of(unsigned pair) { return __half2float(__ushort_as_half(pair >> 16)); }
DEVICE unsigned pack(float low, float high) {
  __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}
#endif

#if OUTPUT_FP32
typedef float output;
DEVICE output to_output(float x) { return x; }
#else
typedef element output;
DEVICE output to_output(float x) { return to_element(x); }
#endif

// Unpack the eight elements of a 16-byte load.
DEVICE void unpack(uint4 packed, float (&x)[8]) {
  x[0] = low_of(packed.x), x[1] = high_of(packed.x), x[2] = low_of(packed.y), x[3] = high_of(packed.y);
  x[4] = low_of(packed.z), x[5] = high_of(packed.z), x[6] = low_of(packed.w), x[7] = high_of(packed.w);
}

// Nanoseconds of the GPU's own timer, which all SMs share.
DEVICE unsigned long long nanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Count this thread in, and say whether it is the last of `count`; the last one leaves zero for the next launch.
// Fences are the caller's.
DEVICE bool arrives_last(int* counter, int count) {
  bool last = atomicAdd(counter, 1) == count - 1;
  if (last) *counter = 0;
  return last;
}

// 2^x in one instruction of the special function unit.
DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Sum, or take the maximum, over aligned groups of kLanes neighbouring lanes; every lane gets the result.
template <int kLanes> DEVICE float sum_over(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
  return x;
}
template <int kLanes> DEVICE float max_over(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
  return x;
}

// Read 16 bytes that nobody will read again: past L1, and fetch the rest of the 256-byte line into L2.
// NOTES: where `valid` is false it reads nothing and gives zeros, without a branch. A branch on the end of the sequence
// invites the compiler to duplicate the shuffles that follow into both sides, where the lanes of a warp no longer meet.
DEVICE uint4 load_once(const void* address, bool valid = true) {
  uint4 x;
  asm volatile("{\n"
               ".reg .pred valid;\n"
               "setp.ne.s32 valid, %5, 0;\n"
               "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
               "@valid ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               "}"
               : "=&r"(x.x), "=&r"(x.y), "=&r"(x.z), "=&r"(x.w)
               : "l"(address), "r"((int)valid));
  return x;
}

// Read one number, or give zero without a branch.
DEVICE float load_scale(const float* address, bool valid) {
  float x;
  asm volatile("{\n"
               ".reg .pred valid;\n"
               "setp.ne.s32 valid, %2, 0;\n"
               "mov.f32 %0, 0f00000000;\n"
               "@valid ld.global.nc.f32 %0, [%1];\n"
               "}"
               : "=&f"(x)
               : "l"(address), "r"((int)valid));
  return x;
}

// What to add to a score: nothing if the key counts, minus infinity if not; opaque for the same reason.
DEVICE float penalty_unless(bool valid) {
  float x;
  asm("{\n"
      ".reg .pred valid;\n"
      "setp.ne.s32 valid, %1, 0;\n"
      "selp.f32 %0, 0f00000000, 0fff800000, valid;\n"
      "}"
      : "=f"(x)
      : "r"((int)valid));
  return x;
}

DEVICE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// cp.async: 16 bytes from global to shared memory without a register; zeros where `valid` is false.
DEVICE void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending> DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ldmatrix: four 8x8 tiles of 16-bit elements; lane l names row l % 8 of tile l / 8.
DEVICE void load_matrix(unsigned (&tile)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void load_matrix_transposed(unsigned (&tile)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b on the tensor cores: a is 16x16 by rows, b 16x8 by columns, d 16x8 in fp32.
#define MMA_16(type)                                                                                     \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                            \
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                         \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
DEVICE void multiply_fp16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { MMA_16("f16"); }
DEVICE void multiply_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { MMA_16("bf16"); }
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if ELEMENT_BF16
  multiply_bf16(d, a, b0, b1);
#else
  multiply_fp16(d, a, b0, b1);
#endif
}

// The same on 8-bit integers, 32 deep: a is 16x32, b 32x8, d 16x8 in int32.
DEVICE void multiply_int8(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if __CUDA_ARCH__ >= 890
// Two e4m3 numbers, the low byte first, as two halves.
DEVICE unsigned halves_of_e4m3(unsigned short pair) {
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}
#endif

#if __CUDA_ARCH__ >= 900
// mbarrier: a barrier in shared memory that counts arriving threads and the bytes of bulk copies.
typedef unsigned long long barrier;
DEVICE void initialise(barrier* self, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(self)), "r"(arrivals) : "memory");
}
DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void arrive(barrier* self) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(self)) : "memory");
}
DEVICE void arrive_expecting(barrier* self, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(self)), "r"(bytes)
               : "memory");
}
// Wait until the barrier has completed the phase of this parity.
DEVICE void wait_for(barrier* self, int parity) {
  unsigned done = 0;
  while (!done)
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, done;\n"
                 "}"
                 : "=r"(done)
                 : "r"(shared_address(self)), "r"(parity)
                 : "memory");
}
// cp.async.bulk: the copy engine moves a contiguous run of bytes and reports them to the barrier.
DEVICE void copy_bulk(void* shared, const void* global, int bytes, barrier* report_to) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(report_to))
               : "memory");
}
#endif
