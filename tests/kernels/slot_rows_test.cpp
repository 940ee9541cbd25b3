#include "kernels/slot_rows.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/draw.hpp"

namespace photon {
namespace {

using Ints = std::vector<std::int32_t>;
using Floats = std::vector<float>;

TEST(SlotRowsTest, RowsGoWhereTheIndexSays) {
  const Floats x{1, 2, 3, 4, 5, 6};
  const Ints index{1, -5, 0};
  const Ints outside{2, -1, 0};
  Floats to(8, 9.0F);
  // Two columns of rows that are four wide.
  const TensorView wide = host_view(to.data(), {2, 4});
  scatter_rows({}, host_view(x.data(), {3, 2}), host_view(index.data(), {3}), wide.slice(1, 1, 2));
  EXPECT_EQ(to, (Floats{9, 5, 6, 9, 9, 1, 2, 9}));
  EXPECT_THROW(scatter_rows({}, host_view(x.data(), {3, 2}), host_view(outside.data(), {3}), wide.slice(1, 0, 2)),
               ContractError);
}

TEST(SlotRowsTest, RecentTokensStopAtTheSequencesStart) {
  const Ints history{10, 11, 12, 13, 20, 21, 22, 23};
  const Ints slot{1, 0, 0};
  const Ints position{0, 1, 3};
  Ints tokens(9);
  recent_tokens({}, host_view(history.data(), {2, 4}), host_view(slot.data(), {3}), host_view(position.data(), {3}), 1,
                -1, host_view(tokens.data(), {3, 3}));
  EXPECT_EQ(tokens, (Ints{-1, -1, 20, -1, 10, 11, 11, 12, 13}));
}

TEST(SlotRowsTest, MissingTokensAreZeroVectors) {
  const Floats table{1, 2, 3, 4};
  const Ints tokens{1, -1, 0, 1};
  Floats out(8, std::nanf(""));
  embed_or_zero({}, host_view(table.data(), {2, 2}), host_view(tokens.data(), {2, 2}),
                host_view(out.data(), {2, 2, 2}));
  EXPECT_EQ(out, (Floats{3, 4, 0, 0, 1, 2, 3, 4}));
}

TEST(SlotRowsTest, IndicesMove) {
  Ints x{0, 5, -3};
  shift_indices({}, host_view(x.data(), {3}), 4);
  EXPECT_EQ(x, (Ints{4, 9, 1}));
}

// Forced, drawn, penalised and failing rows in one call.
TEST(DrawTokensTest, RowsAreDrawnAlone) {
  Floats logits{0, 3, 2, 0, 3, 2, 0, 3, 2, std::nanf(""), 0, 0};
  std::vector<DrawRow> rows(4);
  for (std::int64_t i = 0; i < 4; ++i) {
    rows[static_cast<std::size_t>(i)].slot = i;
    rows[static_cast<std::size_t>(i)].position = 1;
  }
  rows[2].repetition_penalty = 2;  // its history holds token 1, whose logit falls to 1.5
  Ints history{0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0};
  const Ints forced{2, draw_token, draw_token, draw_token};
  Ints tokens(4);
  Ints chosen(4);
  Floats logprobs(4);
  DrawCall call;
  call.logits = host_view(logits.data(), {4, 3});
  call.rows = ConstTensorView(rows.data(), DType::u8, Space::host, {4 * static_cast<std::int64_t>(sizeof(DrawRow))});
  call.forced = host_view(forced.data(), {4});
  call.history = host_view(history.data(), {4, 3});
  call.offset = 1;
  call.tokens = host_view(tokens.data(), {4});
  call.chosen = host_view(chosen.data(), {4});
  call.logprobs = host_view(logprobs.data(), {4});
  draw_tokens({}, call);
  EXPECT_EQ(chosen, (Ints{2, 1, 2, failed_token}));
  EXPECT_EQ(tokens, (Ints{2, 1, 2, 0}));
  EXPECT_EQ(history, (Ints{0, 0, 2, 0, 0, 1, 1, 1, 2, 0, 0, 0}));
  const double sum = std::log(1 + std::exp(3.0) + std::exp(2.0));
  EXPECT_EQ(logprobs[0], 0);
  EXPECT_NEAR(static_cast<double>(logprobs[1]), 3 - sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(logprobs[2]), 2 - sum, 1e-6);  // of the raw logits
  EXPECT_EQ(logprobs[3], 0);

  call.logits = TensorView();
  EXPECT_THROW(draw_tokens({}, call), ContractError);
}

}  // namespace
}  // namespace photon
