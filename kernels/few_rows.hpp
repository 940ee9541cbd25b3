// The products of a layer for a handful of rows, where reading the weight is all the time there is: each reads it once
// at the speed of memory, fused with what stands around it, so that a layer is few launches.
#pragma once

#include "tensor/context.hpp"

namespace photon {

inline constexpr std::int64_t most_few_rows = 8;

// Whether these ops are the way to go for products of `rows` rows with `w`: few rows in bf16 on a device, not
// deterministic (a row's bits are others than those of many rows), and a width they take.
bool few_rows_apply(const Context& ctx, std::int64_t rows, const ConstTensorView& w);

// Below, x [N, K] and y have N <= most_few_rows rows, which may be strided; sums are f32, rounded once.

// y = rms_norm(x; norm, eps) W^T. w [O, K], norm [K] f32, y [N, O].
void few_norm_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& y);
// act = silu(g) * u with [g | u] = rms_norm(x; norm, eps) W^T. w [2F, K], act [N, F].
void few_norm_swiglu(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& act);
// y = residual + x W^T; no residual where it is empty. y [N, O] in x's dtype or f32, and may alias the residual.
void few_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& residual,
                const TensorView& y);

// y = rms_norm(x; norm, eps) alone.
void few_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
              const TensorView& y);

// CUDA bodies: few_rows.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void few_norm_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& y);
void few_norm_swiglu(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& act);
void few_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& residual,
                const TensorView& y);
void few_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
              const TensorView& y);
bool few_rows_possible();  // whether the current device has what they are made of (Hopper)
}  // namespace cuda

}  // namespace photon
