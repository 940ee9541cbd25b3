// The head and cross-entropy in one pass over blocks of rows: the [N, V] logits never exist whole. They are float32; in
// the backward pass of bf16 activations they are rounded to bf16, as activations are.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// For every row n with mask[n] != 0 (all rows when mask is empty): logits = w y[n], loss[n] = logsumexp(logits) -
// logits[targets[n]]. Returns the sum of the losses, in double, in ascending order of n.
//   y [N, D], w [V, D], targets [N] i32, mask [N] u8 or empty.
//   token_loss [N] f32 or empty: loss[n], 0 where masked.      argmax [N] i32 or empty: the lowest index of the largest
//   logit.
double head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                         const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& token_loss,
                         const TensorView& argmax);

// The same sum, and the gradients of scale * sum: dy [N, D] replaced (0 where masked), dw [V, D] accumulated.
double head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                          const TensorView& dy, const TensorView& dw);

// The same, but the sum is added to total [1] f64 in the context's memory, and nothing waits for a device.
void add_head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                           const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& total);
void add_head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                            const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                            const TensorView& dy, const TensorView& dw, const TensorView& total);

// CUDA bodies: head_loss.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
double head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                         const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& token_loss,
                         const TensorView& argmax);
double head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                          const TensorView& dy, const TensorView& dw);
void add_head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                           const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& total);
void add_head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                            const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                            const TensorView& dy, const TensorView& dw, const TensorView& total);
}  // namespace cuda

}  // namespace photon
