#include "kernels/head_loss.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/matmul.hpp"

namespace photon {

namespace {

constexpr std::int64_t block_rows = 128;

void expect_head(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w, const ConstTensorView& targets,
                 const ConstTensorView& mask) {
  const DType dtype = activation_type(ctx, y, "y");
  expect_rank(ctx, y, dtype, 2, "y");
  expect_rank(ctx, w, dtype, 2, "w");
  expect_shape(w, {w.size(0), y.size(1)}, "w");
  expect_contiguous(w, "w");
  expect_tensor(ctx, targets, DType::i32, {y.size(0)}, "targets");
  if (mask) expect_tensor(ctx, mask, DType::u8, {y.size(0)}, "mask");
}

void expect_head_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, const ConstTensorView& dy,
                          const ConstTensorView& dw) {
  expect_head(ctx, y, w, targets, mask);
  expect_tensor(ctx, dy, y.dtype(), y.shape(), "dy");
  expect_tensor(ctx, dw, DType::f32, w.shape(), "dw");
  expect_contiguous(dw, "dw");
}

// The rows that count, in ascending order, with their targets checked.
std::vector<std::int64_t> counted_rows(const ConstTensorView& y, const ConstTensorView& w,
                                       const ConstTensorView& targets, const ConstTensorView& mask) {
  std::vector<std::int64_t> rows;
  for (std::int64_t n = 0; n < y.size(0); ++n) {
    if (mask && mask.host<std::uint8_t>()[n] == 0) continue;
    const std::int32_t target = targets.host<std::int32_t>()[n];
    PHOTON_EXPECT(target >= 0 && target < w.size(0), "target {} at row {} with {} logits", target, n, w.size(0));
    rows.push_back(n);
  }
  return rows;
}

// The logits of one block of rows after another, and what the softmax needs of each.
class LogitBlocks {
 public:
  LogitBlocks(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w, const ConstTensorView& targets,
              const ConstTensorView& mask)
      : numerics_(ctx.numerics),
        y_(y),
        w_(w),
        targets_(targets),
        rows_(counted_rows(y, w, targets, mask)),
        packed_(static_cast<std::size_t>(block_rows * y.size(1))),
        logits_(static_cast<std::size_t>(std::min<std::int64_t>(block_rows, y.size(0)) * w.size(0))),
        log_sums_(block_rows),
        losses_(block_rows) {}

  std::int64_t num_blocks() const { return (static_cast<std::int64_t>(rows_.size()) + block_rows - 1) / block_rows; }

  // Computes block b's logits and losses; returns the sum of the losses.
  double compute(std::int64_t b) {
    first_ = b * block_rows;
    count_ = std::min(block_rows, static_cast<std::int64_t>(rows_.size()) - first_);
    const std::int64_t width = y_.size(1);
    for (std::int64_t i = 0; i < count_; ++i) {
      std::memcpy(packed_.data() + i * width, y_.host<float>() + row(i) * y_.stride(0),
                  static_cast<std::size_t>(width) * sizeof(float));
    }
    const std::int64_t vocabulary = w_.size(0);
    cpu::matmul(numerics_, {packed_.data(), width, 1, count_}, {w_.host<float>(), width, 1, vocabulary}, width,
                logits_.data(), vocabulary, false);
#pragma omp parallel for schedule(static) if (count_ * vocabulary > 8192)
    for (std::int64_t i = 0; i < count_; ++i) {
      const float* x = logits(i);
      const float shift = cpu::loops().largest(x, vocabulary);
      log_sums_[static_cast<std::size_t>(i)] =
          static_cast<double>(shift) + std::log(cpu::loops().sum_exp(x, shift, 1.0F, vocabulary));
      losses_[static_cast<std::size_t>(i)] = log_sums_[static_cast<std::size_t>(i)] - static_cast<double>(x[target(i)]);
    }
    double sum = 0;
    for (std::int64_t i = 0; i < count_; ++i) sum += losses_[static_cast<std::size_t>(i)];
    return sum;
  }

  std::int64_t count() const {
    return count_;
  }
  std::int64_t row(std::int64_t i) const {
    return rows_[static_cast<std::size_t>(first_ + i)];
  }
  std::int64_t target(std::int64_t i) const {
    return targets_.host<std::int32_t>()[row(i)];
  }
  float* logits(std::int64_t i) {
    return logits_.data() + i * w_.size(0);
  }
  double log_sum(std::int64_t i) const {
    return log_sums_[static_cast<std::size_t>(i)];
  }
  double loss(std::int64_t i) const {
    return losses_[static_cast<std::size_t>(i)];
  }
  const float* packed() const {
    return packed_.data();
  }

 private:
  Numerics numerics_;
  ConstTensorView y_;
  ConstTensorView w_;
  ConstTensorView targets_;
  std::vector<std::int64_t> rows_;
  std::int64_t first_ = 0;
  std::int64_t count_ = 0;
  std::vector<float> packed_;  // the block's rows of y
  std::vector<float> logits_;
  std::vector<double> log_sums_;
  std::vector<double> losses_;
};

}  // namespace

double head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                         const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& token_loss,
                         const TensorView& argmax) {
  expect_head(ctx, y, w, targets, mask);
  if (token_loss) expect_tensor(ctx, token_loss, DType::f32, {y.size(0)}, "token_loss");
  if (argmax) expect_tensor(ctx, argmax, DType::i32, {y.size(0)}, "argmax");
  if (ctx.space == Space::device) return cuda::head_loss_forward(ctx, y, w, targets, mask, token_loss, argmax);
  if (y.size(0) == 0) return 0;
  if (token_loss) std::fill_n(token_loss.host<float>(), y.size(0), 0.0F);
  if (argmax) std::fill_n(argmax.host<std::int32_t>(), y.size(0), 0);
  LogitBlocks blocks(ctx, y, w, targets, mask);
  double sum = 0;
  for (std::int64_t b = 0; b < blocks.num_blocks(); ++b) {
    sum += blocks.compute(b);
    for (std::int64_t i = 0; i < blocks.count(); ++i) {
      if (token_loss) token_loss.host<float>()[blocks.row(i)] = static_cast<float>(blocks.loss(i));
      if (argmax) {
        const float* x = blocks.logits(i);
        const float best = cpu::loops().largest(x, w.size(0));
        argmax.host<std::int32_t>()[blocks.row(i)] = static_cast<std::int32_t>(std::find(x, x + w.size(0), best) - x);
      }
    }
  }
  return sum;
}

double head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                          const TensorView& dy, const TensorView& dw) {
  expect_head_backward(ctx, y, w, targets, mask, dy, dw);
  if (ctx.space == Space::device) return cuda::head_loss_backward(ctx, y, w, targets, mask, scale, dy, dw);
  if (y.size(0) == 0) return 0;
  const std::int64_t width = y.size(1);
  const std::int64_t vocabulary = w.size(0);
  for (std::int64_t n = 0; n < y.size(0); ++n) std::fill_n(dy.host<float>() + n * dy.stride(0), width, 0.0F);
  LogitBlocks blocks(ctx, y, w, targets, mask);
  std::vector<float> block_dy(static_cast<std::size_t>(block_rows * width));
  const auto factor = static_cast<float>(scale);
  double sum = 0;
  for (std::int64_t b = 0; b < blocks.num_blocks(); ++b) {
    sum += blocks.compute(b);
    const std::int64_t count = blocks.count();
#pragma omp parallel for schedule(static) if (count * vocabulary > 8192)
    for (std::int64_t i = 0; i < count; ++i) {
      float* x = blocks.logits(i);
      cpu::loops().write_exp(x, static_cast<float>(blocks.log_sum(i)), 1.0F, factor, vocabulary, x);
      x[blocks.target(i)] -= factor;
    }
    const float* g = blocks.logits(0);
    cpu::matmul(ctx.numerics, {g, vocabulary, 1, count}, {w.host<float>(), 1, width, width}, vocabulary,
                block_dy.data(), width, false);
    cpu::matmul(ctx.numerics, {g, 1, vocabulary, vocabulary}, {blocks.packed(), 1, width, width}, count,
                dw.host<float>(), width, true);
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(dy.host<float>() + blocks.row(i) * dy.stride(0), block_dy.data() + i * width,
                  static_cast<std::size_t>(width) * sizeof(float));
    }
  }
  return sum;
}

void add_head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                           const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& total) {
  expect_tensor(ctx, total, DType::f64, {1}, "total");
  if (ctx.space == Space::host) {
    *total.host<double>() += head_loss_forward(ctx, y, w, targets, mask, {}, {});
    return;
  }
  expect_head(ctx, y, w, targets, mask);
  cuda::add_head_loss_forward(ctx, y, w, targets, mask, total);
}

void add_head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                            const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                            const TensorView& dy, const TensorView& dw, const TensorView& total) {
  expect_tensor(ctx, total, DType::f64, {1}, "total");
  if (ctx.space == Space::host) {
    *total.host<double>() += head_loss_backward(ctx, y, w, targets, mask, scale, dy, dw);
    return;
  }
  expect_head_backward(ctx, y, w, targets, mask, dy, dw);
  cuda::add_head_loss_backward(ctx, y, w, targets, mask, scale, dy, dw, total);
}

}  // namespace photon
