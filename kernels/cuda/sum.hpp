// The last step of ops that return a sum to the host.
#pragma once

#include "tensor/context.hpp"

namespace photon::cuda {

// The sum of values [n] f64 on the device, in an order that depends on n alone. Waits for the stream.
double sum_on_host(const Context& ctx, const ConstTensorView& values);

// dw[d] += sum_b partial[b, d], b ascending. partial [blocks, D] f32, dw [D] f32 or bf16.
void add_partial_rows(const Context& ctx, const ConstTensorView& partial, const TensorView& dw);

}  // namespace photon::cuda
