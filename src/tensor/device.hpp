// GPUs behind plain functions: no CUDA type appears here, so every room may include it. A build without CUDA links
// bodies that throw NotConfigured (device.stub.cpp); with CUDA, device.device.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tensor/view.hpp"

namespace photon {

// A queue of device work, in order. The null stream value means the host: work is done when the call returns.
class Stream {
 public:
  Stream() = default;
  explicit Stream(void* handle) : handle_(handle) {}
  void* handle() const { return handle_; }  // a cudaStream_t

 private:
  void* handle_ = nullptr;
};

namespace device {

int count();                                                  // GPUs this process sees; 0 without CUDA, never throws
std::string name(int index);                                  // e.g. "NVIDIA H100 80GB HBM3"
void use(int index);                                          // makes this GPU the process's current one
void* allocate(std::int64_t bytes, const std::string& what);  // zero-filled
void release(void* data) noexcept;
void fill_bytes(void* data, int value, std::int64_t bytes);
Stream make_stream();
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);
// How this thread waits for a device from now on, wherever it has to: synchronize(), copies to the host, events. `wait`
// returns when `reached` holds. Whoever queues work that waits for other processes knows how to give up; CUDA's own
// wait would not. Null: by CUDA alone.
void set_wait(void (*wait)(const std::function<bool()>& reached));
// Host memory that copies reach at full speed and without waiting, from here to unpin().
void pin(void* data, std::int64_t bytes);
void unpin(void* data) noexcept;
// Of the current GPU's memory: what this process may still take, and what is taken, by whomever.
std::int64_t free_bytes();
std::int64_t used_bytes();
// From now on this process takes memory as if every GPU had no more than so many bytes: allocate() refuses what goes
// beyond, and free_bytes() does not count it. 0: no limit but the card.
void limit_memory(std::int64_t bytes);

}  // namespace device

// The memory that "auto", "cpu" or "cuda" stands for: auto is the GPU where this build and this machine have one.
// Errors: InputError for cuda without a GPU that can be used, and for other words.
Space space_of_device(const std::string& device);

// Copies between views of equal shape and dtype in any spaces; strides allowed on the host and, for rank <= 2, on the
// device. Returns when the destination may be read on the host.
void copy(const ConstTensorView& from, const TensorView& to);

// The same in the order of a stream: what is queued before it is done first, what is queued behind it sees the copy.
// From the host, `from` may be changed when this returns, and nothing waits; to the host, `to` may be read then.
// Between host views it is a plain copy.
void copy(Stream stream, const ConstTensorView& from, const TensorView& to);

}  // namespace photon
