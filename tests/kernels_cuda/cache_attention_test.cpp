// Attention of a few queries a row against bf16 caches, in double precision and to the bit.
#include "kernels/cache_attention.hpp"

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/attention_step.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

struct Case {
  std::int64_t rows, positions, heads, key_heads, width, capacity, window;
};
std::ostream& operator<<(std::ostream& to, const Case& c) {
  return to << c.rows << " rows of " << c.positions << ", heads " << c.heads << "/" << c.key_heads << " of " << c.width
            << ", capacity " << c.capacity << ", window " << c.window;
}

// Rows r in slots that lie in another order, with the last position anywhere up to `longest` - 1.
std::vector<std::int32_t> slots_of(std::int64_t rows) {
  std::vector<std::int32_t> slots;
  for (std::int64_t r = 0; r < rows; ++r) slots.push_back(static_cast<std::int32_t>(rows - 1 - r));
  return slots;
}
std::vector<std::int32_t> firsts_of(const Case& c, std::int64_t longest) {
  std::vector<std::int32_t> firsts = random_integers(c.rows, static_cast<std::int32_t>(longest - c.positions + 1), 9);
  firsts[0] = 0;
  if (c.rows > 1) firsts[1] = static_cast<std::int32_t>(longest - c.positions);
  return firsts;
}

class CacheRows : public OnDevice {
 protected:
  // What attention over the cached positions gives, in double precision.
  static std::vector<double> expected(const Case& c, const Pair& q, const Pair& k, const Pair& v,
                                      const std::vector<std::int32_t>& slot, const std::vector<std::int32_t>& first) {
    std::vector<double> out(static_cast<std::size_t>(q.host.numel()));
    const auto head_of = [&](const Pair& cache, std::int64_t s, std::int64_t j, std::int64_t h) {
      return cache.host.host<float>() + ((s * c.capacity + j % c.capacity) * c.key_heads + h) * c.width;
    };
    for (std::int64_t r = 0; r < c.rows; ++r) {
      for (std::int64_t p = 0; p < c.positions; ++p) {
        for (std::int64_t h = 0; h < c.heads; ++h) {
          const std::int64_t at = ((r * c.positions + p) * c.heads + h) * c.width;
          const std::int64_t last = first[static_cast<std::size_t>(r)] + p;
          const std::int64_t kh = h / (c.heads / c.key_heads);
          double total = 0;
          for (std::int64_t j = c.window > 0 ? std::max<std::int64_t>(0, last - c.window + 1) : 0; j <= last; ++j) {
            double score = 0;
            const float* const key = head_of(k, slot[static_cast<std::size_t>(r)], j, kh);
            const float* const value = head_of(v, slot[static_cast<std::size_t>(r)], j, kh);
            for (std::int64_t d = 0; d < c.width; ++d) score += double{q.host.host<float>()[at + d]} * double{key[d]};
            const double weight = std::exp(score / std::sqrt(static_cast<double>(c.width)));
            total += weight;
            for (std::int64_t d = 0; d < c.width; ++d) out[static_cast<std::size_t>(at + d)] += weight * value[d];
          }
          for (std::int64_t d = 0; d < c.width; ++d) out[static_cast<std::size_t>(at + d)] /= total;
        }
      }
    }
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(, CacheRows, ::testing::Values(DType::bf16), dtype_name);

TEST_P(CacheRows, MatchDoublePrecision) {
  for (const Case c : {Case{1, 1, 1, 1, 128, 1, 0}, Case{70, 1, 12, 12, 128, 7, 0}, Case{33, 1, 12, 4, 64, 7, 0},
                       Case{5, 1, 3, 1, 128, 64, 0}, Case{9, 1, 2, 2, 128, 65, 0}, Case{7, 1, 6, 2, 64, 255, 0},
                       Case{3, 1, 12, 12, 128, 1000, 0}, Case{3, 1, 12, 4, 128, 1000, 0}, Case{2, 1, 8, 1, 128, 777, 0},
                       Case{2, 1, 16, 1, 64, 500, 0}, Case{140, 1, 4, 4, 64, 300, 0}, Case{2, 3, 4, 2, 128, 400, 0},
                       Case{2, 9, 4, 4, 64, 90, 0}, Case{3, 1, 4, 2, 128, 700, 100}, Case{3, 2, 4, 4, 96, 513, 257},
                       Case{4, 1, 2, 1, 40, 90, 0}, Case{4, 1, 2, 2, 8, 20, 5}}) {
    SCOPED_TRACE(::testing::Message() << c);
    const Pair k = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 1);
    const Pair v = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 2);
    const Pair q = random_pair(GetParam(), {c.rows, c.positions, c.heads, c.width}, 3);
    const IntPair slot = pair_of(slots_of(c.rows));
    const std::vector<std::int32_t> firsts = firsts_of(c, c.capacity);
    const IntPair first = pair_of(firsts);
    const Pair out = poisoned_pair(GetParam(), {c.rows, c.positions, c.heads, c.width});
    cache_attention(ctx_, q.device, k.device, v.device, slot.device, first.device, c.window, out.device);
    const std::vector<float> actual = values_of(out.device);
    const std::vector<double> wanted = expected(c, q, k, v, slots_of(c.rows), firsts);
    EXPECT_CLOSE(actual.data(), wanted.data(), q.host.numel(), 0x1p-9 + 4 * float32_tolerance(c.width + c.capacity));
  }
}

// Rings hold the last `capacity` positions, wherever they begin.
TEST_P(CacheRows, Rings) {
  for (const Case c :
       {Case{9, 1, 4, 4, 128, 32, 32}, Case{5, 1, 4, 2, 64, 300, 300}, Case{5, 1, 2, 2, 128, 600, 600}}) {
    SCOPED_TRACE(::testing::Message() << c);
    const Pair k = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 1);
    const Pair v = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 2);
    const Pair q = random_pair(GetParam(), {c.rows, 1, c.heads, c.width}, 3);
    const IntPair slot = pair_of(slots_of(c.rows));
    const std::vector<std::int32_t> firsts = firsts_of(c, 5 * c.capacity + 3);
    const IntPair first = pair_of(firsts);
    const Pair out = poisoned_pair(GetParam(), {c.rows, 1, c.heads, c.width});
    cache_attention(ctx_, q.device, k.device, v.device, slot.device, first.device, c.window, out.device);
    const std::vector<float> actual = values_of(out.device);
    const std::vector<double> wanted = expected(c, q, k, v, slots_of(c.rows), firsts);
    EXPECT_CLOSE(actual.data(), wanted.data(), q.host.numel(), 0x1p-9 + 4 * float32_tolerance(c.width + c.capacity));
  }
}

// Few rows are split along their positions and many are not: the bits must not show it.
TEST_P(CacheRows, DoNotSeeEachOther) {
  const Case c{140, 1, 8, 4, 64, 300, 0};
  const Pair k = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 1);
  const Pair v = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 2);
  const Pair q = random_pair(GetParam(), {c.rows, 1, c.heads, c.width}, 3);
  const IntPair slot = pair_of(slots_of(c.rows));
  const IntPair first = pair_of(firsts_of(c, c.capacity));
  const Pair all = poisoned_pair(GetParam(), {c.rows, 1, c.heads, c.width});
  cache_attention(ctx_, q.device, k.device, v.device, slot.device, first.device, 0, all.device);
  const std::vector<float> whole = values_of(all.device);
  for (const std::int64_t count : {1, 2, 100}) {
    const Pair out = poisoned_pair(GetParam(), {count, 1, c.heads, c.width});
    const auto some = [&](const Tensor& t) { return t.view().slice(0, 1, count); };
    cache_attention(ctx_, some(q.device), k.device, v.device, some(slot.device), some(first.device), 0, out.device);
    const std::vector<float> part = values_of(out.device);
    const auto row = static_cast<std::ptrdiff_t>(c.heads * c.width);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + row)) << count << " rows";
  }
}

TEST_P(CacheRows, AStepEqualsItsParts) {
  for (const Case c : {Case{70, 1, 12, 12, 128, 7, 0}, Case{9, 1, 12, 4, 64, 40, 0}, Case{3, 1, 4, 4, 128, 900, 0},
                       Case{140, 1, 8, 4, 64, 260, 0}, Case{9, 1, 4, 2, 64, 24, 24}, Case{3, 1, 4, 4, 128, 300, 300},
                       Case{4, 1, 4, 2, 24, 50, 0}, Case{3, 1, 16, 1, 128, 300, 0}}) {
    SCOPED_TRACE(::testing::Message() << c);
    RopeTable table(c.width, 10000.0);
    table.reserve(Space::device, 2 * c.capacity + 5);
    const std::int64_t all = c.heads + 2 * c.key_heads;
    const Pair qkv = random_pair(GetParam(), {c.rows, all, c.width}, 3);
    const IntPair slot = pair_of(slots_of(c.rows));
    const IntPair first = pair_of(firsts_of(c, c.window > 0 ? 2 * c.capacity : c.capacity));
    const auto cache = [&](std::uint64_t seed) {
      return random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, seed);
    };
    const Pair k = cache(1);
    const Pair v = cache(2);
    const Pair out = poisoned_pair(GetParam(), {c.rows, 1, c.heads, c.width});
    const auto new_heads = [&](std::int64_t begin, std::int64_t count) {
      return qkv.device.view().slice(1, begin, count).split(0, c.rows);
    };
    attention_step(ctx_, table,
                   {.q = new_heads(0, c.heads),
                    .k = new_heads(c.heads, c.key_heads),
                    .v = new_heads(c.heads + c.key_heads, c.key_heads),
                    .slot = slot.device,
                    .first = first.device,
                    .cache_k = k.device,
                    .cache_v = v.device,
                    .window = c.window,
                    .out = out.device});

    const Pair again = random_pair(GetParam(), {c.rows, all, c.width}, 3);
    const Pair part_k = cache(1);
    const Pair part_v = cache(2);
    const Pair part_out = poisoned_pair(GetParam(), {c.rows, 1, c.heads, c.width});
    const auto heads = [&](std::int64_t begin, std::int64_t count) {
      return again.device.view().slice(1, begin, count).split(0, c.rows);
    };
    rope(ctx_, table, first.device, again.device.view().slice(1, 0, c.heads + c.key_heads), Rotation::forward);
    cache_append(ctx_, heads(c.heads, c.key_heads), heads(c.heads + c.key_heads, c.key_heads), slot.device,
                 first.device, part_k.device, part_v.device);
    cache_attention(ctx_, heads(0, c.heads), part_k.device, part_v.device, slot.device, first.device, c.window,
                    part_out.device);
    EXPECT_EQ(values_of(k.device), values_of(part_k.device));
    EXPECT_EQ(values_of(v.device), values_of(part_v.device));
    EXPECT_EQ(values_of(out.device), values_of(part_out.device));
  }
}

// A captured call replays with whatever positions and slots lie in its arrays by then.
TEST_P(CacheRows, ReplayInAGraph) {
  const Case c{3, 1, 4, 4, 128, 900, 0};
  const Pair k = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 1);
  const Pair v = random_pair(GetParam(), {c.rows, c.capacity, c.key_heads, c.width}, 2);
  const Pair q = random_pair(GetParam(), {c.rows, 1, c.heads, c.width}, 3);
  const IntPair slot = pair_of(slots_of(c.rows));
  const IntPair first = pair_of<std::int32_t>({0, 0, 0});
  const Pair out = poisoned_pair(GetParam(), {c.rows, 1, c.heads, c.width});
  const auto stream = static_cast<cudaStream_t>(stream_.handle());
  scratch_.poison(false);  // which would wait for the device
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  cache_attention(ctx_, q.device, k.device, v.device, slot.device, first.device, 0, out.device);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&ready, graph, 0), cudaSuccess);
  for (const std::vector<std::int32_t>& firsts : {std::vector<std::int32_t>{5, 0, 899}, {700, 256, 1}}) {
    copy(pair_of(firsts).host.view(), first.device.view());
    ASSERT_EQ(cudaGraphLaunch(ready, stream), cudaSuccess);
    const std::vector<float> actual = values_of(out.device);
    const std::vector<double> wanted = expected(c, q, k, v, slots_of(c.rows), firsts);
    EXPECT_CLOSE(actual.data(), wanted.data(), q.host.numel(), 0x1p-9 + 4 * float32_tolerance(1028));
  }
  EXPECT_EQ(cudaGraphExecDestroy(ready), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

}  // namespace
}  // namespace photon
