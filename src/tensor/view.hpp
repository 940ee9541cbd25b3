// Tensor views: memory someone else owns, with space, dtype, shape and strides. "dim" is of a tensor; "axis" is of the
// mesh.
#pragma once

#include <array>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "support/error.hpp"
#include "tensor/types.hpp"

namespace photon {

inline constexpr int max_rank = 4;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);  // at most max_rank of them
  int rank() const { return rank_; }
  std::int64_t operator[](int dim) const { return dims_[static_cast<std::size_t>(dim)]; }
  std::int64_t& operator[](int dim) { return dims_[static_cast<std::size_t>(dim)]; }
  std::int64_t numel() const;
  bool operator==(const Shape& other) const;
  std::string str() const;  // "[2, 3]"

 private:
  std::array<std::int64_t, max_rank> dims_{};
  int rank_ = 0;
};

// A strided view; strides count elements and the last one is 1. `Const` views read, others write. Copying a view copies
// no data. Element access checks space and dtype once, when the typed pointer is taken.
template <bool Const>
class BasicView {
 public:
  using Void = std::conditional_t<Const, const void, void>;
  template <class T>
  using Element = std::conditional_t<Const, const T, T>;

  BasicView() = default;
  // A contiguous view of `data`.
  BasicView(Void* data, DType dtype, Space space, const Shape& shape);
  BasicView(Void* data, DType dtype, Space space, const Shape& shape, const Shape& strides);
  // NOLINTNEXTLINE(google-explicit-constructor): a writable view may be read.
  template <bool Other>
  requires(Const && !Other) BasicView(const BasicView<Other>& other)
      : data_(other.data()),
        dtype_(other.dtype()),
        space_(other.space()),
        shape_(other.shape()),
        strides_(other.strides()) {}

  explicit operator bool() const { return data_ != nullptr; }
  Void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  Space space() const { return space_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  std::int64_t size(int dim) const { return shape_[dim]; }
  std::int64_t stride(int dim) const { return strides_[dim]; }
  std::int64_t numel() const { return shape_.numel(); }
  std::int64_t bytes() const { return numel() * static_cast<std::int64_t>(size_of(dtype_)); }
  bool contiguous() const;

  // Typed access. Errors: ContractError when dtype or space differ.
  template <class T>
  Element<T>* host() const {
    expect_is(dtype_of<T>, Space::host);
    return static_cast<Element<T>*>(data_);
  }
  template <class T>
  DevicePtr<Element<T>> device() const {
    expect_is(dtype_of<T>, Space::device);
    return DevicePtr<Element<T>>(static_cast<Element<T>*>(data_));
  }

  // Units begin .. begin+count-1 along `dim`.
  BasicView slice(int dim, std::int64_t begin, std::int64_t count) const;
  // The same elements under another shape. Errors: ContractError when not contiguous or of another size.
  BasicView reshape(const Shape& shape) const;
  // Splits `dim` into [outer, inner] (outer * inner = size), e.g. [N, H*hd] -> [N, H, hd]. Works on strided views.
  BasicView split(int dim, std::int64_t outer) const;
  // Joins dims `dim` and `dim + 1`, which must lie evenly in memory (stride[dim] = size[dim+1] * stride[dim+1]).
  BasicView merge(int dim) const;

 private:
  void expect_is(DType dtype, Space space) const;

  Void* data_ = nullptr;
  DType dtype_ = DType::f32;
  Space space_ = Space::host;
  Shape shape_;
  Shape strides_;
};

extern template class BasicView<true>;
extern template class BasicView<false>;

using TensorView = BasicView<false>;
using ConstTensorView = BasicView<true>;

// Throws ContractError naming `what` unless the view has exactly this shape.
void expect_shape(const ConstTensorView& view, const Shape& shape, const char* what);

// Views of plain host arrays, e.g. a std::vector's data.
template <class T>
TensorView host_view(T* data, const Shape& shape) {
  return TensorView(data, dtype_of<T>, Space::host, shape);
}
template <class T>
ConstTensorView host_view(const T* data, const Shape& shape) {
  return ConstTensorView(data, dtype_of<T>, Space::host, shape);
}

}  // namespace photon
