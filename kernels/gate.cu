// The gate: holds the stream until the host opens it, and reads the SM clock meanwhile.
//
// Whatever is enqueued behind it starts without waiting for the host. `opened` is pinned host memory; the gate lasts
// `least_ns` at least, so that the clock is read well, and gives up after `limit_ns`.
//
// clocks [2]: SM clocks and nanoseconds that passed. grid (1), 1 thread.
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(1)
    gate(const volatile unsigned* opened, unsigned turn, unsigned long long least_ns, unsigned long long limit_ns,
         unsigned long long* clocks) {
  unsigned long long start_ns = nanoseconds(), passed_ns = 0;
  long long start = clock64();
  while ((*opened != turn || passed_ns < least_ns) && passed_ns < limit_ns) passed_ns = nanoseconds() - start_ns;
  clocks[0] = clock64() - start;
  clocks[1] = nanoseconds() - start_ns;
}
