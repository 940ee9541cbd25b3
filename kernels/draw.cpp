#include "kernels/draw.hpp"

#include <vector>

#include "kernels/checks.hpp"
#include "kernels/embedding.hpp"

namespace photon {

DrawRow draw_row(const SamplingOptions& options, const SampleKey& key, std::int64_t slot) {
  return {.temperature = options.temperature,
          .top_p = options.top_p,
          .min_p = options.min_p,
          .repetition_penalty = options.repetition_penalty,
          .seed = key.seed,
          .request = key.request,
          .sample = key.sample,
          .position = static_cast<std::int64_t>(key.position),
          .top_k = options.top_k,
          .slot = slot};
}

namespace {

SampleRow sample_row(const DrawCall& call, const DrawRow& row) {
  SampleRow result;
  result.options = {row.temperature, row.top_k, row.top_p, row.min_p, row.repetition_penalty};
  result.key = {row.seed, row.request, row.sample, static_cast<std::uint64_t>(row.position + call.offset)};
  result.seen = {call.history.host<std::int32_t>() + row.slot * call.history.stride(0),
                 static_cast<std::size_t>(row.position + call.offset)};
  return result;
}

// Draws rows begin .. begin + rows.size() - 1. A row whose logits are not finite fails alone.
void draw_run(const Context& ctx, const DrawCall& call, std::int64_t begin, std::span<const SampleRow> rows) {
  const auto part = [&](std::int64_t first, std::int64_t count) {
    sample(ctx, call.logits.slice(0, begin + first, count),
           rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
           call.chosen.slice(0, begin + first, count),
           call.logprobs ? call.logprobs.slice(0, begin + first, count) : TensorView());
  };
  const auto n = static_cast<std::int64_t>(rows.size());
  try {
    part(0, n);
  } catch (const InputError&) {
    for (std::int64_t i = 0; i < n; ++i) {
      try {
        part(i, 1);
      } catch (const InputError&) {
        call.chosen.host<std::int32_t>()[begin + i] = failed_token;
        if (call.logprobs) call.logprobs.host<float>()[begin + i] = 0;
      }
    }
  }
}

}  // namespace

void draw_tokens(const Context& ctx, const DrawCall& call) {
  expect_rank(ctx, call.forced, DType::i32, 1, "forced");
  const std::int64_t n = call.forced.size(0);
  expect_tensor(ctx, call.rows, DType::u8, {n * static_cast<std::int64_t>(sizeof(DrawRow))}, "rows");
  expect_rank(ctx, call.history, DType::i32, 2, "history");
  expect_tensor(ctx, call.tokens, DType::i32, {n}, "tokens");
  expect_tensor(ctx, call.chosen, DType::i32, {n}, "chosen");
  if (call.logprobs) expect_tensor(ctx, call.logprobs, DType::f32, {n}, "logprobs");
  if (call.logits) {
    expect_rank(ctx, call.logits, DType::f32, 2, "logits");
    expect_shape(call.logits, {n, call.logits.size(1)}, "logits");
  }
  if (call.x) {
    const DType dtype = activation_type(ctx, call.x, "x");
    expect_rank(ctx, call.table, dtype, 2, "table");
    expect_tensor(ctx, call.x, dtype, {n, call.table.size(1)}, "x");
  }
  if (ctx.space == Space::device) return cuda::draw_tokens(ctx, call);

  const auto* const rows = reinterpret_cast<const DrawRow*>(call.rows.host<std::uint8_t>());
  const std::int32_t* const forced = call.forced.host<std::int32_t>();
  std::int32_t* const tokens = call.tokens.host<std::int32_t>();
  std::int32_t* const chosen = call.chosen.host<std::int32_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    PHOTON_EXPECT(rows[i].slot >= 0 && rows[i].slot < call.history.size(0) && rows[i].position + call.offset >= 0 &&
                      rows[i].position + call.offset < call.history.size(1),
                  "position {} of slot {} in a history of {}", rows[i].position + call.offset, rows[i].slot,
                  call.history.shape().str());
  }
  std::vector<SampleRow> run;
  for (std::int64_t i = 0; i < n;) {
    if (forced[i] != draw_token) {
      chosen[i] = forced[i];
      if (call.logprobs) call.logprobs.host<float>()[i] = 0;
      ++i;
      continue;
    }
    PHOTON_EXPECT(static_cast<bool>(call.logits), "row {} draws its token without logits", i);
    // The kernel takes whole runs of rows.
    run.clear();
    const std::int64_t begin = i;
    for (; i < n && forced[i] == draw_token; ++i) run.push_back(sample_row(call, rows[i]));
    draw_run(ctx, call, begin, run);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    tokens[i] = chosen[i] == failed_token ? 0 : chosen[i];
    call.history.host<std::int32_t>()[rows[i].slot * call.history.stride(0) + rows[i].position + call.offset] =
        tokens[i];
  }
  if (call.x) embedding_forward(ctx, call.table, call.tokens, call.x);
}

}  // namespace photon
