// The CUDA bodies of linear8.hpp.
#include "kernels/cuda/blas.hpp"
#include "kernels/linear8.hpp"

namespace photon::cuda {
namespace {

// c = (added +) of a's and b's values or transposed ones, as given, both along the summed dim.
void product(const Context& ctx, const Quantized& a, const TensorView& a_rows, const Quantized& b,
             const TensorView& b_rows, const TensorView& c, const ConstTensorView& added, bool fast = false) {
  multiply(ctx, {.a = a_rows,
                 .a_format = a.format,
                 .a_scale = a.scale,
                 .b = b_rows,
                 .b_format = b.format,
                 .b_scale = b.scale,
                 .c = c,
                 .added = added,
                 .fast = fast});
}

}  // namespace

void linear8_forward(const Context& ctx, const Quantized& x, const Quantized& w, const TensorView& y,
                     const ConstTensorView& added) {
  product(ctx, x, x.values, w, w.values, y, added, true);
}

void linear8_backward_input(const Context& ctx, const Quantized& dy, const Quantized& w, const TensorView& dx,
                            Write write) {
  product(ctx, dy, dy.values, w, w.transposed, dx, added_by(write, dx));
}

void linear8_backward_weight(const Context& ctx, const Quantized& dy, const Quantized& x, const TensorView& dw,
                             Write write) {
  product(ctx, dy, dy.transposed, x, x.transposed, dw, added_by(write, dw));
}

}  // namespace photon::cuda
