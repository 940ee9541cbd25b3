// The cases of bench kernels for attention along streams and against caches.
#include <fmt/format.h>

#include <algorithm>

#include "cli/kernel_cases.hpp"
#include "kernels/attention.hpp"
#include "kernels/attention_step.hpp"
#include "kernels/cache_attention.hpp"

namespace photon::cli {
namespace {

constexpr DType bf16 = DType::bf16;

struct StreamCase {
  std::int64_t sequences, length, heads, key_heads, width, window;

  std::string text() const {
    return fmt::format("{} x {} positions, {}/{} heads of {}{}", sequences, length, heads, key_heads, width,
                       window > 0 ? fmt::format(", window {}", window) : "");
  }
  std::int64_t columns() const { return (heads + 2 * key_heads) * width; }
  TensorView part(const TensorView& qkv, std::int64_t first, std::int64_t count) const {
    return qkv.slice(2, first * width, count * width).split(2, count);
  }
  TensorView q(const TensorView& qkv) const { return part(qkv, 0, heads); }
  TensorView k(const TensorView& qkv) const { return part(qkv, heads, key_heads); }
  TensorView v(const TensorView& qkv) const { return part(qkv, heads + key_heads, key_heads); }
  // Operations of one product of scores, as model FLOPs are counted: half of the square, or the window's band.
  double product() const {
    const auto n = static_cast<double>(length);
    const auto w = static_cast<double>(window);
    const double pairs = window > 0 ? n * w - w * w / 2 : n * n / 2;
    return 2.0 * static_cast<double>(sequences * heads * width) * pairs;
  }
};

void add_stream(std::vector<KernelCase>& cases, const StreamCase& s) {
  const auto rows = static_cast<double>(s.sequences * s.length);
  const double q_bytes = 2 * rows * static_cast<double>(s.heads * s.width);
  const double k_bytes = 2 * rows * static_cast<double>(s.key_heads * s.width);
  const Shape fused{s.sequences, s.length, s.columns()};
  const Shape heads{s.sequences, s.length, s.heads, s.width};
  const Shape sums{s.sequences, s.heads, s.length};
  cases.push_back(
      {"stream_attention_forward", s.text(), 2 * q_bytes + 2 * k_bytes, 2 * s.product(), [=](Operands& o) -> Call {
         const TensorView qkv = o.values(bf16, fused);
         const TensorView out = o.zeros(bf16, heads);
         const TensorView lse = o.zeros(DType::f32, sums);
         return [=](const Context& ctx) {
           cuda::stream_attention_forward(ctx, s.q(qkv), s.k(qkv), s.v(qkv), s.window, out, lse);
         };
       }});
  cases.push_back(
      {"stream_attention_backward", s.text(), 4 * q_bytes + 4 * k_bytes, 5 * s.product(), [=](Operands& o) -> Call {
         const TensorView qkv = o.values(bf16, fused);
         const TensorView dqkv = o.zeros(bf16, fused);
         const TensorView out = o.values(bf16, heads);
         const TensorView dout = o.values(bf16, heads);
         const TensorView lse = o.values(DType::f32, sums);
         const auto table = std::make_shared<RopeTable>(s.width, 10000.0);
         table->reserve(Space::device, s.length);
         return [=](const Context& ctx) {
           cuda::stream_attention_backward(ctx, s.q(qkv), s.k(qkv), s.v(qkv), out, lse, dout, s.window, s.q(dqkv),
                                           s.k(dqkv), s.v(dqkv), table.get());
         };
       }});
}

TensorView device_integers(Operands& o, std::int64_t count, std::int32_t first, std::int32_t step) {
  const Tensor host(Space::host, DType::i32, {count});
  for (std::int64_t i = 0; i < count; ++i) {
    host.host<std::int32_t>()[i] = first + step * static_cast<std::int32_t>(i);
  }
  const TensorView device = o.zeros(DType::i32, {count});
  copy(host.view(), device);
  return device;
}

// One position a row against full caches.
void add_cache(std::vector<KernelCase>& cases, std::int64_t rows, std::int64_t heads, std::int64_t key_heads,
               std::int64_t width, std::int64_t capacity, bool local) {
  const std::string shape =
      fmt::format("{} rows, {}/{} heads of {}, {} positions", rows, heads, key_heads, width, capacity);
  const double bytes = 4.0 * static_cast<double>(rows * width) * static_cast<double>(capacity * key_heads + heads);
  const Shape cache{rows, capacity, key_heads, width};
  const Shape one{rows, 1, heads, width};
  const auto last = static_cast<std::int32_t>(capacity - 1);
  cases.push_back({"cache_attention", shape, bytes, 0, [=](Operands& o) -> Call {
                     const TensorView k = o.values(bf16, cache);
                     const TensorView v = o.values(bf16, cache);
                     const TensorView q = o.values(bf16, one);
                     const TensorView out = o.zeros(bf16, one);
                     const TensorView slot = device_integers(o, rows, 0, 1);
                     const TensorView first = device_integers(o, rows, last, 0);
                     return [=](const Context& ctx) { cuda::cache_attention(ctx, q, k, v, slot, first, 0, out); };
                   }});
  cases.push_back({"attention_step", shape, bytes, 0, [=](Operands& o) -> Call {
                     auto table = std::make_shared<RopeTable>(width, 10000.0);
                     table->reserve(Space::device, capacity);
                     const TensorView qkv = o.values(bf16, {rows, heads + 2 * key_heads, width});
                     const auto part = [=](std::int64_t begin, std::int64_t count) {
                       return qkv.slice(1, begin, count).split(0, rows);
                     };
                     const AttentionStep step{.q = part(0, heads),
                                              .k = part(heads, key_heads),
                                              .v = part(heads + key_heads, key_heads),
                                              .slot = device_integers(o, rows, 0, 1),
                                              .first = device_integers(o, rows, last, 0),
                                              .cache_k = o.values(bf16, cache),
                                              .cache_v = o.values(bf16, cache),
                                              .local = local,
                                              .out = o.zeros(bf16, one)};
                     return [=](const Context& ctx) { cuda::attention_step(ctx, *table, step); };
                   }});
}

}  // namespace

void add_attention_cases(std::vector<KernelCase>& cases) {
  for (const StreamCase& s : {StreamCase{16, 512, 12, 12, 128, 0},
                              {16, 2048, 12, 12, 128, 0},
                              {1, 16384, 12, 12, 128, 0},
                              {1, 65536, 12, 12, 128, 0},
                              {1, 65536, 12, 12, 128, 1024},
                              {1, 16384, 12, 4, 128, 0},
                              {16, 2048, 24, 24, 64, 0},
                              {1, 16384, 24, 24, 64, 0},
                              {1, 65536, 24, 24, 64, 0}}) {
    add_stream(cases, s);
  }
  add_cache(cases, 1, 12, 12, 128, 2048, false);
  add_cache(cases, 256, 12, 12, 128, 2048, false);
  add_cache(cases, 256, 12, 4, 128, 2048, false);
  add_cache(cases, 64, 12, 12, 128, 4096, false);
  add_cache(cases, 8192, 12, 12, 128, 7, true);
}

cuda::ScratchLimits attention_case_limits() {
  return {.dtype = bf16,
          .attention_rows = std::int64_t{65536} * 24,
          .attention_streams = 16 * 24,
          .attention_width = 64,
          .cache_capacity = 4096,
          .cache_width = 128};
}

}  // namespace photon::cli
