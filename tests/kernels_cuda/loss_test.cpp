// The head's loss, the recursive loss, and the optimizer.
#include "kernels/head_loss.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/rec_loss.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaLoss : public OnDevice {
 protected:
  double total_of(const Tensor& total) {
    device::synchronize(stream_);
    const Tensor here(Space::host, DType::f64, {1});
    copy(total.view(), here.view());
    return *here.host<double>();
  }
};
PHOTON_BOTH_DTYPES(CudaLoss);

TEST_P(CudaLoss, Head) {
  for (const auto& [rows, width, vocabulary] : std::vector<std::array<std::int64_t, 3>>{
           {1, 3, 2}, {37, 24, 259}, {300, 64, 1003}, {37, 64, 1000}, {5, 32, 4104}, {3, 16, 33000}, {2, 8, 70000}}) {
    for (const bool masked : {false, true}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << width << " x " << vocabulary << (masked ? " masked" : ""));
      // Logits of about one: where they are rounded to bf16, so are their exponentials.
      const Pair y = random_pair(GetParam(), {rows, width}, 1, 1 / std::sqrt(static_cast<double>(width)));
      const Pair w = random_pair(GetParam(), {vocabulary, width}, 2);
      const double rounded = GetParam() == DType::f32 ? 0.0 : 0x1p-7;  // the logits of the backward pass
      const IntPair targets = pair_of(random_integers(rows, static_cast<std::int32_t>(vocabulary), 3));
      std::vector<std::uint8_t> counts;
      for (std::int64_t n = 0; n < rows; ++n) counts.push_back(n % 3 == 1 ? 0 : 1);
      const IntPair mask = pair_of(counts);
      const ConstTensorView host_mask = masked ? ConstTensorView(mask.host) : ConstTensorView();
      const ConstTensorView device_mask = masked ? ConstTensorView(mask.device) : ConstTensorView();
      const Pair token_loss = poisoned_pair(DType::f32, {rows});
      const IntPair argmax = pair_of(std::vector<std::int32_t>(static_cast<std::size_t>(rows), -7));
      const double expected =
          head_loss_forward(host_, y.host, w.host, targets.host, host_mask, token_loss.host, argmax.host);
      const double actual = cuda::head_loss_forward(ctx_, y.device, w.device, targets.device, device_mask,
                                                    token_loss.device, argmax.device);
      EXPECT_NEAR(actual, expected, 1e-5 * std::abs(expected));
      expect_match(token_loss, float32_tolerance(8 * width));
      const Tensor measured(Space::device, DType::f64, {1});
      cuda::add_head_loss_forward(ctx_, y.device, w.device, targets.device, device_mask, measured);
      EXPECT_EQ(total_of(measured), actual);
      const Tensor best(Space::host, DType::i32, {rows});
      copy(argmax.device.view(), best.view());
      for (std::int64_t n = 0; n < rows; ++n)
        EXPECT_EQ(best.host<std::int32_t>()[n], argmax.host.host<std::int32_t>()[n]);

      for (const DType dtype : {DType::f32, GetParam()}) {
        const Pair dy = poisoned_pair(GetParam(), {rows, width});
        const Pair dw = random_pair(dtype, {vocabulary, width}, 4, 1e-3);
        const double scale = 0.25;
        const double host_sum =
            head_loss_backward(host_, y.host, w.host, targets.host, host_mask, scale, dy.host, dw.host);
        const double device_sum = cuda::head_loss_backward(ctx_, y.device, w.device, targets.device, device_mask, scale,
                                                           dy.device, dw.device);
        EXPECT_NEAR(device_sum, host_sum, (1e-5 + rounded) * std::abs(host_sum));
        expect_match(dy, 2 * tolerance(16 * vocabulary) + rounded);
        expect_match(dw, 2 * tolerance(16 * rows) + rounded);
        // The same sum and gradients where nothing waits for the sum, on every run.
        const Pair dy_again = poisoned_pair(GetParam(), {rows, width});
        const Pair dw_again = random_pair(dtype, {vocabulary, width}, 4, 1e-3);
        const Tensor total(Space::device, DType::f64, {1});
        for (int run = 0; run < 2; ++run) {
          cuda::add_head_loss_backward(ctx_, y.device, w.device, targets.device, device_mask, scale, dy_again.device,
                                       dw_again.device, total);
          EXPECT_EQ(values_of(dy_again.device), values_of(dy.device));
          if (run > 0) continue;
          EXPECT_EQ(values_of(dw_again.device), values_of(dw.device));
        }
        EXPECT_EQ(total_of(total), 2 * device_sum);
      }
    }
  }
}

TEST_P(CudaLoss, HeadTiesGoToTheLowestIndex) {
  const Pair y = random_pair(GetParam(), {2, 4}, 1);
  const Pair w = random_pair(GetParam(), {600, 4}, 2, 0.0);
  const IntPair targets = pair_of<std::int32_t>({0, 599});
  const IntPair argmax = pair_of<std::int32_t>({-1, -1});
  const double sum = cuda::head_loss_forward(ctx_, y.device, w.device, targets.device, {}, {}, argmax.device);
  EXPECT_NEAR(sum, 2 * std::log(600.0), 1e-5);
  const Tensor best(Space::host, DType::i32, {2});
  copy(argmax.device.view(), best.view());
  EXPECT_EQ(best.host<std::int32_t>()[0], 0);
  EXPECT_EQ(best.host<std::int32_t>()[1], 0);
}

TEST_P(CudaLoss, HeadPassesOnNan) {
  Pair y = random_pair(GetParam(), {3, 4}, 1);
  const Pair w = random_pair(GetParam(), {9, 4}, 2);
  const IntPair targets = pair_of<std::int32_t>({0, 1, 2});
  y.host.host<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  upload(y.host, y.device);
  EXPECT_TRUE(std::isnan(cuda::head_loss_forward(ctx_, y.device, w.device, targets.device, {}, {}, {})));
}

TEST_P(CudaLoss, Recursive) {
  for (const RecDistance distance : {RecDistance::cosine, RecDistance::smooth_l1, RecDistance::mse}) {
    for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 2}, {37, 65}, {70, 512}}) {
      const Pair y = random_pair(GetParam(), {rows, width}, 1);
      const Pair x = random_pair(GetParam(), {rows, width}, 2);
      std::vector<std::uint8_t> counts;
      for (std::int64_t n = 0; n < rows; ++n) counts.push_back(n % 4 == 2 ? 0 : 1);
      const IntPair mask = pair_of(counts);
      for (const bool masked : {false, true}) {
        SCOPED_TRACE(::testing::Message() << static_cast<int>(distance) << ", " << rows << " x " << width << masked);
        const ConstTensorView host_mask = masked ? ConstTensorView(mask.host) : ConstTensorView();
        const ConstTensorView device_mask = masked ? ConstTensorView(mask.device) : ConstTensorView();
        const double expected = rec_loss_forward(host_, distance, y.host, x.host, host_mask);
        const double actual = cuda::rec_loss_forward(ctx_, distance, y.device, x.device, device_mask);
        EXPECT_NEAR(actual, expected, 1e-6 * std::abs(expected) + 1e-6);
        const Tensor total(Space::device, DType::f64, {1});
        cuda::add_rec_loss_forward(ctx_, distance, y.device, x.device, device_mask, total);
        EXPECT_EQ(total_of(total), actual);
        const Pair dy = random_pair(GetParam(), {rows, width}, 3, 0.01);
        const Pair dx = random_pair(GetParam(), {rows, width}, 4, 0.01);
        rec_loss_backward(host_, distance, y.host, x.host, host_mask, 0.7, dy.host, dx.host);
        cuda::rec_loss_backward(ctx_, distance, y.device, x.device, device_mask, 0.7, dy.device, dx.device);
        expect_match(dy, tolerance(width));
        expect_match(dx, tolerance(width));
        rec_loss_backward(host_, distance, y.host, x.host, host_mask, 0.7, dy.host, {});
        cuda::rec_loss_backward(ctx_, distance, y.device, x.device, device_mask, 0.7, dy.device, {});
        expect_match(dy, 2 * tolerance(width));
      }
    }
  }
}

TEST_P(CudaLoss, RecursiveOfZeros) {
  const Pair y = random_pair(GetParam(), {2, 6}, 1, 0.0);
  const Pair x = random_pair(GetParam(), {2, 6}, 2);
  EXPECT_EQ(cuda::rec_loss_forward(ctx_, RecDistance::cosine, y.device, x.device, {}), 2.0);
}

class CudaOptimizer : public OnDevice {};
INSTANTIATE_TEST_SUITE_P(, CudaOptimizer, ::testing::Values(DType::f32), dtype_name);

TEST_P(CudaOptimizer, AdamW) {
  for (const std::int64_t n : {1, 1023, 40000}) {
    const Pair p = random_pair(DType::f32, {n}, 1);
    const Pair m = random_pair(DType::f32, {n}, 2, 0.0);
    const Pair v = random_pair(DType::f32, {n}, 3, 0.0);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const AdamWStep options{.learning_rate = 1e-2,
                              .beta1 = 0.9,
                              .beta2 = 0.95,
                              .eps = 1e-8,
                              .weight_decay = 0.1,
                              .gradient_scale = 0.5,
                              .step = step};
      const Pair g = random_pair(DType::f32, {n}, 4 + static_cast<std::uint64_t>(step));
      adamw(host_, options, p.host, g.host, m.host, v.host);
      cuda::adamw(ctx_, options, p.device, g.device, m.device, v.device);
    }
    expect_match(p, 1e-6);
    expect_match(m, 1e-6);
    expect_match(v, 1e-6);
  }
}

TEST_P(CudaOptimizer, SumOfSquares) {
  for (const std::int64_t n : {0, 1, 4097, 1000000}) {
    const Pair x = random_pair(DType::f32, {n}, 1);
    const double expected = sum_of_squares(host_, x.host);
    EXPECT_NEAR(cuda::sum_of_squares(ctx_, x.device), expected, 1e-12 * expected);
    EXPECT_EQ(cuda::sum_of_squares(ctx_, x.device), cuda::sum_of_squares(ctx_, x.device));
    const Tensor total(Space::device, DType::f64, {1});
    cuda::add_sum_of_squares(ctx_, x.device, total);
    device::synchronize(stream_);
    const Tensor here(Space::host, DType::f64, {1});
    copy(total.view(), here.view());
    EXPECT_EQ(*here.host<double>(), cuda::sum_of_squares(ctx_, x.device));
  }
  const Pair x = random_pair(DType::f32, {77}, 1);
  x.host.host<float>()[76] = std::numeric_limits<float>::infinity();
  upload(x.host, x.device);
  EXPECT_FALSE(std::isfinite(cuda::sum_of_squares(ctx_, x.device)));
}

}  // namespace
}  // namespace photon
