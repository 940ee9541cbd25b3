// Device memory and streams by the CUDA runtime.
#include "tensor/device.hpp"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "tensor/cuda_check.hpp"
#include "tensor/cuda_wait.hpp"

namespace photon::device {
namespace {

cudaStream_t to_cuda(Stream stream) {
  return static_cast<cudaStream_t>(stream.handle());
}

thread_local void (*wait_by)(const std::function<bool()>& reached) = nullptr;

// Until what the stream holds now is done.
void wait_for_stream(Stream stream) {
  thread_local cudaEvent_t mark = nullptr;  // never given back: a thread may end after the CUDA runtime has
  if (mark == nullptr) PHOTON_CUDA_CHECK(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming));
  PHOTON_CUDA_CHECK(cudaEventRecord(mark, to_cuda(stream)));
  wait_for_event(mark);
}

std::int64_t most_bytes = 0;  // limit_memory()

struct Memory {
  std::int64_t free = 0;
  std::int64_t total = 0;
};

Memory memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  PHOTON_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)};
}

// Fills and copies run on the default stream and may return before they are done; photon's own streams do not wait for
// it.
void finish_default_stream() {
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(nullptr));
}

// Pinned host memory through which small host tensors reach a stream: the caller's memory is free at once, and neither
// side waits unless all slots are still on their way. One a thread.
class Staging {
 public:
  static Staging& current() {
    thread_local Staging staging;
    return staging;
  }

  void send(Stream stream, const void* from, void* to, std::int64_t bytes) {
    Slot& slot = slots_[next_];
    next_ = (next_ + 1) % slots_.size();
    if (slot.sent == nullptr) {
      PHOTON_CUDA_CHECK(cudaEventCreateWithFlags(&slot.sent, cudaEventDisableTiming));
    } else {
      wait_for_event(slot.sent);
    }
    if (slot.memory.bytes < bytes) exchange(slot.memory, bytes);
    std::memcpy(slot.memory.data, from, static_cast<std::size_t>(bytes));
    PHOTON_CUDA_CHECK(cudaMemcpyAsync(to, slot.memory.data, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice,
                                      to_cuda(stream)));
    PHOTON_CUDA_CHECK(cudaEventRecord(slot.sent, to_cuda(stream)));
  }

 private:
  // Never given back: a thread may end after the CUDA runtime has, and while the device works CUDA would wait for it,
  // and so for whatever that waits for.
  struct Memory {
    void* data = nullptr;
    std::int64_t bytes = 0;
  };
  struct Slot {
    Memory memory;
    cudaEvent_t sent = nullptr;
  };

  // Larger memory for a slot, which another one may have outgrown. Powers of two: what lies spare is less than what is
  // used.
  void exchange(Memory& memory, std::int64_t bytes) {
    const auto fits = std::find_if(spare_.begin(), spare_.end(), [&](const Memory& m) { return m.bytes >= bytes; });
    if (fits != spare_.end()) return std::swap(memory, *fits);
    if (memory.data != nullptr) spare_.push_back(memory);
    memory.bytes =
        std::max<std::int64_t>(4096, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(bytes))));
    PHOTON_CUDA_CHECK(cudaMallocHost(&memory.data, static_cast<std::size_t>(memory.bytes)));
  }

  std::array<Slot, 32> slots_;
  std::vector<Memory> spare_;
  std::size_t next_ = 0;
};

constexpr std::int64_t most_staged = std::int64_t{4} << 20;  // larger ones go directly and may wait

cudaMemcpyKind kind_of(Space from, Space to) {
  if (from == Space::host) return to == Space::host ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice;
  return to == Space::host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice;
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
  if (most_bytes > 0 && used_bytes() + bytes > most_bytes) {
    throw Error(fmt::format("{} bytes for {} go beyond the limit of this GPU's memory", bytes, what),
                fmt::format("{} of the {} bytes that it may use are taken", used_bytes(), most_bytes),
                "raise --memory-limit, or use a smaller batch or model");
  }
  const cudaError_t result = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(fmt::format("{} bytes for {} could not be allocated on the GPU", bytes, what),
                fmt::format("{} of its {} bytes are free", memory().free, memory().total),
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

void set_wait(void (*wait)(const std::function<bool()>& reached)) {
  wait_by = wait;
}

void wait_for_event(cudaEvent_t event) {
  const auto reached = [event] {
    const cudaError_t result = cudaEventQuery(event);
    if (result == cudaErrorNotReady) {
      (void)cudaGetLastError();
      return false;
    }
    PHOTON_CUDA_CHECK(result);
    return true;
  };
  if (wait_by != nullptr && !reached()) wait_by(reached);
  PHOTON_CUDA_CHECK(cudaEventSynchronize(event));
}

void synchronize(Stream stream) {
  if (wait_by != nullptr) wait_for_stream(stream);
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(to_cuda(stream)));
}

void pin(void* data, std::int64_t bytes) {
  PHOTON_CUDA_CHECK(cudaHostRegister(data, static_cast<std::size_t>(bytes), cudaHostRegisterDefault));
}

void unpin(void* data) noexcept {
  (void)cudaHostUnregister(data);
}

void copy_memory(const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch,
                 std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows) {
  const cudaMemcpyKind kind = kind_of(from_space, to_space);
  if (rows == 1) {  // a pitch is limited to 2 GiB
    PHOTON_CUDA_CHECK(cudaMemcpy(to, from, static_cast<std::size_t>(row_bytes), kind));
  } else {
    PHOTON_CUDA_CHECK(cudaMemcpy2D(to, static_cast<std::size_t>(to_pitch), from, static_cast<std::size_t>(from_pitch),
                                   static_cast<std::size_t>(row_bytes), static_cast<std::size_t>(rows), kind));
  }
  finish_default_stream();
}

void queue_copy(Stream stream, const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch,
                std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows) {
  if (from_space == Space::host && rows == 1 && row_bytes <= most_staged) {
    return Staging::current().send(stream, from, to, row_bytes);
  }
  // To pageable memory, CUDA waits inside the copy.
  if (to_space == Space::host && wait_by != nullptr) wait_for_stream(stream);
  const cudaMemcpyKind kind = kind_of(from_space, to_space);
  if (rows == 1) {
    PHOTON_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<std::size_t>(row_bytes), kind, to_cuda(stream)));
  } else {
    PHOTON_CUDA_CHECK(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_pitch), from,
                                        static_cast<std::size_t>(from_pitch), static_cast<std::size_t>(row_bytes),
                                        static_cast<std::size_t>(rows), kind, to_cuda(stream)));
  }
  // Pageable host memory may still be read, and host memory is not yet written.
  if (from_space == Space::host || to_space == Space::host) synchronize(stream);
}

std::int64_t free_bytes() {
  const Memory now = memory();
  if (most_bytes == 0) return now.free;
  return std::clamp<std::int64_t>(most_bytes - (now.total - now.free), 0, now.free);
}

std::int64_t used_bytes() {
  const Memory now = memory();
  return now.total - now.free;
}

void limit_memory(std::int64_t bytes) {
  most_bytes = bytes;
}

}  // namespace photon::device
