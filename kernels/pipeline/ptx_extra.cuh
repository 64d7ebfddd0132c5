// Inline PTX that only the small kernels and the ceilings need; what the attention kernels need is in ptx.cuh.
#pragma once

#include "ptx.cuh"

// Read 16 bytes from L2, past L1.
DEVICE uint4 load_l2(const void* address) {
  uint4 x;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

// Read 16 bytes of shared memory, each time anew: volatile, or the assembler keeps one of several equal loads.
DEVICE uint4 load_shared(unsigned address) {
  uint4 x;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address));
  return x;
}

// Read an address, each time anew, through all caches.
DEVICE unsigned long long load_address(unsigned long long from) {
  unsigned long long x;
  asm volatile("ld.global.ca.u64 %0, [%1];" : "=l"(x) : "l"(from) : "memory");
  return x;
}

#if __CUDA_ARCH__ >= 890
// d += a b on e4m3 numbers, 32 deep: a is 16x32 by rows, b 32x8 by columns, d 16x8 in fp32.
DEVICE void multiply_e4m3(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// wgmma: matrix products of a warpgroup on operands in shared memory, asynchronous until waited for.
DEVICE void fence_warpgroup() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit_warpgroup() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> DEVICE void wait_warpgroup() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Make writes of shared memory visible to the asynchronous units.
DEVICE void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Describe an operand tile of rows of 128 bytes, K inside a row, swizzled by 128 bytes; the tile is aligned to 1024.
DEVICE unsigned long long describe_tile(const void* tile) {
  unsigned long long address = (shared_address(tile) & 0x3ffff) >> 4;
  return address | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// d += a b in bf16: a is 64x16, b N x16, both by descriptor, d 64xN in fp32, N/2 registers a thread.
#define LIST_32                                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "    \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LIST_64                                                                                                  \
  LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, "    \
          "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LIST_128                                                                                                 \
  LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, "    \
          "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, "    \
          "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "     \
          "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FLOATS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FLOATS_16(i) FLOATS_4(i), FLOATS_4(i + 4), FLOATS_4(i + 8), FLOATS_4(i + 12)
#define FLOATS_32(i) FLOATS_16(i), FLOATS_16(i + 16)
#define WARPGROUP_MULTIPLY(n, list, a_operand, b_operand, one_operand, ...)                                      \
  DEVICE void multiply_warpgroup(float (&d)[n / 2], unsigned long long a, unsigned long long b) {                \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " one_operand ", 0;\n"                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" list "}, " a_operand ", " b_operand \
                 ", add, 1, 1, 0, 0;\n}"                                                                         \
                 : __VA_ARGS__                                                                                   \
                 : "l"(a), "l"(b), "r"(1));                                                                      \
  }
WARPGROUP_MULTIPLY(64, LIST_32, "%32", "%33", "%34", FLOATS_32(0))
WARPGROUP_MULTIPLY(128, LIST_64, "%64", "%65", "%66", FLOATS_32(0), FLOATS_32(32))
WARPGROUP_MULTIPLY(256, LIST_128, "%128", "%129", "%130", FLOATS_32(0), FLOATS_32(32), FLOATS_32(64), FLOATS_32(96))
#endif
