#include "tensor/buffer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "tensor/device.hpp"

namespace photon {
namespace {

std::int64_t round_up(std::int64_t bytes) {
  return (bytes + Arena::alignment - 1) / Arena::alignment * Arena::alignment;
}

}  // namespace

Buffer::Buffer(Space space, std::int64_t bytes, const std::string& what) : bytes_(bytes), space_(space) {
  PHOTON_EXPECT(bytes >= 0, "a buffer of {} bytes", bytes);
  const std::int64_t wanted = std::max(round_up(bytes), Arena::alignment);
  if (space == Space::device) {
    data_ = device::allocate(wanted, what);
    return;
  }
  data_ = std::aligned_alloc(Arena::alignment, static_cast<std::size_t>(wanted));
  if (data_ == nullptr) {
    throw Error(fmt::format("{} bytes for {} could not be allocated", wanted, what), "the host is out of memory",
                "use a smaller model, batch or sequence length");
  }
  std::memset(data_, 0, static_cast<std::size_t>(wanted));
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (space_ == Space::device) {
    device::release(data_);
  } else {
    std::free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), space_(other.space_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(space_, other.space_);
  return *this;
}

Tensor::Tensor(Space space, DType dtype, const Shape& shape, const std::string& what)
    : buffer_(space, shape.numel() * static_cast<std::int64_t>(size_of(dtype)), what),
      view_(buffer_.data(), dtype, space, shape) {}

std::int64_t Arena::footprint(DType dtype, std::int64_t count) {
  return round_up(count * static_cast<std::int64_t>(size_of(dtype)));
}

Arena::Arena(Space space, std::int64_t capacity, const std::string& what)
    : buffer_(space, capacity, what), what_(what) {}

TensorView Arena::allocate(DType dtype, const Shape& shape) {
  const std::int64_t bytes = footprint(dtype, shape.numel());
  if (used_ + bytes > capacity()) {
    throw Error(fmt::format("the arena for {} is full", what_),
                fmt::format("{} bytes wanted, {} of {} in use", bytes, used_, capacity()),
                "please report this as a defect in photon: the planned size was too small");
  }
  void* const data = static_cast<char*>(buffer_.data()) + used_;
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  if (poison_) {
    if (space() == Space::host) {
      std::memset(data, 0xff, static_cast<std::size_t>(bytes));
    } else {
      device::fill_bytes(data, 0xff, bytes);
    }
  }
  return TensorView(data, dtype, space(), shape);
}

void Arena::rewind(std::int64_t mark) {
  PHOTON_EXPECT(mark >= 0 && mark <= used_, "rewind of an arena to {} of {} bytes", mark, used_);
  used_ = mark;
}

void ensure_arena(Arena& arena, Space space, std::int64_t bytes, const char* what) {
  if (arena.space() == space && arena.capacity() >= bytes) return;
  arena = Arena();  // the old memory goes first
  arena = Arena(space, bytes, what);
}

}  // namespace photon
