// The last step of ops that return a sum to the host.
#pragma once

#include "tensor/context.hpp"

namespace photon::cuda {

// The sum of values [n] f64 on the device, in an order that depends on n alone. Waits for the stream.
double sum_on_host(const Context& ctx, const ConstTensorView& values);

// The same sum, added to total [1] f64 on the device; nothing waits.
void add_sum(const Context& ctx, const ConstTensorView& values, const TensorView& total);

// dw[d] += sum_b partial[b, d], in an order that depends on the number of blocks alone. partial [blocks, D] f32, dw [D]
// f32 or bf16.
void add_partial_rows(const Context& ctx, const ConstTensorView& partial, const TensorView& dw);

}  // namespace photon::cuda
