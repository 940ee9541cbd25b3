#include "kernels/cache_attention.hpp"

#include "kernels/attention.hpp"
#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class CacheAttention : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, CacheAttention, testing::all_isas(), testing::isa_name);

constexpr std::int64_t heads = 4;
constexpr std::int64_t key_heads = 2;
constexpr std::int64_t width = 20;

// Two sequences of 150 positions, and what attention over each whole stream gives.
struct Streams {
  explicit Streams(std::int64_t window_) : window(window_) {
    stream_attention_forward(Context{}, q.view(), k.view(), v.view(), window, out.view(), {});
  }
  std::int64_t window;
  Field q = Field::random({2, 150, heads, width}, "q");
  Field k = Field::random({2, 150, key_heads, width}, "k");
  Field v = Field::random({2, 150, key_heads, width}, "v");
  Field out = Field::poison({2, 150, heads, width});
};

// Feeds each sequence's positions in pieces of the given sizes (the last one repeats), sequence 0 in slot 2 and
// sequence 1 in slot 0, and compares every output with the stream's, bit for bit.
void run(const Streams& s, std::int64_t capacity, const std::vector<std::int64_t>& pieces) {
  Field cache_k = Field::poison({3, capacity, key_heads, width}, 2);
  Field cache_v = Field::poison({3, capacity, key_heads, width}, 2);
  std::vector<std::int32_t> slot = {2, 0};
  std::size_t piece = 0;
  for (std::int64_t first = 0; first < 150;) {
    const std::int64_t count = std::min(pieces[std::min(piece++, pieces.size() - 1)], 150 - first);
    std::vector<std::int32_t> start(2, static_cast<std::int32_t>(first));
    const auto part = [&](const Field& f) { return f.view().slice(1, first, count); };
    const ConstTensorView slots = host_view(slot.data(), {2});
    const ConstTensorView starts = host_view(start.data(), {2});
    cache_append(Context{}, part(s.k), part(s.v), slots, starts, cache_k.view(), cache_v.view());
    Field out = Field::poison({2, count, heads, width}, 1);
    cache_attention(Context{}, part(s.q), cache_k.view(), cache_v.view(), slots, starts, s.window, out.view());
    EXPECT_TRUE(out.gaps_intact() && cache_k.gaps_intact() && cache_v.gaps_intact());
    const std::vector<float> found = out.floats();
    const std::vector<float> whole = s.out.floats();
    for (std::int64_t b = 0; b < 2; ++b) {
      const std::int64_t row = heads * width;
      ASSERT_TRUE(std::equal(found.begin() + b * count * row, found.begin() + (b + 1) * count * row,
                             whole.begin() + (b * 150 + first) * row))
          << "sequence " << b << ", positions " << first << "+" << count << ", capacity " << capacity;
    }
    first += count;
  }
}

TEST_P(CacheAttention, ContiguousCachesRepeatTheStream) {
  const Streams all(0);
  run(all, 150, {1});
  run(all, 160, {100, 1, 7, 33, 1});
  run(all, 150, {150});
  const Streams windowed(37);
  run(windowed, 150, {1});
  run(windowed, 150, {70, 3});
}

TEST_P(CacheAttention, RingCachesRepeatTheStream) {
  run(Streams(37), 37, {1});
  run(Streams(64), 64, {30, 1});
  run(Streams(1), 1, {1});
  run(Streams(100), 100, {100, 1});
}

TEST_P(CacheAttention, KeepsTheLastPositionsOfALongAppend) {
  const Field k = Field::random({1, 11, 1, 2}, "k");
  const Field v = Field::random({1, 11, 1, 2}, "v");
  Field cache_k = Field::poison({1, 4, 1, 2});
  Field cache_v = Field::poison({1, 4, 1, 2});
  std::int32_t slot = 0;
  std::int32_t first = 2;  // positions 2 .. 12, of which 9 .. 12 stay, at 1, 2, 3, 0
  cache_append(Context{}, k.view(), v.view(), host_view(&slot, {1}), host_view(&first, {1}), cache_k.view(),
               cache_v.view());
  const Doubles all = k.values();
  const Doubles found = cache_k.values();
  for (std::int64_t p = 9; p <= 12; ++p) {
    EXPECT_EQ(found[static_cast<std::size_t>(p % 4 * 2)], all[static_cast<std::size_t>((p - 2) * 2)]) << p;
  }
  EXPECT_EQ(cache_v.values()[0], v.values()[20]);
}

TEST_P(CacheAttention, ManyQueryHeadsAndRowsStandAlone) {
  // More query heads on a key head than a tile holds, and rows at different positions.
  const Field q = Field::random({3, 1, 70, 8}, "q");
  const Field k = Field::random({3, 90, 1, 8}, "k");
  const Field v = Field::random({3, 90, 1, 8}, "v");
  std::vector<std::int32_t> slot = {1, 2, 0};
  std::vector<std::int32_t> first = {89, 0, 64};
  Field out = Field::poison({3, 1, 70, 8});
  cache_attention(Context{}, q.view(), k.view(), v.view(), host_view(slot.data(), {3}), host_view(first.data(), {3}), 0,
                  out.view());
  for (std::int64_t r = 0; r < 3; ++r) {
    const auto at = static_cast<std::size_t>(r);
    const std::int64_t keys = first[at] + 1;
    const auto values_of = [](const ConstTensorView& x) {
      Field copy = Field::poison(x.shape());
      photon::copy(x, copy.view());
      return copy.values();
    };
    const testing::reference::Attention a{1, 1, keys, 70, 1, 8};
    const Doubles expected = testing::reference::attention(a, values_of(q.view().slice(0, r, 1)),
                                                           values_of(k.view().slice(0, slot[at], 1).slice(1, 0, keys)),
                                                           values_of(v.view().slice(0, slot[at], 1).slice(1, 0, keys)));
    Field alone = Field::poison({1, 1, 70, 8});
    const testing::Threads scope(1);
    cache_attention(Context{}, q.view().slice(0, r, 1), k.view(), v.view(), host_view(slot.data() + r, {1}),
                    host_view(first.data() + r, {1}), 0, alone.view());
    testing::expect_close(alone.values(), expected, 4 * testing::float32_tolerance(8), fmt::format("row {}", r));
    const Doubles whole = out.values();
    EXPECT_EQ(alone.values(), Doubles(whole.begin() + r * 560, whole.begin() + (r + 1) * 560));
  }
}

TEST_P(CacheAttention, RefusesWhatTheCacheCannotHold) {
  Field cache = Field::filled({2, 8, 1, 4}, 0);
  Field two = Field::filled({1, 2, 1, 4}, 0);
  Field one = Field::filled({1, 1, 1, 4}, 0);
  std::int32_t slot = 0;
  std::int32_t first = 7;
  const ConstTensorView slots = host_view(&slot, {1});
  const ConstTensorView starts = host_view(&first, {1});
  EXPECT_THROW(cache_attention(Context{}, two.view(), cache.view(), cache.view(), slots, starts, 8, two.view()),
               ContractError);
  first = 8;
  EXPECT_THROW(cache_attention(Context{}, one.view(), cache.view(), cache.view(), slots, starts, 0, one.view()),
               ContractError);
  EXPECT_NO_THROW(cache_attention(Context{}, one.view(), cache.view(), cache.view(), slots, starts, 8, one.view()));
  slot = 2;
  EXPECT_THROW(cache_append(Context{}, one.view(), one.view(), slots, starts, cache.view(), cache.view()),
               ContractError);
  Field none = Field::poison({0, 3, 1, 4});
  const ConstTensorView empty = host_view(static_cast<const std::int32_t*>(nullptr), {0});
  cache_append(Context{}, none.view(), none.view(), empty, empty, cache.view(), cache.view());
  cache_attention(Context{}, none.view(), cache.view(), cache.view(), empty, empty, 0, none.view());
}

}  // namespace
}  // namespace photon
