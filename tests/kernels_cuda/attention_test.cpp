// Attention along the stream and against caches.
#include "kernels/attention.hpp"

#include "kernels/cache_attention.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaAttention : public OnDevice {
 protected:
  // Rounded results of sums; bf16 gradients are sums of rounded inputs only, so one rounding is all.
  double limit(std::int64_t terms) const { return 4 * float32_tolerance(terms) + tolerance(1); }
};
PHOTON_BOTH_DTYPES(CudaAttention);

TEST_P(CudaAttention, Stream) {
  struct Case {
    std::int64_t batch, positions, heads, key_heads, width, window;
  };
  for (const Case c : {Case{1, 1, 1, 1, 16, 0}, Case{2, 37, 2, 2, 8, 0}, Case{1, 64, 2, 1, 64, 0},
                       Case{2, 131, 4, 2, 40, 0}, Case{1, 200, 3, 1, 128, 0}, Case{1, 150, 2, 2, 64, 1},
                       Case{2, 190, 2, 1, 80, 33}, Case{1, 300, 1, 1, 32, 128}}) {
    SCOPED_TRACE(::testing::Message() << c.batch << " x " << c.positions << ", heads " << c.heads << "/" << c.key_heads
                                      << " of " << c.width << ", window " << c.window);
    const Shape fused_shape = {c.batch, c.positions, (c.heads + 2 * c.key_heads) * c.width};
    const auto heads_in = [&](const Tensor& t, std::int64_t first, std::int64_t count) {
      return t.view().slice(2, first * c.width, count * c.width).split(2, count);
    };
    const auto q = [&](const Tensor& t) { return heads_in(t, 0, c.heads); };
    const auto k = [&](const Tensor& t) { return heads_in(t, c.heads, c.key_heads); };
    const auto v = [&](const Tensor& t) { return heads_in(t, c.heads + c.key_heads, c.key_heads); };
    const Pair qkv = random_pair(GetParam(), fused_shape, 1);
    const Pair out = poisoned_pair(GetParam(), {c.batch, c.positions, c.heads, c.width});
    const Pair lse = poisoned_pair(DType::f32, {c.batch, c.heads, c.positions});
    stream_attention_forward(host_, q(qkv.host), k(qkv.host), v(qkv.host), c.window, out.host, lse.host);
    cuda::stream_attention_forward(ctx_, q(qkv.device), k(qkv.device), v(qkv.device), c.window, out.device, lse.device);
    expect_match(out, limit(c.width + c.positions));
    expect_match(lse, limit(c.width));

    // Equal values on both sides, so that only the backward pass is compared.
    upload(out.host, out.device);
    if (GetParam() != DType::f32) {
      const std::vector<float> rounded = values_of(out.device);
      std::copy(rounded.begin(), rounded.end(), out.host.host<float>());
    }
    const Pair dout = random_pair(GetParam(), {c.batch, c.positions, c.heads, c.width}, 2);
    RopeTable host_table(c.width, 10000.0);
    RopeTable device_table(c.width, 10000.0);
    host_table.reserve(Space::host, c.positions);
    device_table.reserve(Space::device, c.positions);
    for (const bool turned : {false, true}) {
      const Pair grads = poisoned_pair(GetParam(), fused_shape);
      stream_attention_backward(host_, q(qkv.host), k(qkv.host), v(qkv.host), out.host, lse.host, dout.host, c.window,
                                q(grads.host), k(grads.host), v(grads.host), turned ? &host_table : nullptr);
      cuda::stream_attention_backward(ctx_, q(qkv.device), k(qkv.device), v(qkv.device), out.device, lse.device,
                                      dout.device, c.window, q(grads.device), k(grads.device), v(grads.device),
                                      turned ? &device_table : nullptr);
      expect_match(grads, limit(2 * c.width + c.positions * c.heads));
    }
  }
}

TEST_P(CudaAttention, StreamWithoutLogSums) {
  const Pair q = random_pair(GetParam(), {1, 70, 2, 24}, 1);
  const Pair out = poisoned_pair(GetParam(), {1, 70, 2, 24});
  stream_attention_forward(host_, q.host, q.host, q.host, 0, out.host, {});
  cuda::stream_attention_forward(ctx_, q.device, q.device, q.device, 0, out.device, {});
  expect_match(out, limit(94));
}

TEST_P(CudaAttention, ContiguousCaches) {
  const std::int64_t slots = 5;
  const std::int64_t capacity = 90;
  const Pair cache_k = random_pair(GetParam(), {slots, capacity, 2, 48}, 1);
  const Pair cache_v = random_pair(GetParam(), {slots, capacity, 2, 48}, 2);
  const IntPair slot = pair_of<std::int32_t>({4, 0, 2});
  const IntPair first = pair_of<std::int32_t>({0, 81, 40});
  const std::int64_t count = 9;
  const Pair k = random_pair(GetParam(), {3, count, 2, 48}, 3);
  const Pair v = random_pair(GetParam(), {3, count, 2, 48}, 4);
  cache_append(host_, k.host, v.host, slot.host, first.host, cache_k.host, cache_v.host);
  cuda::cache_append(ctx_, k.device, v.device, slot.device, first.device, cache_k.device, cache_v.device);
  expect_match(cache_k, 0.0);
  expect_match(cache_v, 0.0);
  const Pair q = random_pair(GetParam(), {3, count, 6, 48}, 5);
  for (const std::int64_t window : {0, 1, 20}) {
    const Pair out = poisoned_pair(GetParam(), {3, count, 6, 48});
    cache_attention(host_, q.host, cache_k.host, cache_v.host, slot.host, first.host, window, out.host);
    cuda::cache_attention(ctx_, q.device, cache_k.device, cache_v.device, slot.device, first.device, window,
                          out.device);
    expect_match(out, limit(140));
  }
}

TEST_P(CudaAttention, RingCaches) {
  const std::int64_t window = 13;
  const Pair cache_k = random_pair(GetParam(), {3, window, 1, 128}, 1);
  const Pair cache_v = random_pair(GetParam(), {3, window, 1, 128}, 2);
  const IntPair slot = pair_of<std::int32_t>({1, 2});
  // More new positions than the ring holds: the last ones stay.
  const IntPair start = pair_of<std::int32_t>({0, 3});
  const Pair many_k = random_pair(GetParam(), {2, 31, 1, 128}, 3);
  const Pair many_v = random_pair(GetParam(), {2, 31, 1, 128}, 4);
  cache_append(host_, many_k.host, many_v.host, slot.host, start.host, cache_k.host, cache_v.host);
  cuda::cache_append(ctx_, many_k.device, many_v.device, slot.device, start.device, cache_k.device, cache_v.device);
  expect_match(cache_k, 0.0);
  expect_match(cache_v, 0.0);
  const IntPair next = pair_of<std::int32_t>({31, 34});
  const Pair k = random_pair(GetParam(), {2, 1, 1, 128}, 5);
  const Pair v = random_pair(GetParam(), {2, 1, 1, 128}, 6);
  const Pair q = random_pair(GetParam(), {2, 1, 4, 128}, 7);
  const Pair out = poisoned_pair(GetParam(), {2, 1, 4, 128});
  cache_append(host_, k.host, v.host, slot.host, next.host, cache_k.host, cache_v.host);
  cuda::cache_append(ctx_, k.device, v.device, slot.device, next.device, cache_k.device, cache_v.device);
  cache_attention(host_, q.host, cache_k.host, cache_v.host, slot.host, next.host, window, out.host);
  cuda::cache_attention(ctx_, q.device, cache_k.device, cache_v.device, slot.device, next.device, window, out.device);
  expect_match(out, limit(141));
}

}  // namespace
}  // namespace photon
