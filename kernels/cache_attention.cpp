#include "kernels/cache_attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void expect_cache(const Context& ctx, const ConstTensorView& rows, const ConstTensorView& cache_k,
                  const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first) {
  const DType dtype = activation_type(ctx, rows, "the new rows");
  expect_rank(ctx, rows, dtype, 4, "the new rows");
  expect_rank(ctx, cache_k, dtype, 4, "cache_k");
  expect_tensor(ctx, cache_v, dtype, cache_k.shape(), "cache_v");
  expect_tensor(ctx, slot, DType::i32, {rows.size(0)}, "slot");
  expect_tensor(ctx, first, DType::i32, {rows.size(0)}, "first");
  PHOTON_EXPECT(rows.size(3) == cache_k.size(3), "heads of width {} for a cache of width {}", rows.size(3),
                cache_k.size(3));
  PHOTON_EXPECT(rows.numel() == 0 || cache_k.numel() > 0, "a cache of shape {}", cache_k.shape().str());
  if (ctx.space == Space::device) return;
  for (std::int64_t r = 0; r < rows.size(0); ++r) {
    const std::int32_t s = slot.host<std::int32_t>()[r];
    PHOTON_EXPECT(s >= 0 && s < cache_k.size(0), "slot {} of a cache of {}", s, cache_k.size(0));
    PHOTON_EXPECT(first.host<std::int32_t>()[r] >= 0, "a first position of {}", first.host<std::int32_t>()[r]);
  }
}

}  // namespace

void cache_append(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                  const ConstTensorView& first, const TensorView& cache_k, const TensorView& cache_v) {
  expect_cache(ctx, k, cache_k, cache_v, slot, first);
  expect_tensor(ctx, v, k.dtype(), k.shape(), "v");
  PHOTON_EXPECT(k.size(2) == cache_k.size(2), "{} key heads for a cache of {}", k.size(2), cache_k.size(2));
  if (ctx.space == Space::device) return cuda::cache_append(ctx, k, v, slot, first, cache_k, cache_v);
  if (k.numel() == 0) return;
  const std::int64_t positions = k.size(1);
  const std::int64_t capacity = cache_k.size(1);
  const std::int64_t kept = std::max<std::int64_t>(0, positions - capacity);  // the first position that stays
  const std::size_t bytes = static_cast<std::size_t>(k.size(3)) * sizeof(float);
  const std::int32_t* slots = slot.host<std::int32_t>();
  const std::int32_t* starts = first.host<std::int32_t>();
#pragma omp parallel for schedule(static) if (k.numel() > 16384)
  for (std::int64_t r = 0; r < k.size(0); ++r) {
    for (std::int64_t p = kept; p < positions; ++p) {
      const std::int64_t at = (starts[r] + p) % capacity;
      for (std::int64_t h = 0; h < k.size(2); ++h) {
        std::memcpy(
            cache_k.host<float>() + slots[r] * cache_k.stride(0) + at * cache_k.stride(1) + h * cache_k.stride(2),
            k.host<float>() + r * k.stride(0) + p * k.stride(1) + h * k.stride(2), bytes);
        std::memcpy(
            cache_v.host<float>() + slots[r] * cache_v.stride(0) + at * cache_v.stride(1) + h * cache_v.stride(2),
            v.host<float>() + r * v.stride(0) + p * v.stride(1) + h * v.stride(2), bytes);
      }
    }
  }
}

void cache_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                     const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                     std::int64_t window, const TensorView& out) {
  expect_cache(ctx, q, cache_k, cache_v, slot, first);
  expect_tensor(ctx, out, q.dtype(), q.shape(), "out");
  PHOTON_EXPECT(window >= 0, "an attention window of {}", window);
  PHOTON_EXPECT(cache_k.size(2) > 0 && q.size(2) % cache_k.size(2) == 0, "{} query heads for {} key heads", q.size(2),
                cache_k.size(2));
  if (ctx.space == Space::device) return cuda::cache_attention(ctx, q, cache_k, cache_v, slot, first, window, out);
  if (q.numel() == 0) return;
  const std::int64_t positions = q.size(1);
  const std::int64_t capacity = cache_k.size(1);
  const std::int32_t* slots = slot.host<std::int32_t>();
  const std::int32_t* starts = first.host<std::int32_t>();
  std::int64_t work = 0;  // multiply-adds, about
  for (std::int64_t r = 0; r < q.size(0); ++r) {
    const std::int64_t last = starts[r] + positions - 1;
    const std::int64_t seen = window > 0 ? std::min(window, last + 1) : last + 1;
    PHOTON_EXPECT(positions == 1 ? seen <= capacity : last < capacity,
                  "positions {} .. {} with a window of {} in a cache of {} positions", starts[r], last, window,
                  capacity);
    work += seen * positions * q.size(2) * q.size(3);
  }
  const std::int64_t key_heads = cache_k.size(2);
  const std::int64_t sharing = q.size(2) / key_heads;
  // A tile is a run of positions of one query head, or, for a single position, the query heads that share a key head.
  const bool single = positions == 1;
  const std::int64_t columns = single ? key_heads : q.size(2);
  const std::int64_t length = single ? sharing : positions;
  const std::int64_t tiles = (length + cpu::attention_queries - 1) / cpu::attention_queries;
#pragma omp parallel for collapse(3) schedule(dynamic) if (work > 32768)
  for (std::int64_t r = 0; r < q.size(0); ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t begin = tile * cpu::attention_queries;
        const std::int64_t head = single ? c * sharing + begin : c;
        const std::int64_t position = single ? 0 : begin;
        const std::int64_t key_head = head / sharing;
        cpu::AttentionQueries t{};
        t.q = q.host<float>() + r * q.stride(0) + position * q.stride(1) + head * q.stride(2);
        t.q_stride = single ? q.stride(2) : q.stride(1);
        t.out = out.host<float>() + r * out.stride(0) + position * out.stride(1) + head * out.stride(2);
        t.out_stride = single ? out.stride(2) : out.stride(1);
        t.count = std::min(cpu::attention_queries, length - begin);
        t.position = starts[r] + position;
        t.position_step = single ? 0 : 1;
        t.k = cache_k.host<float>() + slots[r] * cache_k.stride(0) + key_head * cache_k.stride(2);
        t.v = cache_v.host<float>() + slots[r] * cache_v.stride(0) + key_head * cache_v.stride(2);
        t.k_stride = cache_k.stride(1);
        t.v_stride = cache_v.stride(1);
        t.capacity = capacity;
        t.window = window;
        t.head_width = q.size(3);
        t.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3))));
        cpu::loops().attend(t, cpu::thread_scratch(cpu::attention_scratch(q.size(3))));
      }
    }
  }
}

}  // namespace photon
