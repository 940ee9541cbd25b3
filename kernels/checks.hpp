// Checks that every op makes of its tensors, in every build.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// The view holds `dtype` in the context's memory and has `rank` dims.
inline void expect_rank(const Context& ctx, const ConstTensorView& view, DType dtype, int rank, const char* what) {
  PHOTON_EXPECT(view.dtype() == dtype, "{} is {}, expected {}", what, name_of(view.dtype()), name_of(dtype));
  PHOTON_EXPECT(view.rank() == rank, "{} has shape {}, expected {} dims", what, view.shape().str(), rank);
  PHOTON_EXPECT(view.numel() == 0 || (view && view.space() == ctx.space),
                "{} lies in {} memory, the op runs in {} memory", what, view ? name_of(view.space()) : "no",
                name_of(ctx.space));
}

// The dtype of an op's activations, taken from `view`: f32, or bf16 on a device. The host computes in f32 only.
inline DType activation_type(const Context& ctx, const ConstTensorView& view, const char* what) {
  const DType dtype = view.dtype();
  PHOTON_EXPECT(dtype == DType::f32 || dtype == DType::bf16, "{} is {}, expected f32 or bf16", what, name_of(dtype));
  PHOTON_EXPECT(dtype == DType::f32 || ctx.space == Space::device,
                "{} is bf16, which ops on the host do not compute in, expected f32", what);
  return dtype;
}

// `dtype` of the activations, or f32: results of matrix products.
inline DType result_type(const ConstTensorView& view, DType activations) {
  return view.dtype() == DType::f32 ? DType::f32 : activations;
}

inline void expect_tensor(const Context& ctx, const ConstTensorView& view, DType dtype, const Shape& shape,
                          const char* what) {
  expect_rank(ctx, view, dtype, shape.rank(), what);
  expect_shape(view, shape, what);
}

// Where an op leaves the largest absolute value of its result, if anybody asks (devices only).
inline void expect_largest(const Context& ctx, const ConstTensorView& largest) {
  if (!largest) return;
  PHOTON_EXPECT(ctx.space == Space::device, "the largest value of a result in {} memory", name_of(ctx.space));
  expect_tensor(ctx, largest, DType::f32, {1}, "largest");
}

inline void expect_contiguous(const ConstTensorView& view, const char* what) {
  PHOTON_EXPECT(view.contiguous(), "{} of shape {} has strides {}, expected contiguous memory", what,
                view.shape().str(), view.strides().str());
}

}  // namespace photon
