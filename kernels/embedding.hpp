// Token embedding. Rows and table are f32, or bf16 on a device; the table's gradient is f32.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// out[n] = table[tokens[n]]. table [V, D], tokens [N] i32 in [0, V), out [N, D]. Errors: ContractError for a token
// outside the table (checked on the host only).
void embedding_forward(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                       const TensorView& out);

// dtable[tokens[n]] += dout[n], summed over n in ascending order whatever the number of threads. dtable [V, D].
void embedding_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& tokens,
                        const TensorView& dtable);

// CUDA bodies: embedding.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void embedding_forward(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                       const TensorView& out);
void embedding_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& tokens,
                        const TensorView& dtable);
}  // namespace cuda

}  // namespace photon
