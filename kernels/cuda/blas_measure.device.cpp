#include "kernels/cuda/blas_measure.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "tensor/cuda_check.hpp"

namespace photon::cuda {
namespace {

constexpr int repeats = 9;                                    // timed runs a candidate, after one that is not
constexpr std::int64_t cache_bytes = std::int64_t{64} << 20;  // more than an H100's second-level cache
constexpr double worthwhile = 0.985;  // the library's guess stands unless another is faster by more than noise
constexpr double promising = 1.3;     // a candidate this much slower than the best after one run gets no more

// Memory for the length of a measurement; nullptr when there is none to be had.
class Borrowed {
 public:
  explicit Borrowed(std::int64_t bytes) {
    if (cudaMalloc(&data_, static_cast<std::size_t>(bytes)) != cudaSuccess) {
      (void)cudaGetLastError();
      data_ = nullptr;
    }
  }
  ~Borrowed() { (void)cudaFree(data_); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

class Clock {
 public:
  Clock() {
    for (cudaEvent_t& event : events_) PHOTON_CUDA_CHECK(cudaEventCreate(&event));
  }
  ~Clock() {
    for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  void start(cudaStream_t stream) { PHOTON_CUDA_CHECK(cudaEventRecord(events_[0], stream)); }
  double stop(cudaStream_t stream) {  // microseconds
    PHOTON_CUDA_CHECK(cudaEventRecord(events_[1], stream));
    PHOTON_CUDA_CHECK(cudaEventSynchronize(events_[1]));
    float milliseconds = 0;
    PHOTON_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]));
    return 1e3 * static_cast<double>(milliseconds);
  }

 private:
  std::array<cudaEvent_t, 2> events_{};
};

}  // namespace

Measured fastest_algorithm(const Context& ctx, const std::vector<cublasLtMatmulAlgo_t>& candidates,
                           const RunProduct& run, std::int64_t result_bytes, std::int64_t operand_bytes) {
  Measured best{candidates.front(), 0};
  const bool cold = operand_bytes < cache_bytes;
  const Borrowed result(result_bytes);
  const Borrowed cache(cold ? cache_bytes : 1);
  if (result.data() == nullptr || cache.data() == nullptr) return best;
  const auto stream = static_cast<cudaStream_t>(ctx.stream.handle());
  Clock clock;
  struct Tried {
    std::vector<double> times;
    bool good = true;
    double median() {
      std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
      return times[times.size() / 2];
    }
  };
  std::vector<Tried> tried(candidates.size());
  // Round after round, so that a clock that changes on the way is everybody's.
  for (int round = 0; round <= repeats; ++round) {
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      if (!tried[i].good) continue;
      if (cold) PHOTON_CUDA_CHECK(cudaMemsetAsync(cache.data(), round, cache_bytes, stream));
      clock.start(stream);
      tried[i].good = run(candidates[i], result.data()) == CUBLAS_STATUS_SUCCESS;
      const double time = clock.stop(stream);
      if (!tried[i].good || round == 0) continue;  // the first round loads the kernels
      tried[i].times.push_back(time);
      least = std::min(least, time);
    }
    if (round != 1) continue;
    for (Tried& one : tried) one.good = one.good && one.times.front() <= promising * least;
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (!tried[i].good) continue;
    const double median = tried[i].median();
    if (best.microseconds == 0 || median < worthwhile * best.microseconds) best = {candidates[i], median};
  }
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(stream));
  return best;
}

}  // namespace photon::cuda
