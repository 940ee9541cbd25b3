// The CUDA bodies of linear8.hpp.
#include "kernels/cuda/blas.hpp"
#include "kernels/linear8.hpp"

namespace photon::cuda {

void linear8_forward(const Context& ctx, const Quantized& x, const Quantized& w, const TensorView& y, Write write) {
  multiply(ctx, {.a = x.values,
                 .a_format = x.format,
                 .a_scale = x.scale,
                 .b = w.values,
                 .b_format = w.format,
                 .b_scale = w.scale,
                 .c = y,
                 .write = write,
                 .fast = true});
}

void linear8_backward_input(const Context& ctx, const Quantized& dy, const Quantized& w, const TensorView& dx,
                            Write write) {
  multiply(ctx, {.a = dy.values,
                 .a_format = dy.format,
                 .a_scale = dy.scale,
                 .b = w.transposed,
                 .b_format = w.format,
                 .b_scale = w.scale,
                 .c = dx,
                 .write = write});
}

void linear8_backward_weight(const Context& ctx, const Quantized& dy, const Quantized& x, const TensorView& dw,
                             Write write) {
  multiply(ctx, {.a = dy.transposed,
                 .a_format = dy.format,
                 .a_scale = dy.scale,
                 .b = x.transposed,
                 .b_format = x.format,
                 .b_scale = x.scale,
                 .c = dw,
                 .write = write});
}

}  // namespace photon::cuda
