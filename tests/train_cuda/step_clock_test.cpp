// What a step's instructions take on a GPU, where calls return before their work is done.
#include "train/step_clock.hpp"

#include <gtest/gtest.h>

#include "kernels/linear.hpp"

namespace photon {
namespace {

class StepClockOnAGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device::count() == 0) GTEST_SKIP() << "this machine has no GPU";
    stream_ = device::make_stream();
    ctx_.space = Space::device;
    ctx_.stream = stream_;
    scratch_ = Arena(Space::device, std::int64_t{64} << 20, "scratch");
    ctx_.scratch = &scratch_;
    x_ = Tensor(Space::device, DType::f32, {size, size});
    y_ = Tensor(Space::device, DType::f32, {size, size});
    work(1);
    device::synchronize(stream_);
  }
  void work(int products) {
    for (int i = 0; i < products; ++i) linear_forward(ctx_, x_.view(), x_.view(), y_.view());
  }

  static constexpr std::int64_t size = 2048;
  Stream stream_;
  Context ctx_;
  Arena scratch_;
  Tensor x_, y_;
};

TEST_F(StepClockOnAGpu, SecondsAreThoseOfTheStream) {
  StepClock clock(0);
  clock.follow(stream_);
  Event begin, end;
  for (int step = 1; step <= 3; ++step) {
    clock.begin_step(step, false);
    begin.record(stream_);
    {
      const auto measure = clock.measure({.op = Op::forward, .microbatch = 0});
      work(40);
    }
    {
      const auto measure = clock.measure({.op = Op::receive, .microbatch = 0, .peer = 1});
      work(20);
    }
    {
      const auto measure = clock.measure({.op = Op::all_reduce});
      work(10);
      clock.arrived();
      work(20);
    }
    {
      const auto measure = clock.measure({.op = Op::evaluate});
      work(10);
    }
    end.record(stream_);
    const double all = end.seconds_since(begin);
    const RankSeconds seconds = clock.seconds();
    // The same products everywhere: the stream's time is divided as they are, 40 : 20 + 10 : 20 : 10.
    EXPECT_NEAR(seconds.compute / all, 0.4, 0.1);
    EXPECT_NEAR(seconds.wait / all, 0.3, 0.1);
    EXPECT_NEAR(seconds.communication / all, 0.2, 0.1);
    EXPECT_LE(seconds.compute + seconds.wait + seconds.communication, all * 1.001);
    EXPECT_EQ(clock.seconds().compute, seconds.compute);  // asked for twice, counted once
    EXPECT_TRUE(clock.take_spans().empty());
  }
}

TEST_F(StepClockOnAGpu, ATracedSpanHoldsItsWork) {
  StepClock clock(0);
  clock.follow(stream_);
  clock.begin_step(1, true);
  Event begin, end;
  {
    const auto measure = clock.measure({.op = Op::forward, .microbatch = 0});
    begin.record(stream_);
    work(40);
    end.record(stream_);
  }
  const std::vector<TraceSpan> spans = clock.take_spans();
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[1].name, "forward 0");
  EXPECT_GE(static_cast<double>(spans[1].end_ns - spans[1].begin_ns) * 1e-9, end.seconds_since(begin) * 0.999);
}

}  // namespace
}  // namespace photon
