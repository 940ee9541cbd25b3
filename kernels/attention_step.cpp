#include "kernels/attention_step.hpp"

#include <vector>

#include "kernels/cache_attention.hpp"
#include "kernels/checks.hpp"

namespace photon {
namespace {

// first[r] + offset of every row.
std::vector<std::int32_t> positions_of(const ConstTensorView& first, std::int64_t offset) {
  std::vector<std::int32_t> positions;
  positions.reserve(static_cast<std::size_t>(first.size(0)));
  for (std::int64_t r = 0; r < first.size(0); ++r)
    positions.push_back(static_cast<std::int32_t>(first.host<std::int32_t>()[r] + offset));
  return positions;
}

void rotate(const Context& ctx, const RopeTable& table, const ConstTensorView& first, std::int64_t begin,
            const TensorView& heads) {
  for (std::int64_t p = 0; p < heads.size(1); ++p) {
    const std::vector<std::int32_t> positions = positions_of(first, begin + p);
    rope(ctx, table, host_view(positions.data(), {first.size(0)}), heads.slice(1, p, 1).merge(1), Rotation::forward);
  }
}

}  // namespace

void attention_step(const Context& ctx, const RopeTable& table, const AttentionStep& s) {
  const DType dtype = activation_type(ctx, s.q, "q");
  expect_rank(ctx, s.q, dtype, 4, "q");
  expect_rank(ctx, s.k, dtype, 4, "k");
  expect_tensor(ctx, s.v, dtype, s.k.shape(), "v");
  const std::int64_t n = s.k.size(0);
  const std::int64_t positions = s.k.size(1);
  const std::int64_t queries = s.q.size(1);
  expect_shape(s.q, {n, queries, s.q.size(2), s.k.size(3)}, "q");
  expect_tensor(ctx, s.out, dtype, s.q.shape(), "out");
  expect_tensor(ctx, s.slot, DType::i32, {n}, "slot");
  expect_tensor(ctx, s.first, DType::i32, {n}, "first");
  expect_rank(ctx, s.cache_k, dtype, 4, "cache_k");
  expect_tensor(ctx, s.cache_v, dtype, s.cache_k.shape(), "cache_v");
  PHOTON_EXPECT(s.cache_k.size(2) == s.k.size(2) && s.cache_k.size(3) == s.k.size(3), "a cache of {} for keys of {}",
                s.cache_k.shape().str(), s.k.shape().str());
  PHOTON_EXPECT(queries == 1 || queries == positions, "{} queries of {} new positions", queries, positions);
  if (ctx.space == Space::device) return cuda::attention_step(ctx, table, s);
  if (s.k.numel() == 0) return;
  const std::int64_t skipped = positions - queries;
  rotate(ctx, table, s.first, 0, s.k);
  rotate(ctx, table, s.first, skipped, s.q);
  cache_append(ctx, s.k, s.v, s.slot, s.first, s.cache_k, s.cache_v);
  const std::vector<std::int32_t> asked = positions_of(s.first, skipped);
  cache_attention(ctx, s.q, s.cache_k, s.cache_v, s.slot, host_view(asked.data(), {n}), s.window, s.out);
}

void cache_fill(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                const ConstTensorView& length, const TensorView& cache_k, const TensorView& cache_v) {
  const std::int64_t n = k.size(0);
  expect_tensor(ctx, slot, DType::i32, {n}, "slot");
  expect_tensor(ctx, length, DType::i32, {n}, "length");
  if (ctx.space == Space::device) return cuda::cache_fill(ctx, k, v, slot, length, cache_k, cache_v);
  const std::int32_t zero = 0;
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t count = length.host<std::int32_t>()[r];
    if (count == 0) continue;
    // Sequence by sequence: what pads a shorter one must not enter a ring.
    cache_append(ctx, k.slice(0, r, 1).slice(1, 0, count), v.slice(0, r, 1).slice(1, 0, count), slot.slice(0, r, 1),
                 host_view(&zero, {1}), cache_k, cache_v);
  }
}

}  // namespace photon
