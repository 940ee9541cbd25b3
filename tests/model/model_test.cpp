// Forward and backward of whole models against the double-precision reference, and the properties the specification
// promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/elementwise.hpp"
#include "kernels/linear.hpp"
#include "model/photon_model.hpp"
#include "reference.hpp"
#include "shapes.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::NamedConfig;
using testing::random_model;
using testing::ReferenceModel;
using testing::TokenBatch;

// Single precision through a few layers of width up to 28: rounding of about 1e-6, with room for amplification.
constexpr double model_tolerance = 2e-5;

testing::Vector flatten(const testing::Matrix& m) {
  testing::Vector v;
  for (const auto& row : m) v.insert(v.end(), row.begin(), row.end());
  return v;
}

class EveryModel : public ::testing::TestWithParam<NamedConfig> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
  Context ctx;
};
INSTANTIATE_TEST_SUITE_P(Shapes, EveryModel, ::testing::ValuesIn(testing::all_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(EveryModel, HiddenStatesMatchTheReference) {
  const auto model = random_model(config(), 1);
  const ReferenceModel reference(config(), model->parameters(), 1);
  for (const std::int64_t length : {1, 7, 24, 37}) {
    const TokenBatch tokens(2, length, config().vocab_size, 5);
    const Tensor hidden = model->hidden(ctx, tokens.batch());
    for (std::int64_t b = 0; b < 2; ++b) {
      const auto expected = flatten(reference.hidden(tokens.row(b)));
      EXPECT_CLOSE(hidden.host<float>() + b * length * config().dim, expected.data(), length * config().dim,
                   model_tolerance);
    }
  }
}

TEST_P(EveryModel, LossesMatchTheReference) {
  const auto model = random_model(config(), 2);
  const ReferenceModel reference(config(), model->parameters(), 1);
  const TokenBatch tokens(3, 26, config().vocab_size, 6);
  for (const auto kind : {RecDistance::cosine, RecDistance::smooth_l1, RecDistance::mse}) {
    RecLossOptions rec;
    rec.distance = kind;
    Parameters gradients(config(), Space::host);
    LossScales scales{
        0.01, std::vector<double>(static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0)), 0.1)};
    const LossSums trained = model->forward_backward(ctx, tokens.batch(), scales, rec, gradients);
    const LossSums evaluated = model->evaluate(ctx, tokens.batch(), rec, {}, {});
    ReferenceModel::Sums expected;
    for (std::int64_t b = 0; b < 3; ++b) {
      const auto s = reference.sums(tokens.row(b), kind);
      expected.ce += s.ce;
      expected.rec.resize(s.rec.size());
      for (std::size_t l = 0; l < s.rec.size(); ++l) expected.rec[l] += s.rec[l];
    }
    EXPECT_CLOSE(&trained.ce, &expected.ce, 1, model_tolerance);
    EXPECT_CLOSE(&evaluated.ce, &expected.ce, 1, model_tolerance);
    ASSERT_EQ(trained.rec.size(), expected.rec.size());
    for (std::size_t l = 0; l < expected.rec.size(); ++l) {
      EXPECT_CLOSE(&trained.rec[l], &expected.rec[l], 1, model_tolerance);
      EXPECT_CLOSE(&evaluated.rec[l], &expected.rec[l], 1, model_tolerance);
      EXPECT_EQ(trained.num_units[l], 3 * (26 / config().cumulative_chunk(static_cast<std::int64_t>(l) + 1)));
    }
    EXPECT_EQ(trained.num_tokens, 3 * 26);
  }
}

// The gradient of the whole loss, tensor by tensor, against central differences of the reference in double precision.
TEST_P(EveryModel, GradientsMatchFiniteDifferences) {
  const auto model = random_model(config(), 3);
  const TokenBatch tokens(1, 13, config().vocab_size, 7);  // ragged for every shape
  const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
  const LossScales scales{1.0 / 13, std::vector<double>(levels, 0.3)};
  RecLossOptions rec;
  rec.distance = RecDistance::mse;
  rec.stop_gradient = false;  // so that the reference's plain derivative is the right one
  Parameters gradients(config(), Space::host);
  model->forward_backward(ctx, tokens.batch(), scales, rec, gradients);

  ReferenceModel reference(config(), model->parameters(), 1);
  const auto loss = [&] {
    const auto s = reference.sums(tokens.row(0), rec.distance);
    double total = scales.ce * s.ce;
    for (std::size_t l = 0; l < s.rec.size(); ++l) total += scales.rec[l] * s.rec[l];
    return total;
  };
  for (const ParameterSpec& spec : gradients.specs()) {
    testing::Vector& w = reference.weight(spec.name);
    const testing::Vector before = w;
    const float* const g = gradients.view(spec.name).host<float>();
    double along = 0;
    double norm = 0;
    testing::Vector direction(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) {
      direction[i] = random_normal(11, hash_name(spec.name), i);
      along += direction[i] * g[i];
      norm += static_cast<double>(g[i]) * g[i];
    }
    constexpr double step = 1e-5;
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = before[i] + step * direction[i];
    const double up = loss();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = before[i] - step * direction[i];
    const double down = loss();
    w = before;
    const double expected = (up - down) / (2 * step);
    // The gradient is single precision: an error relative to its norm, not to a projection that may cancel.
    EXPECT_TRUE(std::abs(along - expected) <= 1e-4 * std::sqrt(norm))
        << spec.name << ": " << along << " != " << expected;
  }
}

TEST_P(EveryModel, GradientsAccumulateAndPaddingStaysZero) {
  const auto model = random_model(config(), 3);
  const TokenBatch tokens(2, 13, config().vocab_size, 7);
  const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
  const LossScales scales{0.1, std::vector<double>(levels, 0.3)};
  Parameters once(config(), Space::host);
  Parameters twice(config(), Space::host);
  model->forward_backward(ctx, tokens.batch(), scales, {}, once);
  model->forward_backward(ctx, tokens.batch(), scales, {}, twice);
  model->forward_backward(ctx, tokens.batch(), scales, {}, twice);
  const std::int64_t n = once.flat().numel();
  std::vector<double> doubled(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    doubled[static_cast<std::size_t>(i)] = 2.0 * static_cast<double>(once.flat().host<float>()[i]);
  EXPECT_CLOSE(twice.flat().host<float>(), doubled.data(), n, 1e-6);
  std::vector<bool> covered(static_cast<std::size_t>(n), false);
  for (const ParameterSpec& spec : once.specs()) {
    for (std::int64_t i = 0; i < spec.numel(); ++i) covered[static_cast<std::size_t>(spec.offset + i)] = true;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (!covered[static_cast<std::size_t>(i)]) {
      EXPECT_EQ(once.flat().host<float>()[i], 0.0F);
    }
  }
}

TEST_P(EveryModel, MaskedTokensCarryNoLoss) {
  const auto model = random_model(config(), 4);
  const TokenBatch tokens(2, 11, config().vocab_size, 8);
  std::vector<std::uint8_t> mask(22, 1);
  for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = 0;
  Batch batch = tokens.batch();
  batch.mask = host_view(mask.data(), {2, 11});
  Tensor loss(Space::host, DType::f32, {2, 11});
  Tensor masked_loss(Space::host, DType::f32, {2, 11});
  model->evaluate(ctx, tokens.batch(), {}, loss, {});
  const LossSums sums = model->evaluate(ctx, batch, {}, masked_loss, {});
  double expected = 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    EXPECT_EQ(masked_loss.host<float>()[i], mask[i] != 0 ? loss.host<float>()[i] : 0.0F);
    if (mask[i] != 0) expected += static_cast<double>(loss.host<float>()[i]);
  }
  EXPECT_EQ(sums.num_tokens, count_tokens(batch));
  EXPECT_CLOSE(&sums.ce, &expected, 1, 1e-6);
}

// logits[0..p] do not see token p, to the bit; something after it does, in its own group and in the next.
TEST_P(EveryModel, IsCausal) {
  const auto model = random_model(config(), 5);
  const std::int64_t group = config().group_tokens();
  const std::int64_t length = 3 * std::max<std::int64_t>(group, 8);
  const std::int64_t dim = config().dim;
  TokenBatch tokens(1, length, config().vocab_size, 9);
  const Tensor before = model->hidden(ctx, tokens.batch());
  for (std::int64_t p = 0; p < length; ++p) {
    TokenBatch changed = tokens;
    std::int32_t& token = changed.ids[static_cast<std::size_t>(p)];
    token = static_cast<std::int32_t>((token + 1) % config().vocab_size);
    const Tensor after = model->hidden(ctx, changed.batch());
    const auto differs = [&](std::int64_t begin, std::int64_t end) {
      return std::memcmp(before.host<float>() + begin * dim, after.host<float>() + begin * dim,
                         static_cast<std::size_t>((end - begin) * dim) * 4) != 0;
    };
    EXPECT_FALSE(differs(0, p + 1)) << "token " << p << " changed an earlier output";
    const std::int64_t chunk = config().num_levels() > 0 ? config().levels[0].chunk : 1;
    const std::int64_t chunk_end = (p / chunk + 1) * chunk;
    if (p + 1 < chunk_end) {
      EXPECT_TRUE(differs(p + 1, chunk_end)) << "token " << p << " is not seen in its own chunk";
    }
    const std::int64_t next_group = (p / group + 1) * group;
    if (next_group < length) {
      EXPECT_TRUE(differs(next_group, std::min(next_group + group, length)))
          << "token " << p << " is not seen in the next group";
    }
  }
}

TEST_P(EveryModel, PaddingChangesNothingBefore) {
  const auto model = random_model(config(), 6);
  const std::int64_t group = std::max<std::int64_t>(config().group_tokens(), 4);
  const TokenBatch whole(1, 3 * group, config().vocab_size, 10);
  const Tensor all = model->hidden(ctx, whole.batch());
  for (std::int64_t length = 2 * group + 1; length < 3 * group; ++length) {
    const Batch shorter{host_view(whole.ids.data(), {1, length}), {}};
    const Tensor part = model->hidden(ctx, shorter);
    EXPECT_CLOSE(part.host<float>(), all.host<float>(), length * config().dim, 1e-5);
  }
}

TEST_P(EveryModel, TakesExactlyThePlannedMemory) {
  // The arena is sized by the blueprint; a plan too small throws. One byte less than the plan must not do.
  const auto model = random_model(config(), 3);
  for (const std::int64_t length : {5, 24, 64}) {
    const TokenBatch tokens(2, length, config().vocab_size, 7);
    const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
    Parameters gradients(config(), Space::host);
    model->forward_backward(ctx, tokens.batch(), {0.1, std::vector<double>(levels, 0.3)}, {}, gradients);
    EXPECT_EQ(model->arena_peak(), training_arena_bytes(config(), 2, length)) << "length " << length;
  }
}

// Sums that gather in the ops' memory are those that are returned otherwise, added in the order of the batches.
TEST_P(EveryModel, LossesGatherOverBatches) {
  const auto model = random_model(config(), 3);
  const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
  const LossScales scales{0.1, std::vector<double>(levels, 0.3)};
  const TokenBatch first(2, 43, config().vocab_size, 7);
  const TokenBatch second(1, 43, config().vocab_size, 8);
  Parameters expected(config(), Space::host);
  LossSums sums = model->forward_backward(ctx, first.batch(), scales, {}, expected);
  sums += model->forward_backward(ctx, second.batch(), scales, {}, expected);
  const GatheredLosses losses(config(), Space::host);
  Parameters gradients(config(), Space::host);
  losses.clear(ctx);
  model->gather_losses_in(losses.view());
  LossSums counts = model->forward_backward(ctx, first.batch(), scales, {}, gradients);
  counts += model->forward_backward(ctx, second.batch(), scales, {}, gradients);
  EXPECT_EQ(counts.ce, 0);
  EXPECT_EQ(counts.num_tokens, sums.num_tokens);
  EXPECT_EQ(counts.num_units, sums.num_units);
  const LossSums gathered = losses.fetch(ctx);
  EXPECT_GT(gathered.ce, 0);
  EXPECT_EQ(gathered.ce, sums.ce);
  EXPECT_EQ(gathered.rec, sums.rec);
  EXPECT_EQ(gathered.num_tokens, 0);
  EXPECT_EQ(
      std::memcmp(gradients.flat().data(), expected.flat().data(), static_cast<std::size_t>(expected.flat().bytes())),
      0);
  losses.clear(ctx);
  EXPECT_EQ(losses.fetch(ctx).ce, 0);
}

// Whatever the buffer held: a step's first pass reads none of it.
TEST_P(EveryModel, AFirstPassWritesWhatItDoesNotAddTo) {
  const TokenBatch tokens(2, 43, config().vocab_size, 7);
  const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
  const LossScales scales{0.1, std::vector<double>(levels, 0.3)};
  const auto model = random_model(config(), 3);
  for (const PassOptions& options : {PassOptions{}, PassOptions{.recompute = true}}) {
    model->set_pass_options(options);
    Parameters expected(config(), Space::host);
    Parameters gradients(config(), Space::host);
    for (const ParameterSpec& spec : gradients.specs()) fill({}, gradients.view(spec.name), std::nanf(""));
    begin_gradients({}, gradients);
    for (const Write write : {Write::replace, Write::accumulate}) {
      model->forward_backward({}, tokens.batch(), scales, {}, expected);
      model->forward_backward({}, tokens.batch(), scales, {}, gradients, write);
    }
    for (const ParameterSpec& spec : expected.specs()) {
      const auto* const wanted = expected.view(spec.name).host<float>();
      const auto* const found = gradients.view(spec.name).host<float>();
      EXPECT_TRUE(std::equal(wanted, wanted + spec.numel(), found)) << spec.name;
    }
  }
}

// The same ops on the same operands; every element of what is computed again lies in other memory.
TEST_P(EveryModel, RecomputingGivesTheSameBitsInThePlannedMemory) {
  const TokenBatch tokens(2, 43, config().vocab_size, 7);
  const auto levels = static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0));
  const LossScales scales{0.1, std::vector<double>(levels, 0.3)};
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    Context context;
    context.numerics = numerics;
    const auto run = [&](const PassOptions& options, Parameters& gradients) {
      const auto model = random_model(config(), 3);
      model->set_pass_options(options);
      const LossSums sums = model->forward_backward(context, tokens.batch(), scales, {}, gradients);
      EXPECT_EQ(model->arena_peak(), training_arena_bytes(config(), 2, 43, DType::f32, options));
      return sums;
    };
    Parameters kept(config(), Space::host);
    Parameters recomputed(config(), Space::host);
    const LossSums a = run({}, kept);
    const LossSums b = run({.recompute = true}, recomputed);
    EXPECT_EQ(a.ce, b.ce);
    EXPECT_EQ(a.rec, b.rec);
    for (const ParameterSpec& spec : kept.specs()) {
      EXPECT_EQ(std::memcmp(kept.view(spec.name).host<float>(), recomputed.view(spec.name).host<float>(),
                            static_cast<std::size_t>(spec.numel()) * sizeof(float)),
                0)
          << spec.name;
    }
  }
}

// One layer's activations instead of all: with many layers a small part of the memory.
TEST(Recompute, KeepsAFractionOfWhatManyLayersTake) {
  ModelConfig model = preset("photon-60m");
  for (LevelConfig& level : model.levels) level.encoder.layers = level.decoder.layers = 12;
  const std::int64_t all = training_arena_bytes(model, 1, 512);
  const std::int64_t inputs = training_arena_bytes(model, 1, 512, DType::f32, {.recompute = true});
  EXPECT_LT(inputs, all / 3);
}

TEST(PhotonModel, StopGradientKeepsTheEncoderOutOfTheRecursiveLoss) {
  const NamedConfig shape = testing::photon_shapes()[1];
  const auto model = random_model(shape.config, 3);
  const TokenBatch tokens(1, 32, shape.config.vocab_size, 7);
  Parameters stopped(shape.config, Space::host);
  Parameters flowing(shape.config, Space::host);
  RecLossOptions rec;
  model->forward_backward({}, tokens.batch(), {0.0, {1.0}}, rec, stopped);
  rec.stop_gradient = false;
  model->forward_backward({}, tokens.batch(), {0.0, {1.0}}, rec, flowing);
  // The last unit of level 1 is nobody's content or condition: only the direct path reaches its encoder output, so the
  // gradients differ, and without the cross-entropy the head has none.
  EXPECT_NE(std::memcmp(stopped.flat().data(), flowing.flat().data(), static_cast<std::size_t>(stopped.flat().bytes())),
            0);
  const float* const head = stopped.view("lm_head.weight").host<float>();
  for (std::int64_t i = 0; i < stopped.view("lm_head.weight").numel(); ++i) ASSERT_EQ(head[i], 0.0F);
}

TEST(Initialize, IsAFunctionOfSeedAndName) {
  const ModelConfig config = testing::photon_shapes()[1].config;
  Parameters a(config, Space::host);
  Parameters b(config, Space::host);
  Parameters c(config, Space::host);
  initialize(a, 1);
  initialize(b, 1);
  initialize(c, 2);
  EXPECT_EQ(std::memcmp(a.flat().data(), b.flat().data(), static_cast<std::size_t>(a.flat().bytes())), 0);
  EXPECT_NE(std::memcmp(a.flat().data(), c.flat().data(), static_cast<std::size_t>(a.flat().bytes())), 0);
  const TensorView down = a.view("levels.0.encoder.layers.0.mlp.down_proj.weight");
  double square = 0;
  for (std::int64_t i = 0; i < down.numel(); ++i) square += std::pow(static_cast<double>(down.host<float>()[i]), 2);
  const double std_dev = std::sqrt(square / static_cast<double>(down.numel()));
  EXPECT_NEAR(std_dev, 0.02 / std::sqrt(4.0), 0.02 / std::sqrt(4.0) * 0.15);  // 384 values: 4 standard errors
  EXPECT_EQ(a.view("start_latent").host<float>()[0], 0.0F);
  EXPECT_EQ(a.view("levels.0.encoder.norm.weight").host<float>()[0], 1.0F);
}

}  // namespace
}  // namespace photon
