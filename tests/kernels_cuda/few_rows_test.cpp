// Products for few rows on a device against the host's.
#include "kernels/few_rows.hpp"

#include "parity.hpp"

namespace photon {
namespace {

using testing::make_pair_of;
using testing::OnDevice;
using testing::Pair;
using testing::poisoned_pair;
using testing::random_pair;

class FewRows : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    ctx_.numerics = Numerics::tuned;
  }
};
INSTANTIATE_TEST_SUITE_P(, FewRows, ::testing::Values(DType::bf16), testing::dtype_name);

struct Size {
  std::int64_t width;
  std::int64_t outputs;
};

TEST_P(FewRows, AllOpsAreTheHosts) {
  for (const Size size :
       {Size{8, 2}, Size{24, 6}, Size{256, 34}, Size{1408, 130}, Size{1536, 4608}, Size{4096, 1536}}) {
    for (const std::int64_t n : {1, 2, 3, 4, 7, 8}) {
      SCOPED_TRACE(fmt::format("{} rows of {} x {}", n, size.outputs, size.width));
      const Pair x = random_pair(DType::bf16, {n, size.width}, 1);
      const Pair w = random_pair(DType::bf16, {size.outputs, size.width}, 2, 0.1);
      const Pair norm = random_pair(DType::f32, {size.width}, 3);
      ASSERT_TRUE(few_rows_apply(ctx_, n, w.device.view()));
      const Pair y = poisoned_pair(DType::bf16, {n, size.outputs});
      few_norm_linear(ctx_, x.device.view(), norm.device.view(), 1e-5, w.device.view(), y.device.view());
      few_norm_linear(host_, x.host.view(), norm.host.view(), 1e-5, w.host.view(), y.host.view());
      expect_match(y, 2 * tolerance(size.width));  // the normalised rows are rounded as well

      const Pair act = poisoned_pair(DType::bf16, {n, size.outputs / 2});
      few_norm_swiglu(ctx_, x.device.view(), norm.device.view(), 1e-5, w.device.view(), act.device.view());
      few_norm_swiglu(host_, x.host.view(), norm.host.view(), 1e-5, w.host.view(), act.host.view());
      expect_match(act, 4 * tolerance(size.width));

      const Pair residual = random_pair(DType::bf16, {n, size.outputs}, 4);
      const Pair sum = poisoned_pair(DType::bf16, {n, size.outputs});
      few_linear(ctx_, x.device.view(), w.device.view(), residual.device.view(), sum.device.view());
      few_linear(host_, x.host.view(), w.host.view(), residual.host.view(), sum.host.view());
      expect_match(sum, tolerance(size.width));
      few_linear(ctx_, x.device.view(), w.device.view(), residual.device.view(), residual.device.view());
      EXPECT_EQ(values_of(residual.device), values_of(sum.device)) << "in place";

      const Pair h = poisoned_pair(DType::bf16, {n, size.width});
      few_norm(ctx_, x.device.view(), norm.device.view(), 1e-5, h.device.view());
      few_norm(host_, x.host.view(), norm.host.view(), 1e-5, h.host.view());
      expect_match(h, tolerance(size.width));

      // Rows inside wider ones, and a result in float32.
      const Pair wide = random_pair(DType::bf16, {n, 3 * size.width}, 5);
      const Pair logits = poisoned_pair(DType::f32, {n, size.outputs});
      few_linear(ctx_, wide.device.view().slice(1, size.width, size.width), w.device.view(), {}, logits.device.view());
      few_linear(host_, wide.host.view().slice(1, size.width, size.width), w.host.view(), {}, logits.host.view());
      expect_match(logits, testing::float32_tolerance(size.width));
    }
  }
}

TEST_P(FewRows, AreLeftToOthersWhereRowsMustNotDependOnTheirNumber) {
  const Pair w = random_pair(DType::bf16, {32, 64}, 2);
  EXPECT_TRUE(few_rows_apply(ctx_, 8, w.device.view()));
  EXPECT_FALSE(few_rows_apply(ctx_, 9, w.device.view()));
  ctx_.numerics = Numerics::deterministic;
  EXPECT_FALSE(few_rows_apply(ctx_, 1, w.device.view()));
  EXPECT_FALSE(few_rows_apply(host_, 1, w.host.view()));
}

}  // namespace
}  // namespace photon
