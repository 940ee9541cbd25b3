#include "kernels/linear.hpp"

#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaLinear : public OnDevice {};
PHOTON_BOTH_DTYPES(CudaLinear);

struct Sizes {
  std::int64_t rows, in, out;
};
constexpr std::array<Sizes, 5> sizes = {{{1, 1, 1}, {3, 7, 5}, {33, 65, 31}, {130, 256, 72}, {700, 64, 512}}};

TEST_P(CudaLinear, MatchesTheHost) {
  for (const auto& [rows, in, out] : sizes) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << in << " x " << out);
    const Pair x = random_pair(GetParam(), {rows, in}, 1);
    const Pair w = random_pair(GetParam(), {out, in}, 2);
    for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
      ctx_.numerics = numerics;
      const Pair y = poisoned_pair(GetParam(), {rows, out});
      linear_forward(host_, x.host, w.host, y.host);
      cuda::linear_forward(ctx_, x.device, w.device, y.device);
      expect_match(y, tolerance(in));
      // Added to rows of a wider matrix, and in place.
      const Pair added = random_pair(GetParam(), {rows, out + 8}, 6);
      const auto part = [&](const Tensor& t) { return t.view().slice(1, 8, out); };
      const Pair sum = poisoned_pair(GetParam(), {rows, out});
      linear_forward(host_, x.host, w.host, sum.host, part(added.host));
      cuda::linear_forward(ctx_, x.device, w.device, sum.device, part(added.device));
      expect_match(sum, tolerance(in));
      linear_forward(host_, x.host, w.host, part(added.host), part(added.host));
      cuda::linear_forward(ctx_, x.device, w.device, part(added.device), part(added.device));
      expect_match(added, tolerance(in));

      const Pair dy = random_pair(GetParam(), {rows, out}, 3);
      const Pair dx = poisoned_pair(GetParam(), {rows, in});
      linear_backward_input(host_, dy.host, w.host, dx.host);
      cuda::linear_backward_input(ctx_, dy.device, w.device, dx.device, Write::replace);
      expect_match(dx, tolerance(out));
      const Pair more = random_pair(GetParam(), {rows, in}, 4);
      linear_backward_input(host_, dy.host, w.host, more.host, Write::accumulate);
      cuda::linear_backward_input(ctx_, dy.device, w.device, more.device, Write::accumulate);
      expect_match(more, tolerance(out));

      // The weight's gradient may be float32 while the activations are not.
      for (const DType dtype : {DType::f32, GetParam()}) {
        const Pair dw = random_pair(dtype, {out, in}, 5);
        linear_backward_weight(host_, dy.host, x.host, dw.host);
        cuda::linear_backward_weight(ctx_, dy.device, x.device, dw.device, Write::accumulate);
        expect_match(dw, tolerance(rows));
      }
    }
  }
}

TEST_P(CudaLinear, RowStrides) {
  const Pair wide = random_pair(GetParam(), {19, 48}, 1);
  const Pair w = random_pair(GetParam(), {24, 16}, 2);
  const Pair result = poisoned_pair(GetParam(), {19, 40});
  linear_forward(host_, wide.host.view().slice(1, 16, 16), w.host, result.host.view().slice(1, 8, 24));
  cuda::linear_forward(ctx_, wide.device.view().slice(1, 16, 16), w.device, result.device.view().slice(1, 8, 24));
  expect_match(result.device.view().slice(1, 8, 24), result.host.view().slice(1, 8, 24), tolerance(16));
  EXPECT_TRUE(std::isnan(values_of(result.device)[0])) << "written outside the slice";
}

TEST_P(CudaLinear, NoRows) {
  const Pair x = random_pair(GetParam(), {0, 8}, 1);
  const Pair w = random_pair(GetParam(), {4, 8}, 2);
  const Pair y = random_pair(GetParam(), {0, 4}, 3);
  cuda::linear_forward(ctx_, x.device, w.device, y.device);
  const Pair dw = poisoned_pair(GetParam(), {4, 8});
  cuda::linear_backward_weight(ctx_, y.device, x.device, dw.device, Write::replace);
  for (const float value : values_of(dw.device)) EXPECT_EQ(value, 0.0F);
}

TEST_P(CudaLinear, DeterministicRowsDoNotDependOnTheirNeighbours) {
  const Pair x = random_pair(GetParam(), {700, 384}, 1);
  const Pair w = random_pair(GetParam(), {200, 384}, 2);
  const Pair all = poisoned_pair(GetParam(), {700, 200});
  cuda::linear_forward(ctx_, x.device, w.device, all.device);
  const std::vector<float> expected = values_of(all.device);
  for (const std::int64_t rows : {1, 2, 17, 129, 300}) {
    const Pair some = poisoned_pair(GetParam(), {rows, 200});
    cuda::linear_forward(ctx_, x.device.view().slice(0, 3, rows), w.device, some.device);
    const std::vector<float> actual = values_of(some.device);
    for (std::size_t i = 0; i < actual.size(); ++i)
      ASSERT_EQ(actual[i], expected[3 * 200 + i]) << rows << " rows, element " << i;
  }
}

}  // namespace
}  // namespace photon
