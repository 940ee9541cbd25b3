#include "kernels/elementwise.hpp"

#include "reference.hpp"
#include "tensor/half.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

TEST(Elementwise, FillsBothTypes) {
  for (const std::int64_t n : {0, 1, 17, 100003}) {
    Field x = Field::poison({n});
    fill(Context{}, x.view(), 2.5F);
    EXPECT_EQ(x.values(), Doubles(static_cast<std::size_t>(n), 2.5));
    std::vector<bfloat16> b(static_cast<std::size_t>(n), bfloat16{0x7FC0});
    fill(Context{}, host_view(b.data(), {n}), -3.0F);
    for (const bfloat16 v : b) EXPECT_EQ(to_float(v), -3.0F);
  }
  std::int32_t integer = 0;
  EXPECT_THROW(fill(Context{}, host_view(&integer, {1}), 1), ContractError);
}

TEST(Elementwise, ScalesInPlace) {
  Field x = Field::random({99991}, "x");
  const std::vector<float> before = x.floats();
  scale(Context{}, x.view(), -0.5F);
  const std::vector<float> after = x.floats();
  for (std::size_t i = 0; i < before.size(); ++i) ASSERT_EQ(after[i], before[i] * -0.5F);
  Field strided = Field::poison({3, 4}, 2);
  EXPECT_THROW(scale(Context{}, strided.view(), 1), ContractError);
}

TEST(Elementwise, CopiesStridedTensorsOfEveryRank) {
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{3, 7}, Shape{2, 3, 5}, Shape{3, 2, 4, 5}, Shape{40, 3, 7, 31},
                             Shape{2, 0, 3}, Shape{1, 1, 1, 1}}) {
    const Field from = Field::random(shape, "from", 3);
    Field to = Field::poison(shape, 1);
    copy_elements(Context{}, from.view(), to.view());
    EXPECT_EQ(to.floats(), from.floats()) << shape.str();
    copy_elements(Context{}, from.view(), to.view(), Write::accumulate);
    std::vector<float> twice = from.floats();
    for (float& v : twice) v *= 2;
    EXPECT_EQ(to.floats(), twice) << shape.str();
    EXPECT_TRUE(to.gaps_intact()) << shape.str();
  }
  Field a = Field::poison({2, 3});
  Field b = Field::poison({3, 2});
  EXPECT_THROW(copy_elements(Context{}, a.view(), b.view()), ContractError);
}

TEST(Elementwise, RoundsToBfloat16AndBack) {
  const Field from = Field::random({37}, "from");
  std::vector<bfloat16> middle(37);
  Field back = Field::poison({37});
  copy_elements(Context{}, from.view(), host_view(middle.data(), {37}));
  copy_elements(Context{}, host_view(middle.data(), {37}), back.view());
  const std::vector<float> a = from.floats();
  const std::vector<float> b = back.floats();
  for (std::size_t i = 0; i < 37; ++i) EXPECT_EQ(b[i], to_float(to_bfloat16(a[i])));
  copy_elements(Context{}, host_view(middle.data(), {37}), host_view(middle.data(), {37}), Write::accumulate);
  for (std::size_t i = 0; i < 37; ++i) EXPECT_EQ(to_float(middle[i]), 2 * b[i]);
}

}  // namespace
}  // namespace photon
