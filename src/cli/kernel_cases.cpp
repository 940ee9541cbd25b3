#include "cli/kernel_cases.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/group_attention.hpp"
#include "kernels/group_rows.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/linear.hpp"
#include "kernels/norm.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/rec_loss.hpp"
#include "kernels/rope.hpp"
#include "kernels/swiglu.hpp"
#include "support/random.hpp"
#include "tensor/half.hpp"

namespace photon::cli {
namespace {

constexpr DType bf16 = DType::bf16;
constexpr DType f32 = DType::f32;

// photon-600m at 16 sequences of 2,048 tokens.
constexpr std::int64_t batch = 16;
constexpr std::int64_t width = 1536;
constexpr std::int64_t num_heads = 12;
constexpr std::int64_t head_width = 128;
constexpr std::int64_t ffn = 4096;
constexpr std::int64_t vocabulary = 32000;
constexpr std::int64_t tokens = 32768;
constexpr std::int64_t decoder_positions = 7;  // of a group: 4 prefix vectors, 3 units
constexpr std::int64_t chunk = 4;
constexpr std::int64_t level1_groups = 8192;
constexpr std::int64_t level2_groups = 2048;
constexpr std::int64_t decoder_rows = level1_groups * decoder_positions;
constexpr double eps = 1e-5;

// Values are drawn once and repeated; the odd length keeps rows from being equal.
constexpr std::int64_t drawn = (std::int64_t{1} << 20) + 8191;

double bytes_of(double bf16_elements, double f32_elements = 0) {
  return 2 * bf16_elements + 4 * f32_elements;
}

const Tensor& drawn_values(DType dtype) {
  static const auto draw = [](DType wanted) {
    const Tensor host(Space::host, wanted, {drawn});
    for (std::int64_t i = 0; i < drawn; ++i) {
      const auto x = static_cast<float>(0.5 * random_normal(1, 2, static_cast<std::uint64_t>(i)));
      if (wanted == f32) {
        host.host<float>()[i] = x;
      } else {
        host.host<bfloat16>()[i] = to_bfloat16(x);
      }
    }
    Tensor device(Space::device, wanted, {drawn}, "random values");
    copy(host.view(), device.view());
    return device;
  };
  static const Tensor floats = draw(f32);
  static const Tensor halves = draw(bf16);
  return dtype == f32 ? floats : halves;
}

const RopeTable& rope_table(std::int64_t num_positions) {
  static RopeTable table(head_width, 10000.0);
  table.reserve(Space::device, num_positions);
  return table;
}

TensorView heads_of(const TensorView& fused, std::int64_t groups, std::int64_t first, std::int64_t count) {
  return fused.slice(1, first * head_width, count * head_width).split(1, count).split(0, groups);
}

void add_group_attention(std::vector<KernelCase>& cases, std::int64_t groups, std::int64_t positions,
                         std::int64_t queries, bool rotated) {
  const std::string shape = fmt::format("{} groups, {} of {} positions, {} heads of {}{}", groups, queries, positions,
                                        num_heads, head_width, rotated ? ", rope fused" : "");
  const double q = static_cast<double>(groups * queries * width);
  const double k = static_cast<double>(groups * positions * width);
  const auto queries_of = [=](Operands& o, const TensorView& qkv, bool gradient) {
    if (queries == positions) return heads_of(qkv, groups, 0, num_heads);
    const Shape own{groups * queries, width};
    return heads_of(gradient ? o.zeros(bf16, own) : o.values(bf16, own), groups, 0, num_heads);
  };
  cases.push_back({"group_attention_forward", shape, bytes_of(2 * q + 2 * k), 0, [=](Operands& o) -> Call {
                     const TensorView qkv = o.values(bf16, {groups * positions, 3 * width});
                     const TensorView queried = queries_of(o, qkv, false);
                     const TensorView out = o.zeros(bf16, {groups, queries, num_heads, head_width});
                     const RopeTable* const table = rotated ? &rope_table(4096) : nullptr;
                     return [=](const Context& ctx) {
                       cuda::group_attention_forward(ctx, queried, heads_of(qkv, groups, num_heads, num_heads),
                                                     heads_of(qkv, groups, 2 * num_heads, num_heads), out, table);
                     };
                   }});
  cases.push_back({"group_attention_backward", shape, bytes_of(3 * q + 4 * k), 0, [=](Operands& o) -> Call {
                     const TensorView qkv = o.values(bf16, {groups * positions, 3 * width});
                     const TensorView queried = queries_of(o, qkv, false);
                     const TensorView dqkv = o.zeros(bf16, {groups * positions, 3 * width});
                     const TensorView dq = queries_of(o, dqkv, true);
                     const TensorView dout = o.values(bf16, {groups, queries, num_heads, head_width});
                     const RopeTable* const table = rotated ? &rope_table(4096) : nullptr;
                     return [=](const Context& ctx) {
                       cuda::group_attention_backward(ctx, queried, heads_of(qkv, groups, num_heads, num_heads),
                                                      heads_of(qkv, groups, 2 * num_heads, num_heads), dout, dq,
                                                      heads_of(dqkv, groups, num_heads, num_heads),
                                                      heads_of(dqkv, groups, 2 * num_heads, num_heads), table);
                     };
                   }});
}

void add_norms(std::vector<KernelCase>& cases) {
  const std::string shape = fmt::format("{} x {}", decoder_rows, width);
  const Shape rows{decoder_rows, width};
  const double n = static_cast<double>(decoder_rows * width);
  cases.push_back({"rms_norm_forward", shape, bytes_of(2 * n), 0, [=](Operands& o) -> Call {
                     const TensorView x = o.values(bf16, rows);
                     const TensorView y = o.zeros(bf16, rows);
                     const TensorView w = o.values(f32, {width});
                     const TensorView rstd = o.zeros(f32, {decoder_rows});
                     return [=](const Context& ctx) { cuda::rms_norm_forward(ctx, x, w, eps, y, rstd); };
                   }});
  cases.push_back({"rms_norm_backward", shape + ", accumulated", bytes_of(4 * n), 0, [=](Operands& o) -> Call {
                     const TensorView dy = o.values(bf16, rows);
                     const TensorView x = o.values(bf16, rows);
                     const TensorView dx = o.values(bf16, rows);
                     const TensorView w = o.values(f32, {width});
                     const TensorView rstd = o.values(f32, {decoder_rows});
                     const TensorView dw = o.zeros(f32, {width});
                     return [=](const Context& ctx) { cuda::rms_norm_backward(ctx, dy, x, w, rstd, dx, dx, dw); };
                   }});
  cases.push_back({"rms_norm_backward", shape + ", accumulated, with y", bytes_of(5 * n), 0, [=](Operands& o) -> Call {
                     const TensorView dy = o.values(bf16, rows);
                     const TensorView x = o.values(bf16, rows);
                     const TensorView dx = o.values(bf16, rows);
                     const TensorView y = o.zeros(bf16, rows);
                     const TensorView w = o.values(f32, {width});
                     const TensorView rstd = o.values(f32, {decoder_rows});
                     const TensorView dw = o.zeros(f32, {width});
                     return [=](const Context& ctx) { cuda::rms_norm_backward(ctx, dy, x, w, rstd, dx, dx, dw, y); };
                   }});
}

void add_swiglu(std::vector<KernelCase>& cases) {
  const std::string shape = fmt::format("{} x {}", decoder_rows, ffn);
  const double n = static_cast<double>(decoder_rows * ffn);
  cases.push_back({"swiglu_forward", shape, bytes_of(3 * n), 0, [=](Operands& o) -> Call {
                     const TensorView gate_up = o.values(bf16, {decoder_rows, 2 * ffn});
                     const TensorView out = o.zeros(bf16, {decoder_rows, ffn});
                     return [=](const Context& ctx) { cuda::swiglu_forward(ctx, gate_up, out); };
                   }});
  cases.push_back({"swiglu_backward", shape, bytes_of(5 * n), 0, [=](Operands& o) -> Call {
                     const TensorView gate_up = o.values(bf16, {decoder_rows, 2 * ffn});
                     const TensorView dout = o.values(bf16, {decoder_rows, ffn});
                     return [=](const Context& ctx) { cuda::swiglu_backward(ctx, dout, gate_up, gate_up, {}); };
                   }});
  cases.push_back({"swiglu_backward", shape + ", activation again", bytes_of(6 * n), 0, [=](Operands& o) -> Call {
                     const TensorView gate_up = o.values(bf16, {decoder_rows, 2 * ffn});
                     const TensorView dout = o.values(bf16, {decoder_rows, ffn});
                     return [=](const Context& ctx) { cuda::swiglu_backward(ctx, dout, gate_up, gate_up, dout); };
                   }});
}

void add_rows(std::vector<KernelCase>& cases) {
  const std::int64_t units = batch * 512;
  const double stream = static_cast<double>(units * 2 * width);
  cases.push_back({"rope", fmt::format("{} x {} heads of {}", units, 2 * num_heads, head_width), bytes_of(2 * stream),
                   0, [=](Operands& o) -> Call {
                     const TensorView qkv = o.values(bf16, {units, 3 * width});
                     const RopeTable& table = rope_table(4096);
                     return [=, &table](const Context& ctx) {
                       const TensorView qk = qkv.slice(1, 0, 2 * width).split(1, 2 * num_heads).split(0, batch);
                       cuda::rope(ctx, table, qk, Rotation::forward);
                     };
                   }});
  const std::string shape = fmt::format("{} groups of {} + {} positions x {}", level1_groups, chunk, chunk - 1, width);
  const double out_elements = static_cast<double>(decoder_rows * width);
  const Shape prefix{level1_groups, chunk, width};
  const Shape content{batch, tokens / batch, width};
  const Shape out_shape{level1_groups, decoder_positions, width};
  cases.push_back({"decoder_rows_forward", shape, bytes_of(2 * out_elements), 0, [=](Operands& o) -> Call {
                     const TensorView u = o.values(bf16, prefix);
                     const TensorView x = o.values(bf16, content);
                     const TensorView out = o.zeros(bf16, out_shape);
                     return [=](const Context& ctx) { cuda::decoder_rows_forward(ctx, u, x, 0, out); };
                   }});
  // The content's gradient is read, added to and written; its last unit of a group receives nothing.
  cases.push_back({"decoder_rows_backward", shape,
                   bytes_of(2 * out_elements + static_cast<double>(level1_groups * (chunk - 1) * width)), 0,
                   [=](Operands& o) -> Call {
                     const TensorView dout = o.values(bf16, out_shape);
                     const TensorView du = o.zeros(bf16, prefix);
                     const TensorView dx = o.values(bf16, content);
                     return [=](const Context& ctx) { cuda::decoder_rows_backward(ctx, dout, 0, du, dx); };
                   }});
  const Shape states{batch, 512, width};
  const double state_elements = static_cast<double>(states.numel());
  const std::string state_shape = fmt::format("{} x {} x {}", batch, 512, width);
  cases.push_back({"shift_forward", state_shape, bytes_of(2 * state_elements), 0, [=](Operands& o) -> Call {
                     const TensorView x = o.values(bf16, states);
                     const TensorView start = o.values(bf16, {width});
                     const TensorView c = o.zeros(bf16, states);
                     return [=](const Context& ctx) { cuda::shift_forward(ctx, x, start, c); };
                   }});
  cases.push_back({"shift_backward", state_shape, bytes_of(3 * state_elements), 0, [=](Operands& o) -> Call {
                     const TensorView dc = o.values(bf16, states);
                     const TensorView dx = o.values(bf16, states);
                     const TensorView dstart = o.zeros(f32, {width});
                     return [=](const Context& ctx) { cuda::shift_backward(ctx, dc, dx, dstart); };
                   }});
  cases.push_back(
      {"fill", fmt::format("{} x {}", decoder_rows, width), bytes_of(out_elements), 0, [=](Operands& o) -> Call {
         const TensorView x = o.zeros(bf16, {decoder_rows, width});
         return [=](const Context& ctx) { cuda::fill(ctx, x, 0.0F); };
       }});
  const double last = static_cast<double>(level1_groups * chunk * width);
  const auto last_rows = [](const TensorView& x) { return x.slice(1, decoder_positions - chunk, chunk); };
  cases.push_back({"copy_elements",
                   fmt::format("last {} of {} x {} x {}", chunk, level1_groups, decoder_positions, width),
                   bytes_of(2 * last), 0, [=](Operands& o) -> Call {
                     const TensorView from = o.values(bf16, out_shape);
                     const TensorView to = o.zeros(bf16, prefix);
                     return [=](const Context& ctx) { cuda::copy_elements(ctx, last_rows(from), to, Write::replace); };
                   }});
  cases.push_back({"copy_elements", fmt::format("f32 to bf16, {} x {}", decoder_rows, width),
                   bytes_of(out_elements, out_elements), 0, [=](Operands& o) -> Call {
                     const TensorView from = o.values(f32, {decoder_rows, width});
                     const TensorView to = o.zeros(bf16, {decoder_rows, width});
                     return [=](const Context& ctx) { cuda::copy_elements(ctx, from, to, Write::replace); };
                   }});
}

void add_embedding(std::vector<KernelCase>& cases) {
  const std::string shape = fmt::format("{} of {} x {}", tokens, vocabulary, width);
  const double n = static_cast<double>(tokens * width);
  cases.push_back({"embedding_forward", shape, bytes_of(2 * n), 0, [=](Operands& o) -> Call {
                     const TensorView table = o.values(bf16, {vocabulary, width});
                     const TensorView ids = o.integers({tokens}, vocabulary);
                     const TensorView out = o.zeros(bf16, {tokens, width});
                     return [=](const Context& ctx) { cuda::embedding_forward(ctx, table, ids, out); };
                   }});
  // Uniform ids touch a share of 1 - exp(-tokens / vocabulary) of the table, read and written.
  const double touched = static_cast<double>(vocabulary * width) *
                         (1 - std::exp(-static_cast<double>(tokens) / static_cast<double>(vocabulary)));
  cases.push_back({"embedding_backward", shape, bytes_of(n, 2 * touched), 0, [=](Operands& o) -> Call {
                     const TensorView dout = o.values(bf16, {tokens, width});
                     const TensorView ids = o.integers({tokens}, vocabulary);
                     const TensorView dtable = o.zeros(f32, {vocabulary, width});
                     return [=](const Context& ctx) { cuda::embedding_backward(ctx, dout, ids, dtable); };
                   }});
}

void add_product(std::vector<KernelCase>& cases, const std::string& what, std::int64_t rows, std::int64_t inputs,
                 std::int64_t outputs) {
  const std::string shape = fmt::format("{}: {} x {} x {}", what, rows, inputs, outputs);
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(inputs * outputs);
  const double activations = static_cast<double>(rows * (inputs + outputs));
  const double weights = static_cast<double>(inputs * outputs);
  cases.push_back({"linear_forward", shape, bytes_of(activations + weights), flops, [=](Operands& o) -> Call {
                     const TensorView x = o.values(bf16, {rows, inputs});
                     const TensorView w = o.values(bf16, {outputs, inputs});
                     const TensorView y = o.zeros(bf16, {rows, outputs});
                     return [=](const Context& ctx) { cuda::linear_forward(ctx, x, w, y); };
                   }});
  cases.push_back({"linear_backward_input", shape, bytes_of(activations + weights), flops, [=](Operands& o) -> Call {
                     const TensorView dy = o.values(bf16, {rows, outputs});
                     const TensorView w = o.values(bf16, {outputs, inputs});
                     const TensorView dx = o.zeros(bf16, {rows, inputs});
                     return [=](const Context& ctx) { cuda::linear_backward_input(ctx, dy, w, dx, Write::replace); };
                   }});
  cases.push_back(
      {"linear_backward_weight", shape, bytes_of(activations, 2 * weights), flops, [=](Operands& o) -> Call {
         const TensorView dy = o.values(bf16, {rows, outputs});
         const TensorView x = o.values(bf16, {rows, inputs});
         const TensorView dw = o.zeros(f32, {outputs, inputs});
         return [=](const Context& ctx) { cuda::linear_backward_weight(ctx, dy, x, dw, Write::accumulate); };
       }});
}

void add_losses(std::vector<KernelCase>& cases) {
  const std::string shape = fmt::format("{} x {} x {}", tokens, width, vocabulary);
  const double product = 2.0 * static_cast<double>(tokens * width) * static_cast<double>(vocabulary);
  const double operands = static_cast<double>((tokens + vocabulary) * width);
  cases.push_back({"head_loss_forward", shape, bytes_of(operands), product, [=](Operands& o) -> Call {
                     const TensorView y = o.values(bf16, {tokens, width});
                     const TensorView w = o.values(bf16, {vocabulary, width});
                     const TensorView targets = o.integers({tokens}, vocabulary);
                     return [=](const Context& ctx) { cuda::head_loss_forward(ctx, y, w, targets, {}, {}, {}); };
                   }});
  cases.push_back({"head_loss_backward", shape, bytes_of(2 * operands, 2.0 * static_cast<double>(vocabulary * width)),
                   3 * product, [=](Operands& o) -> Call {
                     const TensorView y = o.values(bf16, {tokens, width});
                     const TensorView w = o.values(bf16, {vocabulary, width});
                     const TensorView targets = o.integers({tokens}, vocabulary);
                     const TensorView dy = o.zeros(bf16, {tokens, width});
                     const TensorView dw = o.zeros(f32, {vocabulary, width});
                     return [=](const Context& ctx) {
                       cuda::head_loss_backward(ctx, y, w, targets, {}, 1.0 / static_cast<double>(tokens), dy, dw);
                     };
                   }});
  const Shape states{batch * 512, width};
  const double n = static_cast<double>(states.numel());
  const std::string state_shape = fmt::format("cosine, {} x {}", batch * 512, width);
  cases.push_back({"rec_loss_forward", state_shape, bytes_of(2 * n), 0, [=](Operands& o) -> Call {
                     const TensorView y = o.values(bf16, states);
                     const TensorView x = o.values(bf16, states);
                     return [=](const Context& ctx) { cuda::rec_loss_forward(ctx, RecDistance::cosine, y, x, {}); };
                   }});
  cases.push_back({"rec_loss_backward", state_shape, bytes_of(6 * n), 0, [=](Operands& o) -> Call {
                     const TensorView y = o.values(bf16, states);
                     const TensorView x = o.values(bf16, states);
                     const TensorView dy = o.values(bf16, states);
                     const TensorView dx = o.values(bf16, states);
                     return [=](const Context& ctx) {
                       cuda::rec_loss_backward(ctx, RecDistance::cosine, y, x, {}, 1e-3, dy, dx);
                     };
                   }});
}

void add_optimizer(std::vector<KernelCase>& cases) {
  const std::int64_t n = std::int64_t{1} << 28;
  const AdamWStep step{.learning_rate = 1e-5,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .eps = 1e-8,
                       .weight_decay = 0.1,
                       .gradient_scale = 1.0,
                       .step = 100};
  cases.push_back(
      {"adamw", fmt::format("{} f32", n), bytes_of(0, 7.0 * static_cast<double>(n)), 0, [=](Operands& o) -> Call {
         const TensorView p = o.values(f32, {n});
         const TensorView g = o.values(f32, {n});
         const TensorView m = o.zeros(f32, {n});
         const TensorView v = o.zeros(f32, {n});
         return [=](const Context& ctx) { cuda::adamw(ctx, step, p, g, m, v); };
       }});
  cases.push_back(
      {"sum_of_squares", fmt::format("{} f32", n), bytes_of(0, static_cast<double>(n)), 0, [=](Operands& o) -> Call {
         const TensorView x = o.values(f32, {n});
         return [=](const Context& ctx) { cuda::sum_of_squares(ctx, x); };
       }});
}

}  // namespace

Operands::Operands() = default;

TensorView Operands::add(Tensor tensor) {
  tensors_.push_back(std::move(tensor));
  return tensors_.back().view();
}

TensorView Operands::values(DType dtype, const Shape& shape) {
  const TensorView flat = add(Tensor(Space::device, dtype, {shape.numel()}, "operands"));
  const std::int64_t first = static_cast<std::int64_t>(next_++ % 64) * 1024;  // operands differ from each other
  const TensorView source = drawn_values(dtype).view().slice(0, first, drawn - first);
  for (std::int64_t at = 0; at < flat.numel(); at += source.numel()) {
    const std::int64_t count = std::min(source.numel(), flat.numel() - at);
    copy(source.slice(0, 0, count), flat.slice(0, at, count));
  }
  return flat.reshape(shape);
}

TensorView Operands::zeros(DType dtype, const Shape& shape) {
  return add(Tensor(Space::device, dtype, shape, "operands"));
}

TensorView Operands::integers(const Shape& shape, std::int32_t below) {
  const Tensor host(Space::host, DType::i32, shape);
  for (std::int64_t i = 0; i < host.numel(); ++i) {
    host.host<std::int32_t>()[i] = static_cast<std::int32_t>(random_bits(3, next_, static_cast<std::uint64_t>(i)) %
                                                             static_cast<std::uint64_t>(below));
  }
  ++next_;
  const TensorView device = zeros(DType::i32, shape);
  copy(host.view(), device);
  return device;
}

std::vector<KernelCase> kernel_cases() {
  std::vector<KernelCase> cases;
  add_group_attention(cases, level1_groups, decoder_positions, decoder_positions, false);
  add_group_attention(cases, level1_groups, decoder_positions, decoder_positions, true);
  add_group_attention(cases, level1_groups, decoder_positions, chunk, true);
  add_group_attention(cases, level2_groups, decoder_positions, decoder_positions, true);
  // Longer groups, of about as many positions in all.
  for (const std::int64_t longer : {16, 32, 64}) {
    add_group_attention(cases, 2 * tokens / longer, longer, longer, true);
  }
  add_attention_cases(cases);
  add_norms(cases);
  add_swiglu(cases);
  add_rows(cases);
  add_embedding(cases);
  add_product(cases, "qkv", decoder_rows, width, 3 * width);
  add_product(cases, "o", decoder_rows, width, width);
  add_product(cases, "gate_up", decoder_rows, width, 2 * ffn);
  add_product(cases, "down", decoder_rows, ffn, width);
  add_float8_cases(cases);
  add_losses(cases);
  add_optimizer(cases);
  return cases;
}

}  // namespace photon::cli
