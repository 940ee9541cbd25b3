#include "train/throughput.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "blueprint/flops.hpp"
#include "kernels/linear.hpp"
#include "kernels/optimizer.hpp"
#include "model/model.hpp"
#include "support/random.hpp"
#include "train/adamw_optimizer.hpp"
#include "train/evaluation.hpp"
#include "train/sequences.hpp"

namespace photon {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// The best of a few square products.
double measure_matrix_gflops(const Context& ctx) {
  constexpr std::int64_t n = 1024;
  Tensor x(Space::host, DType::f32, {n, n});
  Tensor w(Space::host, DType::f32, {n, n});
  Tensor y(Space::host, DType::f32, {n, n});
  std::fill_n(x.host<float>(), n * n, 0.5F);
  std::fill_n(w.host<float>(), n * n, 0.25F);
  double best = 0;
  for (int repeat = 0; repeat < 8; ++repeat) {
    const auto begin = Clock::now();
    linear_forward(ctx, x, w, y);
    best = std::max(best, 2.0 * n * n * n / seconds_since(begin) / 1e9);
  }
  return best;
}

}  // namespace

Throughput measure_training(const RunConfig& config, std::int64_t warmup, std::int64_t steps) {
  PHOTON_EXPECT(steps >= 1, "a measurement of {} steps", steps);
  const TrainConfig& train = config.train;
  const std::int64_t micro = config.parallel.microbatch_size == 0 ? train.batch_size : config.parallel.microbatch_size;
  PHOTON_EXPECT(micro >= 1 && train.batch_size % micro == 0, "microbatches of {} in a batch of {}", micro,
                train.batch_size);
  Context ctx;
  ctx.numerics = train.deterministic ? Numerics::deterministic : Numerics::tuned;
  Throughput result;
  result.matrix_gflops = measure_matrix_gflops(ctx);
  result.num_threads = omp_get_max_threads();
  result.arena_bytes = training_arena_bytes(config.model, micro, train.sequence_length);

  const auto model = make_model(config.model, Space::host, 0);
  initialize(model->parameters(), train.seed);
  Parameters gradients(config.model, Space::host, "gradients");
  AdamWOptimizer optimizer(model->parameters().specs(), train, Space::host);
  Sequences sequences;
  sequences.resize(train.batch_size, train.sequence_length, false);
  for (std::int64_t i = 0; i < train.batch_size * train.sequence_length; ++i) {
    sequences.tokens(0)[i] = static_cast<std::int32_t>(random_bits(train.seed, 1, static_cast<std::uint64_t>(i)) %
                                                       static_cast<std::uint64_t>(config.model.vocab_size));
  }
  LossScales scales;
  scales.ce = 1.0 / static_cast<double>(train.batch_size * train.sequence_length);
  for (const std::int64_t units : unpadded_units(config.model, train.batch_size, train.sequence_length)) {
    scales.rec.push_back(units == 0 ? 0 : train.alpha / static_cast<double>(units));
  }
  for (std::int64_t step = 1; step <= warmup + steps; ++step) {
    const auto begin = Clock::now();
    std::memset(gradients.flat().data(), 0, static_cast<std::size_t>(gradients.flat().bytes()));
    for (std::int64_t first = 0; first < train.batch_size; first += micro) {
      model->forward_backward(ctx, sequences.part(first, micro), scales, rec_loss_options(train), gradients);
    }
    const double norm = std::sqrt(sum_of_squares(ctx, gradients.flat()));
    const double clip = train.grad_clip > 0 && norm > train.grad_clip ? train.grad_clip / norm : 1;
    optimizer.step(ctx, model->parameters(), gradients, train.learning_rate, clip, step);
    if (step > warmup) result.step_seconds.push_back(seconds_since(begin));
  }
  result.median_seconds = median(result.step_seconds);
  const auto batch = static_cast<double>(train.batch_size);
  result.tokens_per_second = batch * static_cast<double>(train.sequence_length) / result.median_seconds;
  result.model_gflops = batch * training_flops(config.model, train.sequence_length) / result.median_seconds / 1e9;
  return result;
}

}  // namespace photon
