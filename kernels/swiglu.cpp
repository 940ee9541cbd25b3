#include "kernels/swiglu.hpp"

#include <algorithm>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

void swiglu_forward(const Context& ctx, const ConstTensorView& gate_up, const TensorView& out,
                    const TensorView& largest) {
  expect_rank(ctx, out, activation_type(ctx, out, "out"), 2, "out");
  expect_tensor(ctx, gate_up, out.dtype(), {out.size(0), 2 * out.size(1)}, "gate_up");
  expect_largest(ctx, largest);
  if (ctx.space == Space::device) return cuda::swiglu_forward(ctx, gate_up, out, largest);
  if (out.numel() == 0) return;
  const std::int64_t width = out.size(1);
  const float* from = gate_up.host<float>();
  float* to = out.host<float>();
#pragma omp parallel for schedule(static) if (out.numel() > 4096)
  for (std::int64_t n = 0; n < out.size(0); ++n) {
    const float* row = from + n * gate_up.stride(0);
    cpu::loops().swiglu_forward(row, row + width, width, to + n * out.stride(0));
  }
}

void swiglu_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& gate_up,
                     const TensorView& dgate_up, const TensorView& out, const TensorView& largest) {
  expect_rank(ctx, dout, activation_type(ctx, dout, "dout"), 2, "dout");
  expect_tensor(ctx, gate_up, dout.dtype(), {dout.size(0), 2 * dout.size(1)}, "gate_up");
  expect_tensor(ctx, dgate_up, dout.dtype(), gate_up.shape(), "dgate_up");
  if (out) expect_tensor(ctx, out, dout.dtype(), dout.shape(), "out");
  expect_largest(ctx, largest);
  if (ctx.space == Space::device) return cuda::swiglu_backward(ctx, dout, gate_up, dgate_up, out, largest);
  if (dout.numel() == 0) return;
  const std::int64_t width = dout.size(1);
  const float* grad = dout.host<float>();
  const float* from = gate_up.host<float>();
  float* to = dgate_up.host<float>();
  constexpr std::int64_t block = 256;  // elements, so that out may alias dout and dgate_up may alias gate_up
#pragma omp parallel for schedule(static) if (dout.numel() > 4096)
  for (std::int64_t n = 0; n < dout.size(0); ++n) {
    const float* row = from + n * gate_up.stride(0);
    float* drow = to + n * dgate_up.stride(0);
    const float* slope = grad + n * dout.stride(0);
    if (!out) {
      cpu::loops().swiglu_backward(slope, row, row + width, width, drow, drow + width);
      continue;
    }
    float* result = out.host<float>() + n * out.stride(0);
    float activation[block];
    for (std::int64_t f = 0; f < width; f += block) {
      const std::int64_t count = std::min(block, width - f);
      cpu::loops().swiglu_forward(row + f, row + width + f, count, activation);
      cpu::loops().swiglu_backward(slope + f, row + f, row + width + f, count, drow + f, drow + width + f);
      std::copy_n(activation, count, result + f);
    }
  }
}

}  // namespace photon
