// x86-64 with AVX-512 (the foundation and the extensions of every server processor that has it).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/loops.hpp"  // before the target changes: its functions are everybody's

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define PHOTON_ISA avx512
#define PHOTON_ISA_NAME "avx512"
#define PHOTON_LANES 16
#include "kernels/cpu/loops_table.hpp"
#endif
