#include "kernels/slot_rows.hpp"

#include <cstring>

#include "kernels/checks.hpp"

namespace photon {

void scatter_rows(const Context& ctx, const ConstTensorView& x, const ConstTensorView& index, const TensorView& to) {
  const DType dtype = x.dtype() == DType::i32 ? DType::i32 : activation_type(ctx, x, "x");
  expect_rank(ctx, x, dtype, 2, "x");
  expect_tensor(ctx, index, DType::i32, {x.size(0)}, "index");
  expect_rank(ctx, to, dtype, 2, "to");
  expect_shape(to, {to.size(0), x.size(1)}, "to");
  if (ctx.space == Space::device) return cuda::scatter_rows(ctx, x, index, to);
  const std::size_t bytes = static_cast<std::size_t>(x.size(1)) * size_of(dtype);
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const std::int32_t row = index.host<std::int32_t>()[n];
    if (row < 0) continue;
    PHOTON_EXPECT(row < to.size(0), "row {} of {}", row, to.size(0));
    std::memcpy(to.slice(0, row, 1).data(), x.slice(0, n, 1).data(), bytes);
  }
}

void recent_tokens(const Context& ctx, const ConstTensorView& history, const ConstTensorView& slot,
                   const ConstTensorView& position, std::int64_t offset, std::int32_t missing,
                   const TensorView& tokens) {
  expect_rank(ctx, history, DType::i32, 2, "history");
  expect_rank(ctx, tokens, DType::i32, 2, "tokens");
  expect_contiguous(tokens, "tokens");
  expect_tensor(ctx, slot, DType::i32, {tokens.size(0)}, "slot");
  expect_tensor(ctx, position, DType::i32, {tokens.size(0)}, "position");
  if (ctx.space == Space::device) return cuda::recent_tokens(ctx, history, slot, position, offset, missing, tokens);
  const std::int64_t k = tokens.size(1);
  for (std::int64_t n = 0; n < tokens.size(0); ++n) {
    const std::int64_t row = slot.host<std::int32_t>()[n];
    const std::int64_t end = position.host<std::int32_t>()[n] + offset;
    PHOTON_EXPECT(row >= 0 && row < history.size(0) && end <= history.size(1),
                  "position {} of slot {} in a history of {}", end, row, history.shape().str());
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t at = end - k + i;
      tokens.host<std::int32_t>()[n * k + i] =
          at < 0 ? missing : history.host<std::int32_t>()[row * history.stride(0) + at];
    }
  }
}

void embed_or_zero(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                   const TensorView& out) {
  const DType dtype = activation_type(ctx, table, "table");
  expect_rank(ctx, table, dtype, 2, "table");
  expect_rank(ctx, tokens, DType::i32, 2, "tokens");
  expect_contiguous(tokens, "tokens");
  expect_tensor(ctx, out, dtype, {tokens.size(0), tokens.size(1), table.size(1)}, "out");
  if (ctx.space == Space::device) return cuda::embed_or_zero(ctx, table, tokens, out);
  const std::size_t bytes = static_cast<std::size_t>(table.size(1)) * sizeof(float);
  for (std::int64_t n = 0; n < tokens.size(0); ++n) {
    for (std::int64_t i = 0; i < tokens.size(1); ++i) {
      const std::int32_t token = tokens.host<std::int32_t>()[n * tokens.size(1) + i];
      PHOTON_EXPECT(token < table.size(0), "token {} in an embedding of {}", token, table.size(0));
      float* const to = out.host<float>() + n * out.stride(0) + i * out.stride(1);
      if (token < 0) {
        std::memset(to, 0, bytes);
      } else {
        std::memcpy(to, table.host<float>() + token * table.stride(0), bytes);
      }
    }
  }
}

void shift_indices(const Context& ctx, const TensorView& x, std::int32_t by) {
  expect_rank(ctx, x, DType::i32, 1, "x");
  expect_contiguous(x, "x");
  if (ctx.space == Space::device) return cuda::shift_indices(ctx, x, by);
  for (std::int64_t n = 0; n < x.size(0); ++n) x.host<std::int32_t>()[n] += by;
}

}  // namespace photon
