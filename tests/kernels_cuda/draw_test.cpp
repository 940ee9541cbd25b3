// Tokens drawn on a device against those drawn on the host.
#include "kernels/draw.hpp"

#include <cmath>
#include <cstring>

#include "parity.hpp"

namespace photon {
namespace {

using testing::OnDevice;

using Draw = OnDevice;
INSTANTIATE_TEST_SUITE_P(, Draw, ::testing::Values(DType::f32), testing::dtype_name);

struct Drawn {
  std::vector<std::int32_t> chosen;
  std::vector<float> logprobs;
  std::vector<std::int32_t> history;
  std::vector<float> x;
};

Drawn draw_on(const Context& ctx, const Tensor& logits, const std::vector<DrawRow>& rows,
              const std::vector<std::int32_t>& forced, const Tensor& history, const Tensor& table) {
  const auto n = static_cast<std::int64_t>(rows.size());
  const Tensor logits_there(ctx.space, DType::f32, logits.shape());
  copy(logits, logits_there);
  const Tensor rows_there(ctx.space, DType::u8, {n * static_cast<std::int64_t>(sizeof(DrawRow))});
  copy(host_view(reinterpret_cast<const std::uint8_t*>(rows.data()), rows_there.shape()), rows_there);
  const Tensor forced_there(ctx.space, DType::i32, {n});
  copy(host_view(forced.data(), {n}), forced_there);
  const Tensor history_there(ctx.space, DType::i32, history.shape());
  copy(history, history_there);
  const Tensor tokens(ctx.space, DType::i32, {n});
  const Tensor chosen(ctx.space, DType::i32, {n});
  const Tensor logprobs(ctx.space, DType::f32, {n});
  DrawCall call;
  call.logits = logits_there;
  call.rows = rows_there;
  call.forced = forced_there;
  call.history = history_there;
  call.offset = 1;
  call.tokens = tokens;
  call.chosen = chosen;
  call.logprobs = logprobs;
  const Tensor table_there(ctx.space, DType::f32, table.shape());
  copy(table, table_there);
  const Tensor x(ctx.space, DType::f32, {n, table.shape()[1]});
  call.table = table_there;
  call.x = x;
  draw_tokens(ctx, call);
  if (ctx.space == Space::device) device::synchronize(ctx.stream);
  Drawn drawn{std::vector<std::int32_t>(rows.size()),
              std::vector<float>(rows.size()),
              std::vector<std::int32_t>(static_cast<std::size_t>(history.numel())),
              {}};
  copy(chosen, host_view(drawn.chosen.data(), {n}));
  copy(logprobs, host_view(drawn.logprobs.data(), {n}));
  copy(history_there, host_view(drawn.history.data(), history.shape()));
  drawn.x.resize(static_cast<std::size_t>(x.numel()));
  copy(x, host_view(drawn.x.data(), x.shape()));
  return drawn;
}

TEST_P(Draw, TokensAreTheHostsForAllOptions) {
  for (const std::int64_t vocabulary : {1L, 31L, 1000L, 32000L}) {
    constexpr std::int64_t n = 240;
    constexpr std::int64_t capacity = 40;
    const Tensor logits(Space::host, DType::f32, {n, vocabulary});
    const Tensor history(Space::host, DType::i32, {n, capacity});
    const Tensor table(Space::host, DType::f32, {vocabulary, vocabulary == 31 ? 3 : 8});  // in whole packs, and not
    for (std::int64_t i = 0; i < table.numel(); ++i)
      table.host<float>()[i] = static_cast<float>(random_normal(9, 1, static_cast<std::uint64_t>(i)));
    std::vector<DrawRow> rows;
    std::vector<std::int32_t> forced;
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t v = 0; v < vocabulary; ++v) {
        // Every third row has many equal logits.
        const double x = 3 * random_normal(7, static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(v));
        logits.host<float>()[r * vocabulary + v] = static_cast<float>(r % 3 == 0 ? std::round(x) : x);
      }
      for (std::int64_t i = 0; i < capacity; ++i)
        history.host<std::int32_t>()[r * capacity + i] =
            static_cast<std::int32_t>(random_bits(8, static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(i)) %
                                      static_cast<std::uint64_t>(vocabulary));
      SamplingOptions options;
      options.temperature = r % 4 == 0 ? 0.0 : 0.3 * static_cast<double>(r % 7 + 1);
      if (r % 2 == 1) options.top_k = 1 + r % 50;
      if (r % 5 < 2) options.top_p = 0.1 + 0.2 * static_cast<double>(r % 4);
      if (r % 7 < 3) options.min_p = 0.02 * static_cast<double>(r % 7 + 1);
      if (r % 3 == 1) options.repetition_penalty = 1.5;
      const SampleKey key{static_cast<std::uint64_t>(r % 5), static_cast<std::uint64_t>(r * 977), 3,
                          static_cast<std::uint64_t>(r % (capacity - 1))};
      rows.push_back(draw_row(options, key, r));
      forced.push_back(r % 11 == 10 ? 0 : draw_token);
    }
    if (vocabulary > 1) logits.host<float>()[5 * vocabulary + 1] = std::nanf("");
    const Drawn expected = draw_on(host_, logits, rows, forced, history, table);
    const Drawn actual = draw_on(ctx_, logits, rows, forced, history, table);
    EXPECT_EQ(actual.chosen, expected.chosen) << "of " << vocabulary;
    EXPECT_EQ(actual.history, expected.history);
    EXPECT_EQ(actual.x, expected.x);
    EXPECT_CLOSE(actual.logprobs.data(), expected.logprobs.data(), n, 1e-5);
    if (vocabulary > 1) {
      EXPECT_EQ(actual.chosen[5], failed_token);
    }
    // A few rows at a time, which several blocks share.
    for (const std::int64_t count : {1, 7, 16}) {
      for (std::int64_t begin = 0; begin + count <= 32; begin += count) {
        const Tensor some(Space::host, DType::f32, {count, vocabulary});
        copy(logits.view().slice(0, begin, count), some.view());
        const auto part = [&](const auto& all) {
          return std::decay_t<decltype(all)>(all.begin() + begin, all.begin() + begin + count);
        };
        const Drawn few = draw_on(ctx_, some, part(rows), part(forced), history, table);
        EXPECT_EQ(few.chosen, part(actual.chosen)) << "rows from " << begin << " of " << vocabulary;
        EXPECT_EQ(few.logprobs, part(actual.logprobs)) << "rows from " << begin << " of " << vocabulary;
      }
    }
  }
}

}  // namespace
}  // namespace photon
