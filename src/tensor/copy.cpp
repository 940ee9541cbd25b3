#include <cstring>

#include "tensor/device.hpp"

namespace photon {

namespace device {
void copy_memory(const void* from, Space from_space, void* to, Space to_space, std::int64_t from_pitch, std::int64_t to_pitch,
                 std::int64_t row_bytes, std::int64_t rows);  // bytes; a 2-D copy
}

namespace {

void copy_host(const char* from, const Shape& from_strides, char* to, const Shape& to_strides, const Shape& shape, int dim,
               std::int64_t element) {
  if (dim == shape.rank() - 1) {
    std::memcpy(to, from, static_cast<std::size_t>(shape[dim] * element));
    return;
  }
  for (std::int64_t i = 0; i < shape[dim]; ++i) {
    copy_host(from + i * from_strides[dim] * element, from_strides, to + i * to_strides[dim] * element, to_strides, shape,
              dim + 1, element);
  }
}

}  // namespace

void copy(const ConstTensorView& from, const TensorView& to) {
  PHOTON_EXPECT(from.shape() == to.shape() && from.dtype() == to.dtype(), "copy of {} {} to {} {}", name_of(from.dtype()),
                from.shape().str(), name_of(to.dtype()), to.shape().str());
  if (from.numel() == 0) return;
  const auto element = static_cast<std::int64_t>(size_of(from.dtype()));
  const bool both_contiguous = from.contiguous() && to.contiguous();
  if (from.space() == Space::host && to.space() == Space::host) {
    if (both_contiguous) {
      std::memcpy(to.data(), from.data(), static_cast<std::size_t>(from.bytes()));
    } else {
      copy_host(static_cast<const char*>(from.data()), from.strides(), static_cast<char*>(to.data()), to.strides(),
                from.shape(), 0, element);
    }
    return;
  }
  if (both_contiguous) {
    device::copy_memory(from.data(), from.space(), to.data(), to.space(), from.bytes(), from.bytes(), from.bytes(), 1);
    return;
  }
  PHOTON_EXPECT(from.rank() == 2, "a strided device copy of {} (rank 2 only)", from.shape().str());
  device::copy_memory(from.data(), from.space(), to.data(), to.space(), from.stride(0) * element, to.stride(0) * element,
                      from.size(1) * element, from.size(0));
}

}  // namespace photon
