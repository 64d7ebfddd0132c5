// Latency of a load: one thread follows a chain of addresses through memory.
//
// `link` turns a cycle of places into addresses once; `chase` follows them. Each step waits for the one before:
// clocks / steps is the latency of the level that holds the cycle.
// Bytes: `link` reads 4 and writes 8 for each element; `chase` reads 8 a step and writes 16.
//
// next [count]: the place that follows each place, a random cycle; chain [count * stride] of addresses, `stride`
// places of 8 bytes apart. link: grid ceil(count / THREADS). chase: one thread; clocks [2]: clocks taken, then the
// address reached.
#include "ceilings/stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    link(unsigned long long* chain, const unsigned* next, int count, int stride) {
  size i = first_word();
  if (i < count) chain[i * stride] = reinterpret_cast<unsigned long long>(chain + (size)next[i] * stride);
}

extern "C" __global__ void __launch_bounds__(1)
    chase(const unsigned long long* chain, int steps, unsigned long long* clocks) {
  unsigned long long at = reinterpret_cast<unsigned long long>(chain);
  long long before = clock64();
  for (int i = 0; i < steps; i++) at = load_address(at);

  // Reading the clock waits for the last address.
  clocks[1] = at;
  clocks[0] = clock64() - before;
}
