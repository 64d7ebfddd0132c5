// Independent chains of dependent operations in registers: CHAINS of them hide the latency of one.
#pragma once

#include "ceilings/stream.cuh"

#ifndef CHAINS
#define CHAINS 8
#endif
#ifndef STEPS
#define STEPS 16   // of each chain in one turn of the loop
#endif

// A start for each chain and thread, between 0.5 and 1.
DEVICE float start_of(int chain) {
  unsigned word = (unsigned)(first_word() * CHAINS + chain) * 2654435761u;
  return __uint_as_float(0x3f000000u | word >> 9);
}
