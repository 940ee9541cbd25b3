#include "train/throughput.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <memory>

#include "blueprint/flops.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/linear.hpp"
#include "kernels/optimizer.hpp"
#include "model/compute.hpp"
#include "model/model.hpp"
#include "support/random.hpp"
#include "tensor/graph.hpp"
#include "tensor/profiler.hpp"
#include "train/adamw_optimizer.hpp"
#include "train/evaluation.hpp"
#include "train/memory_plan.hpp"
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

// Points between the phases of a step, in the time of the device where there is one.
class PhaseClock {
 public:
  explicit PhaseClock(const Context& ctx) : ctx_(ctx) {
    for (std::size_t i = 0; ctx.space == Space::device && i < times_.size(); ++i)
      events_.push_back(std::make_unique<Event>());
  }
  void mark(std::size_t phase) {
    times_[phase] = Clock::now();
    if (ctx_.space == Space::device) events_[phase]->record(ctx_.stream);
  }
  double seconds(std::size_t phase) const {  // from its mark to the next
    if (ctx_.space == Space::device) return events_[phase + 1]->seconds_since(*events_[phase]);
    return std::chrono::duration<double>(times_[phase + 1] - times_[phase]).count();
  }

 private:
  Context ctx_;
  std::array<Clock::time_point, 4> times_{};
  std::vector<std::unique_ptr<Event>> events_;
};

// `count` sequences of random tokens, laid out as the trainer has them.
Sequences random_sequences(const RunConfig& config) {
  const TrainConfig& train = config.train;
  Sequences sequences;
  sequences.resize(train.batch_size, train.sequence_length, false);
  for (std::int64_t i = 0; i < train.batch_size * train.sequence_length; ++i) {
    sequences.tokens(0)[i] = static_cast<std::int32_t>(random_bits(train.seed, 1, static_cast<std::uint64_t>(i)) %
                                                       static_cast<std::uint64_t>(config.model.vocab_size));
  }
  return sequences;
}

std::int64_t microbatch_of(const RunConfig& config, const TrainPlace& place, std::int64_t available) {
  const TrainConfig& train = config.train;
  if (config.parallel.microbatch_size > 0) return config.parallel.microbatch_size;
  if (place.space == Space::host) return train.batch_size;
  return choose_microbatch_size(
      train.batch_size, train.batch_size, arena_budget(config, available, place), [&](std::int64_t sequences) {
        return training_arena_bytes(config.model, sequences, train.sequence_length, place.dtype, pass_options(config));
      });
}

}  // namespace

double measure_matrix_gflops(const Context& ctx, DType dtype) {
  const bool on_device = ctx.space == Space::device;
  const std::int64_t n = on_device ? 8192 : 1024;
  const Tensor x(ctx.space, dtype, {n, n}, "a matrix product");
  const Tensor w(ctx.space, dtype, {n, n}, "a matrix product");
  const Tensor y(ctx.space, dtype, {n, n}, "a matrix product");
  // Random values: how many bits change decides a GPU's clock.
  for (const Tensor* operand : {&x, &w}) {
    const Tensor values(Space::host, dtype, {n, n}, "a matrix product");
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < n * n; ++i) {
      const auto value = static_cast<float>(random_uniform(1, 2, static_cast<std::uint64_t>(i)) - 0.5);
      if (dtype == DType::f32) {
        values.host<float>()[i] = value;
      } else {
        values.host<bfloat16>()[i].bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      }
    }
    copy(values, operand->view());
  }
  linear_forward(ctx, x, w, y.view());  // chooses an algorithm
  double best = 0;
  for (int repeat = 0; repeat < 8; ++repeat) {
    if (on_device) device::synchronize(ctx.stream);
    const auto begin = Clock::now();
    linear_forward(ctx, x, w, y.view());
    if (on_device) device::synchronize(ctx.stream);
    const auto n_double = static_cast<double>(n);
    best = std::max(best, 2 * n_double * n_double * n_double / seconds_since(begin) / 1e9);
  }
  return best;
}

Throughput measure_training(const RunConfig& config, std::int64_t warmup, std::int64_t steps) {
  PHOTON_EXPECT(steps >= 1, "a measurement of {} steps", steps);
  const TrainConfig& train = config.train;
  const TrainPlace place = train_place(train);
  const bool on_device = place.space == Space::device;
  const Numerics numerics = train.deterministic ? Numerics::deterministic : Numerics::tuned;
  Throughput result;
  result.num_threads = omp_get_max_threads();
  const std::int64_t available = available_bytes(place);
  const std::int64_t micro = microbatch_of(config, place, available);
  PHOTON_EXPECT(micro >= 1 && train.batch_size % micro == 0, "microbatches of {} in a batch of {}", micro,
                train.batch_size);
  const MemoryPlan plan = plan_memory(config, micro, place);
  require_fit(plan, available, micro, place);
  result.microbatch = micro;
  result.arena_bytes = plan.arena;
  if (on_device) result.device = device::name(0);

  const Compute compute(place.space, numerics,
                        training_scratch_bytes(config.model, micro, train.sequence_length, place.dtype));
  const Context& ctx = compute.context();
  result.matrix_gflops = measure_matrix_gflops(ctx, place.dtype);
  const auto model = make_model(config.model, place.space, 0, place.dtype);
  model->set_pass_options(pass_options(config));
  initialize(model->parameters(), train.seed);
  Parameters gradients(config.model, place.space, "gradients");
  AdamWOptimizer optimizer(model->parameters().specs(), train, place.space);
  const Sequences sequences = random_sequences(config);
  const double num_tokens = static_cast<double>(train.batch_size) * static_cast<double>(train.sequence_length);
  LossScales scales;
  scales.ce = 1.0 / num_tokens;
  for (const std::int64_t units : unpadded_units(config.model, train.batch_size, train.sequence_length)) {
    scales.rec.push_back(units == 0 ? 0 : train.alpha / static_cast<double>(units));
  }
  const GatheredLosses losses(config.model, place.space);
  model->gather_losses_in(losses.view());
  PhaseClock clock(ctx);
  std::vector<double> pass_seconds;
  for (std::int64_t step = 1; step <= warmup + steps; ++step) {
    const bool last = step == warmup + steps;
    if (on_device && last) device::start_profiler();
    const auto begin = Clock::now();
    clock.mark(0);
    model->weights_changed(ctx);
    begin_gradients(ctx, gradients);
    losses.clear(ctx);
    for (std::int64_t first = 0; first < train.batch_size; first += micro) {
      const Write write = first == 0 ? Write::replace : Write::accumulate;
      model->forward_backward(ctx, sequences.part(first, micro), scales, rec_loss_options(train), gradients, write);
    }
    clock.mark(1);
    const double norm = std::sqrt(sum_of_squares(ctx, gradients.flat()));
    clock.mark(2);
    const double clip = train.grad_clip > 0 && norm > train.grad_clip ? train.grad_clip / norm : 1;
    optimizer.step(ctx, model->parameters(), gradients, train.learning_rate, clip, step);
    clock.mark(3);
    compute.synchronize();
    if (on_device && last) device::stop_profiler();
    result.last_loss = losses.fetch(ctx).ce / num_tokens;
    if (step <= warmup) continue;
    result.step_seconds.push_back(seconds_since(begin));
    pass_seconds.push_back(clock.seconds(0));
  }
  result.median_pass_seconds = median(std::move(pass_seconds));
  result.phases = {clock.seconds(0), clock.seconds(1), clock.seconds(2)};
  if (on_device) result.peak_bytes = available - device::free_bytes();
  result.median_seconds = median(result.step_seconds);
  result.tokens_per_second = num_tokens / result.median_seconds;
  result.model_gflops = static_cast<double>(train.batch_size) * training_flops(config.model, train.sequence_length) /
                        result.median_seconds / 1e9;
  return result;
}

}  // namespace photon
