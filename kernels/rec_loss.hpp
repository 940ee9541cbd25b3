// The recursive loss: how far a decoder's reconstruction is from the encoder's state.
#pragma once

#include "support/rec_distance.hpp"
#include "tensor/context.hpp"

namespace photon {

// Sum over the units u with mask[u] != 0 (all when empty) of d(y[u], x[u]); in double, in ascending order.
// The cosine's denominator is at least 1e-12.
//   y, x [U, D] (row strides allowed), mask [U] u8 or empty.
double rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                        const ConstTensorView& mask);

// The same, but the sum is added to total [1] f64 in the context's memory, and nothing waits for a device.
void add_rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                          const ConstTensorView& mask, const TensorView& total);

// dy += scale * d(sum)/dy; dx likewise unless empty (the stopped gradient). A cosine whose |y| |x| is below 1e-12
// passes no gradient: with fresh weights (start_latent 0) the first reconstruction of a sequence is exactly zero, and 1
// / |y| would drown every other gradient of the first steps.
void rec_loss_backward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                       const ConstTensorView& mask, double scale, const TensorView& dy, const TensorView& dx);

// CUDA bodies: rec_loss.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
double rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                        const ConstTensorView& mask);
void add_rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                          const ConstTensorView& mask, const TensorView& total);
void rec_loss_backward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                       const ConstTensorView& mask, double scale, const TensorView& dy, const TensorView& dx);
}  // namespace cuda

}  // namespace photon
