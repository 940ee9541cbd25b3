// Device work that is recorded once and launched many times, and what lets a host run beside it. Like device.hpp, no
// CUDA type appears here; a build without CUDA links bodies that throw (graph.stub.cpp).
#pragma once

#include <cstdint>
#include <functional>

#include "tensor/device.hpp"

namespace photon {

// A recorded run of a stream (a CUDA graph). It holds addresses, not memory: destroy it before what it uses. Move-only.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  // Records what `body` queues on `stream`, without running it. The body must not wait for the stream, allocate device
  // memory or read results. What it throws is thrown again, and nothing stays recorded.
  static Graph record(Stream stream, const std::function<void()>& body);

  explicit operator bool() const { return handle_ != nullptr; }
  void launch(Stream stream) const;
  std::int64_t num_nodes() const { return num_nodes_; }

 private:
  void* handle_ = nullptr;  // a cudaGraphExec_t
  std::int64_t num_nodes_ = 0;
};

// A point in a stream. Move-only.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  void record(Stream stream);
  void wait() const;  // until everything queued before record() is done; returns at once when never recorded
  bool reached() const;
  void hold(Stream stream) const;  // what is queued on the stream later runs after the point
  // Seconds of device time from `begin` to this point; waits until both are reached.
  double seconds_since(const Event& begin) const;

 private:
  void* handle_ = nullptr;  // a cudaEvent_t
};

// Page-locked host memory, which a device writes while the host goes on. Zero-filled, move-only.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(std::int64_t bytes, const std::string& what);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

// Queues a copy of contiguous device memory into pinned host memory: to be read after an event recorded behind it.
void queue_read(Stream stream, const ConstTensorView& from, void* to);

}  // namespace photon
