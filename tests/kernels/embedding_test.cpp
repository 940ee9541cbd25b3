#include "kernels/embedding.hpp"

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class Embedding : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Embedding, testing::all_isas(), testing::isa_name);

TEST_P(Embedding, LooksUpAndAddsInAscendingOrder) {
  for (const auto& [n, v, d] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1}, {13, 5, 67}, {300, 7, 130}}) {
    const auto width = static_cast<std::size_t>(d);
    const Field table = Field::random({v, d}, "table");
    const std::vector<std::int32_t> tokens = testing::random_tokens(n, v, "tokens");
    const ConstTensorView token_view = host_view(tokens.data(), {n});
    Field out = Field::poison({n, d}, 3);
    embedding_forward(Context{}, table.view(), token_view, out.view());
    const std::vector<float> rows = table.floats();
    const std::vector<float> found = out.floats();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t j = 0; j < width; ++j) {
        ASSERT_EQ(found[i * width + j], rows[static_cast<std::size_t>(tokens[i]) * width + j]);
      }
    }
    EXPECT_TRUE(out.gaps_intact());

    const Field dout = Field::random({n, d}, "dout", 2);
    std::vector<float> expected(static_cast<std::size_t>(v) * width, 1.0F);
    const std::vector<float> g = dout.floats();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t j = 0; j < width; ++j)
        expected[static_cast<std::size_t>(tokens[i]) * width + j] += g[i * width + j];
    }
    for (const int threads : {1, 2, 3}) {
      const testing::Threads scope(threads);
      Field dtable = Field::filled({v, d}, 1);
      embedding_backward(Context{}, dout.view(), token_view, dtable.view());
      EXPECT_EQ(dtable.floats(), expected) << threads << " threads";
    }
  }
}

TEST_P(Embedding, RefusesTokensOutsideTheTable) {
  const Field table = Field::random({4, 3}, "table");
  Field out = Field::poison({1, 3});
  for (const std::int32_t token : {4, -1}) {
    EXPECT_THROW(embedding_forward(Context{}, table.view(), host_view(&token, {1}), out.view()), ContractError);
    Field dtable = Field::filled({4, 3}, 0);
    EXPECT_THROW(embedding_backward(Context{}, out.view(), host_view(&token, {1}), dtable.view()), ContractError);
  }
  Field none = Field::poison({0, 3});
  embedding_forward(Context{}, table.view(), host_view(static_cast<const std::int32_t*>(nullptr), {0}), none.view());
}

}  // namespace
}  // namespace photon
