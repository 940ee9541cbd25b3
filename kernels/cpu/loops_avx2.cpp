// x86-64 with AVX2 and FMA.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/loops.hpp"  // before the target changes: its functions are everybody's

#pragma GCC target("avx2,fma")
#define PHOTON_ISA avx2
#define PHOTON_ISA_NAME "avx2"
#define PHOTON_LANES 8
#include "kernels/cpu/loops_table.hpp"
#endif
