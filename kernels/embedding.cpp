#include "kernels/embedding.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void expect_embedding(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                      const ConstTensorView& rows) {
  expect_rank(ctx, table, table.dtype(), 2, "table");
  expect_contiguous(table, "table");
  expect_rank(ctx, tokens, DType::i32, 1, "tokens");
  expect_tensor(ctx, rows, activation_type(ctx, rows, "the embedded rows"), {tokens.size(0), table.size(1)},
                "the embedded rows");
  if (ctx.space == Space::device) return;
  for (std::int64_t n = 0; n < tokens.size(0); ++n) {
    const std::int32_t token = tokens.host<std::int32_t>()[n];
    PHOTON_EXPECT(token >= 0 && token < table.size(0), "token {} at row {} in an embedding of {} tokens", token, n,
                  table.size(0));
  }
}

}  // namespace

void embedding_forward(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                       const TensorView& out) {
  expect_embedding(ctx, table, tokens, out);
  PHOTON_EXPECT(table.dtype() == out.dtype(), "rows of {} from an embedding of {}", name_of(out.dtype()),
                name_of(table.dtype()));
  if (ctx.space == Space::device) return cuda::embedding_forward(ctx, table, tokens, out);
  if (out.numel() == 0) return;
  const std::int64_t width = table.size(1);
  const float* from = table.host<float>();
  const std::int32_t* token = tokens.host<std::int32_t>();
  float* to = out.host<float>();
#pragma omp parallel for schedule(static) if (out.numel() > 16384)
  for (std::int64_t n = 0; n < out.size(0); ++n) {
    std::memcpy(to + n * out.stride(0), from + token[n] * width, static_cast<std::size_t>(width) * sizeof(float));
  }
}

void embedding_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& tokens,
                        const TensorView& dtable) {
  expect_embedding(ctx, dtable, tokens, dout);
  PHOTON_EXPECT(dtable.dtype() == DType::f32, "the embedding's gradient is {}, expected f32", name_of(dtable.dtype()));
  if (ctx.space == Space::device) return cuda::embedding_backward(ctx, dout, tokens, dtable);
  if (dout.numel() == 0) return;
  const std::int64_t width = dtable.size(1);
  const float* from = dout.host<float>();
  const std::int32_t* token = tokens.host<std::int32_t>();
  float* to = dtable.host<float>();
  // A thread owns columns, so every element sees the rows in ascending order.
  constexpr std::int64_t strip = 64;
#pragma omp parallel for schedule(static) if (dout.numel() > 16384)
  for (std::int64_t d = 0; d < width; d += strip) {
    const std::int64_t count = std::min(strip, width - d);
    for (std::int64_t n = 0; n < dout.size(0); ++n) {
      cpu::loops().add(from + n * dout.stride(0) + d, count, to + token[n] * width + d);
    }
  }
}

}  // namespace photon
