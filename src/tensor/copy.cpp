#include <array>
#include <cstring>

#include "tensor/device.hpp"

namespace photon {

namespace device {
void copy_memory(const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch,
                 std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows);  // bytes; a 2-D copy
// The same on a stream; contiguous host memory is read before it returns, host memory is written when it does.
void queue_copy(Stream stream, const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch,
                std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows);
}  // namespace device

namespace {

// Both views as four dims, so that the loops have a fixed depth: rows of the last dim are contiguous.
void copy_host(const ConstTensorView& from, const TensorView& to, std::int64_t element) {
  std::array<std::int64_t, max_rank> sizes;
  std::array<std::int64_t, max_rank> from_steps{};
  std::array<std::int64_t, max_rank> to_steps{};
  sizes.fill(1);
  for (int i = 0; i < from.rank(); ++i) {
    const auto at = static_cast<std::size_t>(max_rank - from.rank() + i);
    sizes[at] = from.size(i);
    from_steps[at] = from.stride(i) * element;
    to_steps[at] = to.stride(i) * element;
  }
  const auto* const source = static_cast<const char*>(from.data());
  auto* const target = static_cast<char*>(to.data());
  for (std::int64_t i = 0; i < sizes[0]; ++i) {
    for (std::int64_t j = 0; j < sizes[1]; ++j) {
      for (std::int64_t k = 0; k < sizes[2]; ++k) {
        std::memcpy(target + i * to_steps[0] + j * to_steps[1] + k * to_steps[2],
                    source + i * from_steps[0] + j * from_steps[1] + k * from_steps[2],
                    static_cast<std::size_t>(sizes[3] * element));
      }
    }
  }
}

// Calls device_copy(from_pitch, to_pitch, row_bytes, rows) unless both views lie on the host.
template <class DeviceCopy>
void copy_views(const ConstTensorView& from, const TensorView& to, DeviceCopy&& device_copy) {
  PHOTON_EXPECT(from.shape() == to.shape() && from.dtype() == to.dtype(), "copy of {} {} to {} {}",
                name_of(from.dtype()), from.shape().str(), name_of(to.dtype()), to.shape().str());
  if (from.numel() == 0) return;
  const auto element = static_cast<std::int64_t>(size_of(from.dtype()));
  const bool both_contiguous = from.contiguous() && to.contiguous();
  if (from.space() == Space::host && to.space() == Space::host) {
    if (both_contiguous) {
      std::memcpy(to.data(), from.data(), static_cast<std::size_t>(from.bytes()));
    } else {
      copy_host(from, to, element);
    }
    return;
  }
  if (both_contiguous) {
    device_copy(from.bytes(), from.bytes(), from.bytes(), std::int64_t{1});
    return;
  }
  PHOTON_EXPECT(from.rank() == 2, "a strided device copy of {} (rank 2 only)", from.shape().str());
  device_copy(from.stride(0) * element, to.stride(0) * element, from.size(1) * element, from.size(0));
}

}  // namespace

void copy(const ConstTensorView& from, const TensorView& to) {
  copy_views(from, to, [&](std::int64_t from_pitch, std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows) {
    device::copy_memory(from.data(), from.space(), to.data(), to.space(), from_pitch, to_pitch, row_bytes, rows);
  });
}

void copy(Stream stream, const ConstTensorView& from, const TensorView& to) {
  copy_views(from, to, [&](std::int64_t from_pitch, std::int64_t to_pitch, std::int64_t row_bytes, std::int64_t rows) {
    device::queue_copy(stream, from.data(), from.space(), to.data(), to.space(), from_pitch, to_pitch, row_bytes, rows);
  });
}

}  // namespace photon
