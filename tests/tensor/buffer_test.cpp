#include "tensor/buffer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "tensor/half.hpp"

namespace photon {
namespace {

TEST(Arena, CountsAlignsAndRewinds) {
  Arena arena(Space::host, 4 * Arena::alignment, "a test");
  const TensorView a = arena.allocate(DType::f32, {3});
  EXPECT_EQ(arena.used(), Arena::alignment);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % Arena::alignment, 0U);
  {
    const ArenaScope scope(arena);
    arena.allocate(DType::u8, {Arena::alignment + 1});
    EXPECT_EQ(arena.used(), 3 * Arena::alignment);
  }
  EXPECT_EQ(arena.used(), Arena::alignment);
  EXPECT_EQ(arena.peak(), 3 * Arena::alignment);
  EXPECT_THROW(arena.allocate(DType::f32, {1000}), Error);
  EXPECT_EQ(arena.used(), Arena::alignment);  // a refused allocation takes nothing
  EXPECT_THROW(arena.rewind(2 * Arena::alignment), ContractError);
}

TEST(Arena, PoisonIsNaN) {
  Arena arena(Space::host, 1024, "a test");
  arena.poison(true);
  const TensorView x = arena.allocate(DType::f32, {5});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(std::isnan(x.host<float>()[i]));
}

TEST(Tensor, IsZeroAndMoves) {
  Tensor a(Space::host, DType::i32, {2, 3});
  for (int i = 0; i < 6; ++i) EXPECT_EQ(a.host<std::int32_t>()[i], 0);
  a.host<std::int32_t>()[5] = 7;
  const Tensor b = std::move(a);
  EXPECT_EQ(b.host<std::int32_t>()[5], 7);
}

TEST(Half, EveryBfloat16AndFloat16SurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float b = to_float(bfloat16{half});
    const float h = to_float(float16{half});
    if (std::isnan(b)) {
      EXPECT_TRUE(std::isnan(to_float(to_bfloat16(b))));
    } else {
      EXPECT_EQ(to_bfloat16(b).bits, half);
    }
    if (std::isnan(h)) {
      EXPECT_TRUE(std::isnan(to_float(to_float16(h))));
    } else {
      EXPECT_EQ(to_float16(h).bits, half) << bits;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(to_bfloat16(1.0F + 0x1p-8F).bits, to_bfloat16(1.0F).bits);                // a tie, down to even
  EXPECT_EQ(to_bfloat16(1.0F + 3 * 0x1p-8F).bits, to_bfloat16(1.0F + 0x1p-6F).bits);  // a tie, up to even
  EXPECT_EQ(to_float16(1.0F + 0x1p-11F).bits, to_float16(1.0F).bits);
  EXPECT_EQ(to_float16(1.0F + 3 * 0x1p-11F).bits, to_float16(1.0F + 0x1p-9F).bits);
  EXPECT_EQ(to_float16(65519.0F).bits, 0x7bff);  // the largest half
  EXPECT_EQ(to_float16(65520.0F).bits, 0x7c00);  // infinity
  EXPECT_EQ(to_float16(0x1p-25F).bits, 0);       // half the smallest subnormal: a tie, down to zero
  EXPECT_EQ(to_float16(std::numeric_limits<float>::infinity()).bits, 0x7c00);
}

}  // namespace
}  // namespace photon
