// Fill, add and strided copy.
#pragma once

#include "kernels/linear.hpp"
#include "tensor/context.hpp"

namespace photon {

void fill(const Context& ctx, const TensorView& x, float value);  // f32 or bf16, contiguous

// to (+)= from, equal shapes of rank <= 4, both may be strided. f32 or bf16.
void copy_elements(const Context& ctx, const ConstTensorView& from, const TensorView& to, Write write = Write::replace);

// x *= factor, contiguous f32.
void scale(const Context& ctx, const TensorView& x, float factor);

// CUDA bodies: elementwise.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void fill(const Context& ctx, const TensorView& x, float value);
void copy_elements(const Context& ctx, const ConstTensorView& from, const TensorView& to, Write write);
void scale(const Context& ctx, const TensorView& x, float factor);
}  // namespace cuda

}  // namespace photon
