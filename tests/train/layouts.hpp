// The losses and gradients of one step, in a layout of some ranks, against the whole model in one process on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/elementwise.hpp"
#include "model/compute.hpp"
#include "model/model.hpp"
#include "partition/cost.hpp"
#include "support/random.hpp"
#include "testing/compare.hpp"
#include "testing/world.hpp"
#include "train/adamw_optimizer.hpp"
#include "train/gradient_sums.hpp"
#include "train/loss_totals.hpp"
#include "train/memory_plan.hpp"
#include "train/owned_pieces.hpp"
#include "train/pipeline.hpp"

namespace photon::testing {

inline constexpr std::int64_t batch_size = 8;
inline constexpr std::int32_t start_token = 3;

inline StackConfig stack(std::int64_t layers) {
  StackConfig s;
  s.layers = layers;
  s.heads = s.kv_heads = 2;
  s.ffn = 20;
  return s;
}

inline ModelConfig photon_model(std::int64_t levels) {
  ModelConfig model;
  model.vocab_size = 37;
  model.dim = 12;
  for (std::int64_t l = 0; l < levels; ++l) {
    LevelConfig level;
    level.dim = 12 + 4 * l;
    level.chunk = 2;
    level.prefix = 1 + l % 2;
    level.encoder = stack(2);
    level.decoder = stack(2);
    model.levels.push_back(level);
  }
  return model;
}

inline ModelConfig vanilla_model() {
  ModelConfig model;
  model.type = ModelType::vanilla;
  model.vocab_size = 37;
  model.dim = 12;
  model.stack = stack(4);
  return model;
}

struct Layout {
  int ranks;
  ParallelConfig parallel;
};

// Values of a size that training has, all different.
inline void randomize(Parameters& values) {
  for (const ParameterSpec& spec : values.specs()) {
    auto* const data = values.view(spec.name).host<float>();
    const double scale = spec.shape.size() == 1 ? 0.1 : 0.7 / std::sqrt(static_cast<double>(spec.shape.back()));
    for (std::int64_t i = 0; i < spec.numel(); ++i) {
      const double noise = random_normal(5, hash_name(spec.name), static_cast<std::uint64_t>(i));
      data[i] = static_cast<float>(spec.init_value + scale * noise);
    }
  }
}

class Layouts : public ::testing::Test {
 protected:
  // Where the layouts compute, and how far sums and tensors may be from the one process's.
  TrainPlace place_;
  double loss_tolerance_ = 1e-6;
  double gradient_tolerance_ = 1e-5;

  void expect_equal(const ModelConfig& model, const std::vector<Layout>& layouts, std::int64_t sequence_length) {
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "layout " << i);
      if (world().size() < layouts[i].ranks) continue;
      const bool takes_part = world().rank() < layouts[i].ranks;
      Communicator comm = world().all().split(takes_part ? 0 : 1, "layout");
      if (takes_part) compare(model, layouts[i], sequence_length, comm);
    }
  }

 private:
  void compare(const ModelConfig& model, const Layout& layout, std::int64_t length, Communicator& comm) const {
    RunConfig config;
    config.model = model;
    config.train.batch_size = batch_size;
    config.train.sequence_length = length;
    config.parallel = layout.parallel;
    const Plan plan = make_plan(config, layout.ranks, 0, [](std::int64_t) { return std::int64_t{1}; });

    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> counts;
    for (std::int64_t i = 0; i < batch_size * length; ++i) {
      ids.push_back(static_cast<std::int32_t>(random_bits(9, 1, static_cast<std::uint64_t>(i)) % 37));
      counts.push_back(i % 5 != 2);
    }
    const auto part = [&](std::int64_t first, std::int64_t sequences) {
      return Batch{host_view(ids.data() + first * length, {sequences, length}),
                   host_view(counts.data() + first * length, {sequences, length})};
    };

    // One process.
    const std::unique_ptr<Model> whole = make_model(model, Space::host, start_token);
    randomize(whole->parameters());
    Parameters expected(model, Space::host);
    LossScales scales{1.0 / static_cast<double>(count_tokens(part(0, batch_size))), {}};
    for (const std::int64_t units : unpadded_units(model, batch_size, length)) {
      scales.rec.push_back(0.3 / static_cast<double>(units));
    }
    const LossSums expected_sums = whole->forward_backward({}, part(0, batch_size), scales, {}, expected);

    // This layout.
    const Compute compute(place_.space, Numerics::tuned,
                          training_scratch_bytes(model, plan.microbatch_size, length, place_.dtype));
    const Context& ctx = compute.context();
    PipelineRank rank(config, plan, comm, start_token, ctx, place_.dtype);
    for (const ParameterSpec& spec : rank.specs()) {
      copy(whole->parameters().view(spec.name), rank.parameters().view(spec.name));
    }
    rank.parameters().refresh_working_copy();
    Parameters gradients(rank.specs(), place_.space);
    for (const ParameterSpec& spec : rank.specs()) {  // nothing that a step may read
      fill(ctx, gradients.view(spec.name), std::numeric_limits<float>::quiet_NaN());
    }
    begin_gradients(ctx, gradients);
    GradientSums sums(model, plan, comm, rank.specs(), ctx);
    LossTotals totals(model);
    rank.begin_step([&](std::int64_t i) { return part(plan.first_sequence(comm.rank(), i), plan.microbatch_size); });
    double norm = 0;
    for (const Instruction& i : program_of(plan, comm.rank(), plan.num_microbatches(), {})) {
      sums.advance();
      if (i.op == Op::forward) rank.forward(ctx, i.microbatch);
      if (i.op == Op::backward || i.op == Op::backward_input)
        totals.add(rank.backward(ctx, i.microbatch, scales, {}, gradients, i.module));
      if (i.op == Op::backward_weight) rank.backward_weights(ctx, i.microbatch, gradients, i.module);
      if (i.op == Op::send) rank.send(i);
      if (i.op == Op::receive) rank.receive(ctx, i);
      if ((i.op == Op::all_reduce && i.module != -1) || i.op == Op::reduce_scatter) sums.start(i, gradients);
      if (i.op == Op::all_reduce && i.module == -1) {
        rank.finish();
        totals.all_reduce(comm);
      }
      if (i.op == Op::wait) sums.wait();
      if (i.op == Op::clip_norm) norm = sums.sum_of_squares(ctx, gradients);
      // Instead of the weights: the shares of the gradients come together.
      if (i.op == Op::all_gather) sums.start(i, gradients);
    }

    sums.wait();
    compute.synchronize();

    if (place_.space == Space::host) expect_predicted_memory(config, plan, comm.rank(), rank, sums);
    LossTotals expected_totals(model);
    expected_totals.add(expected_sums);
    EXPECT_NEAR(totals.ce(), expected_totals.ce(), loss_tolerance_ * expected_totals.ce());
    EXPECT_NEAR(totals.rec(), expected_totals.rec(), loss_tolerance_ * expected_totals.rec());
    EXPECT_EQ(totals.num_tokens(), expected_totals.num_tokens());
    double squares = 0;
    const auto* const values = expected.flat().host<float>();
    for (std::int64_t i = 0; i < expected.flat().numel(); ++i) {
      squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    EXPECT_NEAR(norm, squares, gradient_tolerance_ * squares);
    for (const ParameterSpec& spec : rank.specs()) {
      SCOPED_TRACE(spec.name);
      const Tensor got(Space::host, DType::f32, gradients.view(spec.name).shape(), "a gradient");
      copy(gradients.view(spec.name), got);
      EXPECT_CLOSE(got.host<float>(), expected.view(spec.name).host<float>(), spec.numel(), gradient_tolerance_);
    }
  }

  // What `photon plan` says of a rank's memory is what the rank has taken, within 5 %.
  static void expect_predicted_memory(const RunConfig& config, const Plan& plan, int number, PipelineRank& rank,
                                      const GradientSums& sums) {
    Cluster cluster;
    cluster.num_ranks = cluster.ranks_per_node = plan.num_ranks;
    cluster.within_node = {1, 1};
    const MemoryUse use = CostModel(config, cluster, plan).rank(number % plan.ranks_per_replica()).memory;
    const auto expect_near = [](std::int64_t predicted, std::int64_t measured, const char* what) {
      EXPECT_LE(std::abs(predicted - measured), measured / 20) << what << ": " << predicted << " and " << measured;
    };
    const std::int64_t flat = rank.parameters().flat().bytes();
    expect_near(use.weights, flat, "weights");
    expect_near(use.gradients, flat, "gradients");
    const std::vector<OwnedPiece> owned = owned_pieces(rank.specs(), sums.owned());
    AdamWOptimizer optimizer = plan.zero ? AdamWOptimizer(owned, config.train, Space::host)
                                         : AdamWOptimizer(rank.specs(), config.train, Space::host);
    if (number < plan.ranks_per_replica()) {  // shares of other replicas differ by what cannot be divided
      expect_near(use.optimizer, optimizer.mean().flat().bytes() + optimizer.variance().flat().bytes(), "optimizer");
    }
    // The first rank of the first replica, which is planned for all, gathers the weights when it saves.
    const bool gathers = number % plan.ranks_per_replica() == 0 && plan.stages > 1;
    const std::int64_t gathered = gathers ? 4 * flat_size(parameters(config.model)) : 0;
    expect_near(use.activations + use.staging - gathered, rank.activation_peak(), "activations");
  }
};

}  // namespace photon::testing
