// Which BLAS? Times cblas_sgemm of a library given by its path, at the sizes of bench/RESULTS.md; GFLOP/s, best of 12.
//   g++ -O2 -std=c++20 -o build/sgemm bench/sgemm.cpp -ldl
//   OMP_NUM_THREADS=2 build/sgemm /usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <vector>

namespace {

using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
constexpr int row_major = 101;
constexpr int plain = 111;
constexpr int transposed = 112;

double best_gflops(Sgemm sgemm, int m, int n, int k) {
  std::vector<float> a(static_cast<std::size_t>(m) * static_cast<std::size_t>(k));
  std::vector<float> b(static_cast<std::size_t>(n) * static_cast<std::size_t>(k), 0.3F);
  std::vector<float> c(static_cast<std::size_t>(m) * static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
  double best = 0;
  for (int run = 0; run < 12; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    sgemm(row_major, plain, transposed, m, n, k, 1, a.data(), k, b.data(), k, 0, c.data(), n);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, 2e-9 * m * n * k / seconds);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: sgemm LIBRARY (the path of a shared BLAS)\n");
    return 2;
  }
  void* const library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  auto* const sgemm = library == nullptr ? nullptr : reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
  if (sgemm == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  constexpr std::array<std::array<int, 3>, 5> sizes = {
      {{1024, 1024, 1024}, {2048, 1408, 512}, {1792, 2816, 512}, {1792, 512, 1408}, {1408, 512, 1792}}};
  for (const auto& [m, n, k] : sizes) std::printf("%d x %d x %d: %.0f\n", m, n, k, best_gflops(sgemm, m, n, k));
  return 0;
}
