// Device memory and streams by the CUDA runtime.
#include "tensor/device.hpp"

#include <cuda_runtime.h>

#include "tensor/cuda_check.hpp"

namespace photon::device {
namespace {

cudaStream_t to_cuda(Stream stream) {
  return static_cast<cudaStream_t>(stream.handle());
}

// Fills and copies run on the default stream and may return before they are done; photon's own streams do not wait for
// it.
void finish_default_stream() {
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(nullptr));
}

}  // namespace

int count() {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    (void)cudaGetLastError();  // "no device" is an answer, not an error to find later
    return 0;
  }
  return n;
}

std::string name(int index) {
  cudaDeviceProp properties{};
  PHOTON_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  return properties.name;
}

void use(int index) {
  PHOTON_CUDA_CHECK(cudaSetDevice(index));
}

void* allocate(std::int64_t bytes, const std::string& what) {
  void* data = nullptr;
  const cudaError_t result = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    std::size_t free = 0;
    std::size_t total = 0;
    PHOTON_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    throw Error(fmt::format("{} bytes for {} could not be allocated on the GPU", bytes, what),
                fmt::format("{} of its {} bytes are free", free, total),
                "free the card from other programs, or use a smaller microbatch");
  }
  PHOTON_CUDA_CHECK(result);
  PHOTON_CUDA_CHECK(cudaMemset(data, 0, static_cast<std::size_t>(bytes)));
  finish_default_stream();
  return data;
}

void release(void* data) noexcept {
  (void)cudaFree(data);
}

void fill_bytes(void* data, int value, std::int64_t bytes) {
  PHOTON_CUDA_CHECK(cudaDeviceSynchronize());  // queued work may still use what is overwritten
  PHOTON_CUDA_CHECK(cudaMemset(data, value, static_cast<std::size_t>(bytes)));
  finish_default_stream();
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  PHOTON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

void destroy_stream(Stream stream) noexcept {
  (void)cudaStreamDestroy(to_cuda(stream));
}

void synchronize(Stream stream) {
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(to_cuda(stream)));
}

void copy_memory(const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch,
                 std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows) {
  const auto kind = from_space == Space::host
                        ? (to_space == Space::host ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice)
                        : (to_space == Space::host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice);
  PHOTON_CUDA_CHECK(cudaMemcpy2D(to, static_cast<std::size_t>(to_pitch), from, static_cast<std::size_t>(from_pitch),
                                 static_cast<std::size_t>(row_bytes), static_cast<std::size_t>(rows), kind));
  finish_default_stream();
}

}  // namespace photon::device
