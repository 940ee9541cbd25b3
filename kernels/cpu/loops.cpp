#include "kernels/cpu/loops.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

namespace photon::cpu {

namespace baseline {
extern const Loops table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Loops table;
}
namespace avx512 {
extern const Loops table;
}
#endif

const Loops* loops_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) {
    const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
    return here ? &avx512::table : nullptr;
  }
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::table : nullptr;
#endif
  return isa == Isa::baseline ? &baseline::table : nullptr;
}

namespace {

std::atomic<const Loops*>& current() {
  static std::atomic<const Loops*> chosen = [] {
    for (const Isa isa : {Isa::avx512, Isa::avx2}) {
      if (const Loops* l = loops_of(isa)) return l;
    }
    return loops_of(Isa::baseline);
  }();
  return chosen;
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};
struct Scratch {
  std::unique_ptr<float, Free> data;
  std::int64_t count = 0;
};

}  // namespace

const Loops& loops() {
  return *current().load(std::memory_order_relaxed);
}
void use_loops(const Loops& chosen) {
  current().store(&chosen, std::memory_order_relaxed);
}

float* thread_scratch(std::int64_t count) {
  thread_local Scratch scratch;
  if (scratch.count < count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(float) + 4095) / 4096 * 4096;
    scratch.data.reset();
    scratch.count = 0;
    scratch.data.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!scratch.data) throw std::bad_alloc();
    scratch.count = count;
  }
  return scratch.data.get();
}

}  // namespace photon::cpu
