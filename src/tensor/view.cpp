#include "tensor/view.hpp"

namespace photon {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::f16:
    case DType::bf16:
    case DType::u16:
      return 2;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::f64:
    case DType::i64:
    case DType::u64:
      return 8;
  }
  return 0;
}

std::string_view name_of(DType dtype) {
  constexpr std::array<std::string_view, 10> names = {"f32", "f64", "f16", "bf16", "i32",
                                                      "i64", "u8",  "u16", "u32",  "u64"};
  return names[static_cast<std::size_t>(dtype)];
}

std::string_view name_of(Space space) {
  return space == Space::host ? "host" : "device";
}

Shape::Shape(std::span<const std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  PHOTON_EXPECT(dims.size() <= max_rank, "a shape of {} dims", dims.size());
  int i = 0;
  for (const std::int64_t d : dims) {
    PHOTON_EXPECT(d >= 0, "a negative size {} in a shape", d);
    (*this)[i++] = d;
  }
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i) {
    if ((*this)[i] != other[i]) return false;
  }
  return true;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", (*this)[i]);
  return text + "]";
}

namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

// A shape of `rank` dims, all zero, to be filled in.
Shape blank(int rank) {
  constexpr std::array<std::int64_t, max_rank> zeros{};
  return Shape(std::span(zeros).first(static_cast<std::size_t>(rank)));
}

}  // namespace

template <bool Const>
BasicView<Const>::BasicView(Void* data, DType dtype, Space space, const Shape& shape)
    : BasicView(data, dtype, space, shape, contiguous_strides(shape)) {}

template <bool Const>
BasicView<Const>::BasicView(Void* data, DType dtype, Space space, const Shape& shape, const Shape& strides)
    : data_(data), dtype_(dtype), space_(space), shape_(shape), strides_(strides) {
  PHOTON_EXPECT(shape.rank() == strides.rank(), "shape {} with strides {}", shape.str(), strides.str());
  PHOTON_EXPECT(shape.rank() == 0 || strides[shape.rank() - 1] == 1, "strides {} (the last must be 1)", strides.str());
}

template <bool Const>
bool BasicView<Const>::contiguous() const {
  std::int64_t step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != step) return false;
    step *= shape_[i];
  }
  return true;
}

template <bool Const>
BasicView<Const> BasicView<Const>::slice(int dim, std::int64_t begin, std::int64_t count) const {
  PHOTON_EXPECT(dim >= 0 && dim < rank() && begin >= 0 && count >= 0 && begin + count <= shape_[dim],
                "slice {}+{} of dim {} of {}", begin, count, dim, shape_.str());
  BasicView view = *this;
  view.shape_[dim] = count;
  using Byte = std::conditional_t<Const, const char, char>;
  view.data_ = static_cast<Byte*>(data_) + begin * strides_[dim] * static_cast<std::int64_t>(size_of(dtype_));
  return view;
}

template <bool Const>
BasicView<Const> BasicView<Const>::reshape(const Shape& shape) const {
  PHOTON_EXPECT(contiguous() && shape.numel() == numel(), "reshape of {} (strides {}) to {}", shape_.str(),
                strides_.str(), shape.str());
  return BasicView(data_, dtype_, space_, shape);
}

template <bool Const>
BasicView<Const> BasicView<Const>::split(int dim, std::int64_t outer) const {
  PHOTON_EXPECT(dim >= 0 && dim < rank() && rank() < max_rank && outer > 0 && shape_[dim] % outer == 0,
                "split of dim {} of {} into {} parts", dim, shape_.str(), outer);
  Shape shape = blank(rank() + 1);
  Shape strides = shape;
  const std::int64_t inner = shape_[dim] / outer;
  for (int i = 0, o = 0; i < rank(); ++i, ++o) {
    shape[o] = shape_[i];
    strides[o] = strides_[i];
    if (i == dim) {
      shape[o] = outer;
      strides[o] = inner * strides_[i];
      ++o;
      shape[o] = inner;
      strides[o] = strides_[i];
    }
  }
  return BasicView(data_, dtype_, space_, shape, strides);
}

template <bool Const>
BasicView<Const> BasicView<Const>::merge(int dim) const {
  PHOTON_EXPECT(dim >= 0 && dim + 1 < rank(), "merge of dim {} of {}", dim, shape_.str());
  PHOTON_EXPECT(shape_[dim] == 1 || strides_[dim] == shape_[dim + 1] * strides_[dim + 1],
                "merge of dims {} and {} of {} with strides {}", dim, dim + 1, shape_.str(), strides_.str());
  Shape shape = blank(rank() - 1);
  Shape strides = shape;
  for (int i = 0, o = 0; i < rank(); ++i, ++o) {
    shape[o] = shape_[i];
    strides[o] = strides_[i];
    if (i == dim) {
      shape[o] = shape_[i] * shape_[i + 1];
      strides[o] = strides_[i + 1];
      ++i;
    }
  }
  return BasicView(data_, dtype_, space_, shape, strides);
}

template <bool Const>
void BasicView<Const>::expect_is(DType dtype, Space space) const {
  PHOTON_EXPECT(dtype == dtype_ && space == space_, "a {} tensor in {} memory used as {} in {} memory", name_of(dtype_),
                name_of(space_), name_of(dtype), name_of(space));
}

template class BasicView<true>;
template class BasicView<false>;

void expect_shape(const ConstTensorView& view, const Shape& shape, const char* what) {
  PHOTON_EXPECT(view.shape() == shape, "{} has shape {}, expected {}", what, view.shape().str(), shape.str());
}

}  // namespace photon
