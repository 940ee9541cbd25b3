// Norm, rope, SwiGLU and the elementwise ops.
#include "kernels/elementwise.hpp"
#include "kernels/norm.hpp"
#include "kernels/rope.hpp"
#include "kernels/swiglu.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaRows : public OnDevice {};
PHOTON_BOTH_DTYPES(CudaRows);

constexpr double eps = 1e-5;

TEST_P(CudaRows, RmsNorm) {
  for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1},
                                                                                      {3, 7},
                                                                                      {9, 96},
                                                                                      {700, 264},
                                                                                      {67, 1536},
                                                                                      {1201, 512},
                                                                                      {5, 4096},
                                                                                      {3, 4104},
                                                                                      {2, 12296},
                                                                                      {2, 20000}}) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << width);
    const Pair x = random_pair(GetParam(), {rows, width}, 1);
    const Pair w = random_pair(DType::f32, {width}, 3);
    const Pair y = poisoned_pair(GetParam(), {rows, width});
    const Pair rstd = poisoned_pair(DType::f32, {rows});
    rms_norm_forward(host_, x.host, w.host, eps, y.host, rstd.host.view());
    cuda::rms_norm_forward(ctx_, x.device, w.device, eps, y.device, rstd.device);
    expect_match(y, tolerance(width));
    expect_match(rstd, float32_tolerance(width));

    const Pair dy = random_pair(GetParam(), {rows, width}, 4);
    const auto backward = [&](const Pair& before, bool adds, const Pair& dx) {
      const Pair dw = random_pair(DType::f32, {width}, 6);
      const Pair again = poisoned_pair(GetParam(), {rows, width});
      rms_norm_backward(host_, dy.host, x.host, w.host, rstd.host, adds ? before.host.view() : ConstTensorView(),
                        dx.host, dw.host, again.host);
      cuda::rms_norm_backward(ctx_, dy.device, x.device, w.device, rstd.device,
                              adds ? before.device.view() : ConstTensorView(), dx.device, dw.device, again.device);
      // One element: the exact gradient is a difference that cancels.
      if (width > 1) expect_match(dx, tolerance(4 * width));
      expect_match(dw, tolerance(4 * rows));
      EXPECT_EQ(values_of(again.device), values_of(y.device));
    };
    const Pair before = random_pair(GetParam(), {rows, width}, 5);
    backward(before, false, poisoned_pair(GetParam(), {rows, width}));
    backward(before, true, poisoned_pair(GetParam(), {rows, width}));
    backward(before, true, before);  // in place
    const Pair dx = poisoned_pair(GetParam(), {rows, width});
    const Pair dw = random_pair(DType::f32, {width}, 6);
    rms_norm_backward(host_, dy.host, x.host, w.host, rstd.host, {}, dx.host, dw.host);
    cuda::rms_norm_backward(ctx_, dy.device, x.device, w.device, rstd.device, {}, dx.device, dw.device);
    if (width > 1) expect_match(dx, tolerance(4 * width));
  }
}

TEST_P(CudaRows, RmsNormBackwardInPlace) {
  const Pair x = random_pair(GetParam(), {50, 72}, 1);
  const Pair w = random_pair(DType::f32, {72}, 2);
  const Pair dy = random_pair(GetParam(), {50, 72}, 3);
  const Pair rstd = poisoned_pair(DType::f32, {50});
  const Pair y = poisoned_pair(GetParam(), {50, 72});
  const Pair dw = random_pair(DType::f32, {72}, 4);
  rms_norm_forward(host_, x.host, w.host, eps, y.host, rstd.host);
  cuda::rms_norm_forward(ctx_, x.device, w.device, eps, y.device, rstd.device);
  rms_norm_backward(host_, dy.host, x.host, w.host, rstd.host, {}, dy.host, dw.host);
  cuda::rms_norm_backward(ctx_, dy.device, x.device, w.device, rstd.device, {}, dy.device, dw.device);
  expect_match(dy, tolerance(300));
  expect_match(dw, tolerance(200));
}

TEST_P(CudaRows, Rope) {
  for (const auto& [heads, width] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 2}, {3, 6}, {2, 64}, {5, 128}}) {
    RopeTable host_table(width, 10000.0);
    RopeTable device_table(width, 10000.0);
    host_table.reserve(Space::host, 300);
    device_table.reserve(Space::device, 300);
    const IntPair positions = pair_of(random_integers(23, 300, 1));
    const Pair x = random_pair(GetParam(), {23, (heads + 2) * width}, 2);
    // Heads in the middle of wider rows.
    const auto part = [&](const Tensor& t) { return t.view().slice(1, width, heads * width).split(1, heads); };
    for (const Rotation rotation : {Rotation::forward, Rotation::backward}) {
      rope(host_, host_table, positions.host, part(x.host), rotation);
      cuda::rope(ctx_, device_table, positions.device, part(x.device), rotation);
      expect_match(x, 2 * tolerance(2));
    }
    // Whole sequences, as if their positions were given.
    const std::int64_t length = 41;
    const Pair y = random_pair(GetParam(), {3 * length, (heads + 2) * width}, 3);
    const Pair z = random_pair(GetParam(), {3 * length, (heads + 2) * width}, 3);
    std::vector<std::int32_t> places;
    for (std::int32_t n = 0; n < 3 * length; ++n) places.push_back(n % static_cast<std::int32_t>(length));
    const IntPair at = pair_of(places);
    for (const Rotation rotation : {Rotation::forward, Rotation::backward}) {
      rope(host_, host_table, part(y.host).split(0, 3), rotation);
      cuda::rope(ctx_, device_table, part(y.device).split(0, 3), rotation);
      cuda::rope(ctx_, device_table, at.device, part(z.device), rotation);
      expect_match(y, 2 * tolerance(2));
      EXPECT_EQ(values_of(y.device), values_of(z.device));
    }
  }
}

TEST_P(CudaRows, SwiGlu) {
  for (const auto& [rows, width] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 33}, {64, 172}, {3, 1024}}) {
    const Pair gate_up = random_pair(GetParam(), {rows, 2 * width}, 1, 3.0);
    const Pair out = poisoned_pair(GetParam(), {rows, width});
    swiglu_forward(host_, gate_up.host, out.host);
    cuda::swiglu_forward(ctx_, gate_up.device, out.device);
    expect_match(out, tolerance(8));
    const Pair dout = random_pair(GetParam(), {rows, width}, 2);
    const Pair gradient = poisoned_pair(GetParam(), {rows, 2 * width});
    const Pair again = poisoned_pair(GetParam(), {rows, width});
    swiglu_backward(host_, dout.host, gate_up.host, gradient.host, again.host);
    cuda::swiglu_backward(ctx_, dout.device, gate_up.device, gradient.device, again.device);
    expect_match(gradient, tolerance(8));
    expect_match(again, tolerance(8));
    EXPECT_EQ(values_of(again.device), values_of(out.device));
    // In place.
    swiglu_backward(host_, dout.host, gate_up.host, gate_up.host, dout.host);
    cuda::swiglu_backward(ctx_, dout.device, gate_up.device, gate_up.device, dout.device);
    EXPECT_EQ(values_of(gate_up.device), values_of(gradient.device));
    EXPECT_EQ(values_of(dout.device), values_of(out.device));
    expect_match(gate_up, tolerance(8));
    expect_match(dout, tolerance(8));
  }
}

TEST_P(CudaRows, Elementwise) {
  const Pair x = poisoned_pair(GetParam(), {7, 11});
  fill(host_, x.host, -1.5F);
  cuda::fill(ctx_, x.device, -1.5F);
  expect_match(x, 0.0);

  for (const std::int64_t width : {5, 16}) {
    const Pair from = random_pair(GetParam(), {3, 4, 6, width}, 1);
    const Pair to = random_pair(GetParam(), {3, 4, 6, width}, 2);
    const auto inner = [](const Tensor& t) { return t.view().slice(1, 1, 2).slice(2, 2, 3); };
    copy_elements(host_, inner(from.host), inner(to.host));
    cuda::copy_elements(ctx_, inner(from.device), inner(to.device), Write::replace);
    expect_match(to, 0.0);
    copy_elements(host_, from.host, to.host, Write::accumulate);
    cuda::copy_elements(ctx_, from.device, to.device, Write::accumulate);
    expect_match(to, tolerance(1));
  }

  // Elements behind the last pack; a view that does not start at one.
  for (const std::int64_t first : {0, 1, 8}) {
    const Pair all = random_pair(GetParam(), {1237}, 4);
    fill(host_, all.host.view().slice(0, first, 1203), 2.5F);
    cuda::fill(ctx_, all.device.view().slice(0, first, 1203), 2.5F);
    expect_match(all, 0.0);
  }

  // The last rows of groups, both ways: dims that lie evenly are walked as one.
  for (const std::int64_t width : {5, 24}) {
    const Pair groups = random_pair(GetParam(), {13, 7, width}, 1);
    const Pair last = poisoned_pair(GetParam(), {13, 4, width});
    const auto tail = [](const Tensor& t) { return t.view().slice(1, 3, 4); };
    copy_elements(host_, tail(groups.host), last.host);
    cuda::copy_elements(ctx_, tail(groups.device), last.device, Write::replace);
    expect_match(last, 0.0);
    copy_elements(host_, last.host, tail(groups.host), Write::accumulate);
    cuda::copy_elements(ctx_, last.device, tail(groups.device), Write::accumulate);
    expect_match(groups, tolerance(1));
  }

  const Pair flat = random_pair(DType::f32, {1237}, 3);
  scale(host_, flat.host, 0.37F);
  cuda::scale(ctx_, flat.device, 0.37F);
  expect_match(flat, 0.0);
}

TEST_P(CudaRows, CopyConvertsBetweenDtypes) {
  const Pair from = random_pair(DType::f32, {9, 40}, 1);
  const Pair to = poisoned_pair(GetParam(), {9, 40});
  cuda::copy_elements(ctx_, from.device, to.device, Write::replace);
  copy(from.host.view(), to.host.view());
  expect_match(to, tolerance(1));
}

TEST_P(CudaRows, PublicOpsRunOnTheDevice) {
  const Pair x = poisoned_pair(DType::f32, {33});
  fill(ctx_, x.device, 2.0F);
  fill(host_, x.host, 2.0F);
  expect_match(x, 0.0);
}

}  // namespace
}  // namespace photon
