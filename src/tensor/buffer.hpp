// Memory that is owned: buffers, tensors, and arenas whose size is known before they are used.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tensor/view.hpp"

namespace photon {

// Bytes in one space, aligned to 256; zero-filled when made. Move-only. Host buffers back CPU runs; device buffers need
// CUDA (NotConfigured otherwise). Running out of memory is an Error that says how much was wanted for what.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Space space, std::int64_t bytes, const std::string& what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Space space() const { return space_; }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Space space_ = Space::host;
};

// A contiguous tensor with memory of its own, zero-filled when made.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Space space, DType dtype, const Shape& shape, const std::string& what = "a tensor");

  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }       // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const { return view_; }  // NOLINT(google-explicit-constructor)
  const Shape& shape() const { return view_.shape(); }
  std::int64_t numel() const { return view_.numel(); }
  template <class T>
  T* host() const {
    return view_.host<T>();
  }

 private:
  Buffer buffer_;
  TensorView view_;
};

// A bump allocator over one buffer, for what lives as long as a step. Freed by rewinding to a mark, in reverse order.
class Arena {
 public:
  static constexpr std::int64_t alignment = 256;  // bytes, for every allocation
  // Bytes that `count` elements take in an arena, alignment included.
  static std::int64_t footprint(DType dtype, std::int64_t count);

  Arena() = default;
  Arena(Space space, std::int64_t capacity, const std::string& what);

  // Uninitialised memory, or all-ones bytes (NaN in every float type) under poison(). Errors: Error when full, with the
  // numbers: the plan was wrong.
  TensorView allocate(DType dtype, const Shape& shape);
  std::int64_t mark() const { return used_; }
  void rewind(std::int64_t mark);
  void poison(bool on) { poison_ = on; }

  Space space() const { return buffer_.space(); }
  std::int64_t used() const { return used_; }
  std::int64_t peak() const { return peak_; }  // the largest `used` so far, bytes
  std::int64_t capacity() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  std::string what_;
  std::int64_t used_ = 0;
  std::int64_t peak_ = 0;
  bool poison_ = false;
};

// An arena of at least `bytes`: the old one where it is large enough.
void ensure_arena(Arena& arena, Space space, std::int64_t bytes, const char* what);

// Rewinds an arena to where it stood.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::int64_t mark_;
};

}  // namespace photon
