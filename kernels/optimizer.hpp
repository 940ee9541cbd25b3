// AdamW and the gradient's norm over flat buffers, one pass each.
#pragma once

#include "tensor/context.hpp"

namespace photon {

struct AdamWStep {
  double learning_rate;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;    // decoupled: the parameter shrinks by learning_rate * weight_decay first
  double gradient_scale;  // the clipping factor; the gradient is multiplied by it as it is read
  std::int64_t step;      // counted from 1, for bias correction
};

// All [n] f32, contiguous. p, m, v are updated; Loshchilov & Hutter, arXiv 1711.05101. `rounded` [n] bf16 gets the new
// p as ops of that dtype read it (devices only); it may be empty.
void adamw(const Context& ctx, const AdamWStep& step, const TensorView& p, const ConstTensorView& g,
           const TensorView& m, const TensorView& v, const TensorView& rounded = {});

// Sum of squares of an [n] f32 tensor, in double; fixed blocks in a fixed order, so the same bits for any number of
// threads. NaN or infinity in x gives a non-finite sum.
double sum_of_squares(const Context& ctx, const ConstTensorView& x);
// The same, added to total [1] f64 in the context's memory; nothing waits for a device.
void add_sum_of_squares(const Context& ctx, const ConstTensorView& x, const TensorView& total);

// CUDA bodies: optimizer.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void adamw(const Context& ctx, const AdamWStep& step, const TensorView& p, const ConstTensorView& g,
           const TensorView& m, const TensorView& v, const TensorView& rounded = {});
double sum_of_squares(const Context& ctx, const ConstTensorView& x);
void add_sum_of_squares(const Context& ctx, const ConstTensorView& x, const TensorView& total);
}  // namespace cuda

}  // namespace photon
