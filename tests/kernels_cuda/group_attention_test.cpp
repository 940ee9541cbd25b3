// Attention inside groups.
#include "kernels/group_attention.hpp"

#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

struct Case {
  std::int64_t groups, positions, queries, heads, key_heads, width;
  std::int64_t gap = 0;  // unused elements behind every row
};

// Small bf16 groups of heads of 64 and 128 take another way than all others, and so do rows that are not packs.
constexpr Case cases[] = {
    {1, 1, 1, 1, 1, 16},     {37, 7, 7, 3, 3, 128},      {20, 7, 4, 4, 2, 64},   {9, 8, 8, 2, 1, 32},
    {5, 19, 19, 2, 2, 48},   {3, 33, 5, 4, 1, 80},       {2, 64, 64, 2, 1, 128}, {70, 4, 1, 2, 2, 96},
    {3, 1, 1, 5, 5, 128},    {29, 8, 8, 6, 2, 128},      {13, 5, 3, 4, 1, 128},  {31, 3, 2, 2, 2, 64},
    {11, 7, 7, 3, 1, 64, 8}, {11, 7, 7, 12, 12, 128, 1}, {6, 9, 9, 2, 2, 128},   {4, 16, 16, 4, 2, 64},
    {3, 17, 10, 2, 1, 128},  {2, 32, 32, 3, 3, 128},     {2, 31, 31, 2, 1, 64},  {2, 64, 7, 2, 2, 64},
};

class CudaGroupAttention : public OnDevice {
 protected:
  // Rounded results of sums; probabilities and the scores' gradients are rounded to bf16 before the next product, and
  // so are rotated queries and keys.
  double limit(std::int64_t terms) const {
    return 4 * float32_tolerance(terms) + (GetParam() == DType::f32 ? tolerance(1) : 0x1p-7);
  }
};
PHOTON_BOTH_DTYPES(CudaGroupAttention);

// q, k, v are parts of one buffer, as in a decoder's layer.
class Operands {
 public:
  Operands(DType dtype, const Case& c)
      : c_(c),
        qkv(random_pair(dtype, {c.groups, c.positions, (c.heads + 2 * c.key_heads) * c.width + c.gap}, 1)),
        dout(random_pair(dtype, {c.groups, c.queries, c.heads, c.width}, 2)),
        out(poisoned_pair(dtype, {c.groups, c.queries, c.heads, c.width})),
        dq(poisoned_pair(dtype, {c.groups, c.queries, c.heads, c.width})),
        dkv(poisoned_pair(dtype, {c.groups, c.positions, 2 * c.key_heads * c.width})),
        host_table(c.width, 300.0),
        device_table(c.width, 300.0) {
    host_table.reserve(Space::host, c.positions);
    device_table.reserve(Space::device, c.positions);
  }

  TensorView q(const Tensor& t) const {
    return heads_in(t, 0, c_.heads).slice(1, c_.positions - c_.queries, c_.queries);
  }
  TensorView k(const Tensor& t) const { return heads_in(t, c_.heads, c_.key_heads); }
  TensorView v(const Tensor& t) const { return heads_in(t, c_.heads + c_.key_heads, c_.key_heads); }
  TensorView dk(const Tensor& t) const { return heads_in(t, 0, c_.key_heads); }
  TensorView dv(const Tensor& t) const { return heads_in(t, c_.key_heads, c_.key_heads); }

  void forward(const Context& ctx, bool rotates) const {
    cuda::group_attention_forward(ctx, q(qkv.device), k(qkv.device), v(qkv.device), out.device,
                                  rotates ? &device_table : nullptr);
  }
  void backward(const Context& ctx, bool rotates) const {
    cuda::group_attention_backward(ctx, q(qkv.device), k(qkv.device), v(qkv.device), dout.device, dq.device,
                                   dk(dkv.device), dv(dkv.device), rotates ? &device_table : nullptr);
  }

 private:
  TensorView heads_in(const Tensor& t, std::int64_t first, std::int64_t count) const {
    return t.view().slice(2, first * c_.width, count * c_.width).split(2, count);
  }
  Case c_;

 public:
  Pair qkv, dout, out, dq, dkv;
  RopeTable host_table, device_table;
};

// The first or second `width` elements of rows of 2 * width.
std::vector<float> half_rows(const std::vector<float>& rows, std::int64_t width, bool second) {
  std::vector<float> half;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if ((static_cast<std::int64_t>(i) / width % 2 == 1) == second) half.push_back(rows[i]);
  }
  return half;
}

TEST_P(CudaGroupAttention, MatchesTheHost) {
  for (const Case& c : cases) {
    for (const bool rotates : {false, true}) {
      SCOPED_TRACE(::testing::Message() << c.groups << " groups, " << c.queries << " of " << c.positions
                                        << " positions, heads " << c.heads << "/" << c.key_heads << " of " << c.width
                                        << (rotates ? ", rotated" : ""));
      const Operands o(GetParam(), c);
      const RopeTable* const table = rotates ? &o.host_table : nullptr;
      group_attention_forward(host_, o.q(o.qkv.host), o.k(o.qkv.host), o.v(o.qkv.host), o.out.host, table);
      o.forward(ctx_, rotates);
      expect_match(o.out, limit(c.width + c.positions));

      group_attention_backward(host_, o.q(o.qkv.host), o.k(o.qkv.host), o.v(o.qkv.host), o.dout.host, o.dq.host,
                               o.dk(o.dkv.host), o.dv(o.dkv.host), table);
      o.backward(ctx_, rotates);
      // A single visible key has probability 1 and a gradient of exactly 0 to its query.
      if (c.positions > 1) expect_match(o.dq, limit(2 * c.width + c.positions));
      const std::vector<float> actual = values_of(o.dkv.device);
      const float* const expected = o.dkv.host.host<float>();
      const std::vector<float> whole(expected, expected + actual.size());
      for (const bool values : {false, true}) {
        if (c.positions == 1 && !values) continue;
        const std::vector<float> here = half_rows(actual, c.key_heads * c.width, values);
        const std::vector<float> there = half_rows(whole, c.key_heads * c.width, values);
        EXPECT_CLOSE(here.data(), there.data(), static_cast<std::int64_t>(here.size()),
                     limit(2 * c.width + c.positions * c.heads));
      }
    }
  }
}

TEST_P(CudaGroupAttention, AGroupsBitsDependOnNothingElse) {
  const Case whole{41, 7, 7, 4, 2, 128};
  const Operands all(GetParam(), whole);
  all.forward(ctx_, true);
  all.backward(ctx_, true);
  const std::vector<float> out = values_of(all.out.device);
  const std::vector<float> dq = values_of(all.dq.device);
  const std::vector<float> dkv = values_of(all.dkv.device);
  all.forward(ctx_, true);
  all.backward(ctx_, true);
  EXPECT_EQ(out, values_of(all.out.device));
  EXPECT_EQ(dq, values_of(all.dq.device));
  EXPECT_EQ(dkv, values_of(all.dkv.device));
  // The last groups alone.
  const std::int64_t count = 3;
  Case part = whole;
  part.groups = count;
  const Operands some(GetParam(), part);
  const auto copy_last = [&](const Tensor& from, const Tensor& to) {
    const TensorView last = from.view().slice(0, whole.groups - count, count);
    copy(last.reshape({last.numel()}), to.view().reshape({last.numel()}));
  };
  copy_last(all.qkv.device, some.qkv.device);
  copy_last(all.dout.device, some.dout.device);
  some.forward(ctx_, true);
  some.backward(ctx_, true);
  const auto expect_tail = [&](const std::vector<float>& of, const Tensor& tail) {
    const std::vector<float> found = values_of(tail);
    EXPECT_EQ(found, std::vector<float>(of.end() - static_cast<std::ptrdiff_t>(found.size()), of.end()));
  };
  expect_tail(out, some.out.device);
  expect_tail(dq, some.dq.device);
  expect_tail(dkv, some.dkv.device);
}

}  // namespace
}  // namespace photon
