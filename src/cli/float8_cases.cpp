// The cases of `photon bench kernels` with 8-bit floats.
#include <fmt/format.h>

#include "cli/kernel_cases.hpp"
#include "kernels/linear8.hpp"

namespace photon::cli {
namespace {

// photon-600m at 16 sequences of 2,048 tokens: rows of the decoder and of the encoder of level 1.
constexpr std::int64_t decoder_rows = 57344;
constexpr std::int64_t encoder_rows = 8192;
constexpr std::int64_t width = 1536;
constexpr std::int64_t ffn = 4096;

Quantized room_for(Operands& o, Float8 format, std::int64_t rows, std::int64_t columns) {
  return {format, o.zeros(DType::u8, {rows, columns}), o.zeros(DType::u8, {columns, rows}), o.zeros(DType::f32, {1})};
}

// Fills its operands when it is called first, which is not timed.
class Product8Call {
 public:
  Product8Call(Operands& o, Float8 format, const Shape& a, const Shape& b)
      : from_a_(o.values(DType::bf16, a)),
        from_b_(o.values(DType::bf16, b)),
        a_(room_for(o, format, a[0], a[1])),
        b_(room_for(o, Float8::e4m3, b[0], b[1])) {}

  template <class Op>
  Call then(Op op) {
    auto ready = std::make_shared<bool>(false);
    return [self = *this, ready, op](const Context& ctx) {
      if (!*ready) {
        cuda::quantize(ctx, self.from_a_, self.a_, {});
        cuda::quantize(ctx, self.from_b_, self.b_, {});
        *ready = true;
      }
      op(ctx, self.a_, self.b_);
    };
  }

 private:
  ConstTensorView from_a_;
  ConstTensorView from_b_;
  Quantized a_;
  Quantized b_;
};

void add_products(std::vector<KernelCase>& cases, const std::string& what, std::int64_t rows, std::int64_t inputs,
                  std::int64_t outputs) {
  const std::string shape = fmt::format("{}: {} x {} x {}", what, rows, inputs, outputs);
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(inputs * outputs);
  const auto x = static_cast<double>(rows * inputs);
  const auto y = static_cast<double>(rows * outputs);
  const auto w = static_cast<double>(inputs * outputs);
  cases.push_back({"linear8_forward", shape, x + w + 2 * y, flops, [=](Operands& o) -> Call {
                     const TensorView to = o.zeros(DType::bf16, {rows, outputs});
                     return Product8Call(o, Float8::e4m3, {rows, inputs}, {outputs, inputs})
                         .then([=](const Context& ctx, const Quantized& a, const Quantized& b) {
                           cuda::linear8_forward(ctx, a, b, to);
                         });
                   }});
  cases.push_back({"linear8_backward_input", shape, y + w + 2 * x, flops, [=](Operands& o) -> Call {
                     const TensorView to = o.zeros(DType::bf16, {rows, inputs});
                     return Product8Call(o, Float8::e5m2, {rows, outputs}, {outputs, inputs})
                         .then([=](const Context& ctx, const Quantized& a, const Quantized& b) {
                           cuda::linear8_backward_input(ctx, a, b, to, Write::replace);
                         });
                   }});
  cases.push_back({"linear8_backward_weight", shape, x + y + 8 * w, flops, [=](Operands& o) -> Call {
                     const TensorView to = o.zeros(DType::f32, {outputs, inputs});
                     return Product8Call(o, Float8::e5m2, {rows, outputs}, {rows, inputs})
                         .then([=](const Context& ctx, const Quantized& a, const Quantized& b) {
                           cuda::linear8_backward_weight(ctx, a, b, to, Write::accumulate);
                         });
                   }});
}

void add_quantize(std::vector<KernelCase>& cases, std::int64_t rows, std::int64_t columns) {
  const auto n = static_cast<double>(rows * columns);
  const auto add = [&](const char* what, double bytes, bool known, bool values, bool transposed) {
    cases.push_back({"quantize", fmt::format("{} x {}{}", rows, columns, what), bytes * n, 0, [=](Operands& o) -> Call {
                       const TensorView x = o.values(DType::bf16, {rows, columns});
                       Quantized to = room_for(o, Float8::e4m3, rows, columns);
                       if (!values) to.values = {};
                       if (!transposed) to.transposed = {};
                       const TensorView largest = known ? o.values(DType::f32, {1}) : TensorView();
                       return [=](const Context& ctx) { cuda::quantize(ctx, x, to, largest); };
                     }});
  };
  add("", 6, false, true, true);
  add(", largest element known", 4, true, true, true);
  add(", known, not transposed", 3, true, true, false);
  add(", known, transposed alone", 3, true, false, true);
}

}  // namespace

void add_float8_cases(std::vector<KernelCase>& cases) {
  add_quantize(cases, decoder_rows, width);
  add_quantize(cases, decoder_rows, 2 * ffn);
  add_quantize(cases, encoder_rows, width);
  for (const std::int64_t rows : {decoder_rows, encoder_rows}) {
    add_products(cases, "qkv", rows, width, 3 * width);
    add_products(cases, "o", rows, width, width);
    add_products(cases, "gate_up", rows, width, 2 * ffn);
    add_products(cases, "down", rows, ffn, width);
  }
}

}  // namespace photon::cli
