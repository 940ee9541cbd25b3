// Whole models on a GPU: against the host in f32, against f32 in bf16, and the properties the specification promises.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../model/shapes.hpp"
#include "kernels/elementwise.hpp"
#include "model/compute.hpp"
#include "model/model_part.hpp"
#include "tensor/half.hpp"

namespace photon {
namespace {

using testing::NamedConfig;
using testing::random_model;
using testing::TokenBatch;

// The small shapes of tests/model, and two whose heads are as wide as those of real models.
std::vector<NamedConfig> device_shapes() {
  std::vector<NamedConfig> shapes = testing::all_shapes();
  NamedConfig wide{"wide_heads", {}};
  wide.config.vocab_size = 300;
  wide.config.dim = 128;
  wide.config.tokenizer = "tokenizer.model";
  for (int l = 0; l < 2; ++l) {
    LevelConfig level;
    level.dim = 128;
    level.chunk = 4;
    level.prefix = 4;
    level.encoder = testing::stack(2, l == 0 ? 2 : 1, 1, 176, l == 0 ? 20 : 0);
    level.decoder = testing::stack(2, 2, 1, 176);
    wide.config.levels.push_back(level);
  }
  validate(wide.config);
  shapes.push_back(wide);
  NamedConfig vanilla{"wide_vanilla", {}};
  vanilla.config.type = ModelType::vanilla;
  vanilla.config.vocab_size = 300;
  vanilla.config.dim = 256;
  vanilla.config.stack = testing::stack(2, 2, 2, 352);
  vanilla.config.tokenizer = "tokenizer.model";
  validate(vanilla.config);
  shapes.push_back(vanilla);
  return shapes;
}

void round_matrices(Parameters& parameters) {
  for (const ParameterSpec& spec : parameters.specs()) {
    if (spec.shape.size() < 2 && spec.name != "start_latent") continue;
    auto* const values = parameters.view(spec.name).host<float>();
    for (std::int64_t i = 0; i < spec.numel(); ++i) values[i] = to_float(to_bfloat16(values[i]));
  }
}

std::vector<float> values_of(const ConstTensorView& view) {
  const Tensor here(Space::host, view.dtype(), view.shape());
  copy(view, here.view());
  std::vector<float> values(static_cast<std::size_t>(view.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = view.dtype() == DType::f32 ? here.host<float>()[i] : to_float(here.host<bfloat16>()[i]);
  }
  return values;
}

// |a - b| over all elements, NaN where any is; |a| where b is empty.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - (b.empty() ? 0.0 : static_cast<double>(b[i])), 2);
  }
  return std::sqrt(sum);
}
double norm(const std::vector<float>& a) {
  return distance(a, {});
}

// |a - b| / |b|; |a| where b is zero.
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  const double length = norm(b);
  return length == 0 ? norm(a) : distance(a, b) / length;
}

struct ModelCase {
  NamedConfig shape;
  DType dtype;
};

std::vector<ModelCase> cases() {
  std::vector<ModelCase> all;
  for (const NamedConfig& shape : device_shapes()) {
    for (const DType dtype : {DType::f32, DType::bf16}) all.push_back({shape, dtype});
  }
  return all;
}

class DeviceModel : public ::testing::TestWithParam<ModelCase> {
 protected:
  static constexpr std::int64_t rows = 3;
  static constexpr std::int64_t length = 90;  // not a multiple of every group

  void SetUp() override {
    if (device::count() == 0) GTEST_SKIP() << "this machine has no GPU";
    host_ = random_model(config(), 2);
    if (dtype() == DType::bf16) round_matrices(host_->parameters());
    device_ = make_model(config(), Space::device, 1, dtype());
    copy(host_->parameters().flat(), device_->parameters().flat());
    device_->parameters().refresh_working_copy();
    compute_ = std::make_unique<Compute>(Space::device, Numerics::deterministic,
                                         training_scratch_bytes(config(), rows, length, dtype()));
  }

  const ModelConfig& config() const { return GetParam().shape.config; }
  DType dtype() const { return GetParam().dtype; }
  const Context& ctx() const { return compute_->context(); }
  LossScales scales() const {
    LossScales s;
    s.ce = 0.01;
    s.rec.assign(static_cast<std::size_t>(std::max<std::int64_t>(config().num_levels() - 1, 0)), 0.02);
    return s;
  }
  LossSums backward(const Batch& batch, Parameters& gradients) {
    fill(ctx(), gradients.flat(), 0.0F);
    const LossSums sums = device_->forward_backward(ctx(), batch, scales(), {}, gradients);
    compute_->synchronize();
    return sums;
  }

  std::unique_ptr<Model> host_;
  std::unique_ptr<Model> device_;
  std::unique_ptr<Compute> compute_;
};

INSTANTIATE_TEST_SUITE_P(, DeviceModel, ::testing::ValuesIn(cases()), [](const auto& param) {
  return param.param.shape.name + "_" + std::string(name_of(param.param.dtype));
});

TEST_P(DeviceModel, LossesAndGradientsMatchTheHost) {
  const TokenBatch tokens(rows, length, config().vocab_size, 6);
  std::vector<std::uint8_t> counts(static_cast<std::size_t>(rows * length), 1);
  for (std::size_t i = 0; i < counts.size(); i += 7) counts[i] = 0;
  Batch batch = tokens.batch();
  batch.mask = host_view(counts.data(), {rows, length});
  Parameters expected(config(), Space::host);
  Parameters actual(config(), Space::device);
  const LossSums host = host_->forward_backward({}, batch, scales(), {}, expected);
  const LossSums device = backward(batch, actual);
  const bool full = dtype() == DType::f32;
  EXPECT_EQ(device.num_tokens, host.num_tokens);
  EXPECT_EQ(device.num_units, host.num_units);
  EXPECT_LT(std::abs(device.ce - host.ce), (full ? 1e-5 : 2e-2) * host.ce);
  ASSERT_EQ(device.rec.size(), host.rec.size());
  for (std::size_t l = 0; l < host.rec.size(); ++l) {
    EXPECT_LT(std::abs(device.rec[l] - host.rec[l]), (full ? 1e-5 : 2e-2) * host.rec[l]) << "level " << l + 1;
  }
  const double whole = relative_error(values_of(actual.flat()), values_of(expected.flat()));
  // bf16: some hundred roundings by 2^-9 on the way forward and back, with widths too small to average them out.
  EXPECT_LT(whole, full ? 2e-5 : 1.5e-1) << "the whole gradient";
  // What bf16 rounds away in a tensor is as large as the gradients that flow past it, not as its own, which may cancel.
  const double passing = full ? 0 : 1e-2 * norm(values_of(expected.flat()));
  for (const ParameterSpec& spec : expected.specs()) {
    const std::vector<float> reference = values_of(expected.view(spec.name));
    EXPECT_LE(distance(values_of(actual.view(spec.name)), reference), (full ? 5e-5 : 1e-1) * norm(reference) + passing)
        << spec.name;
  }
  EXPECT_EQ(device_->arena_peak(), training_arena_bytes(config(), rows, length, dtype()));
}

TEST_P(DeviceModel, RepeatsBitForBit) {
  const TokenBatch tokens(rows, length, config().vocab_size, 6);
  Parameters first(config(), Space::device);
  Parameters second(config(), Space::device);
  const LossSums a = backward(tokens.batch(), first);
  const LossSums b = backward(tokens.batch(), second);
  EXPECT_EQ(a.ce, b.ce);
  EXPECT_EQ(a.rec, b.rec);
  EXPECT_EQ(values_of(first.flat()), values_of(second.flat()));
}

// Whatever the gradients held before, and whether the backward is split or not.
TEST_P(DeviceModel, PartsWriteTheirGradientsAtOnceOrLater) {
  const TokenBatch tokens(rows, length, config().vocab_size, 6);
  Parameters expected(config(), Space::device);
  backward(tokens.batch(), expected);
  const GroupRange groups = all_groups(config(), tokens.batch());
  std::vector<std::vector<float>> found;
  for (const bool splits : {false, true}) {
    const PassOptions options{.split_backward = splits};
    const auto part = make_model_part(config(), all_layers(config()), device_->parameters(), 1, dtype(), options);
    const std::int64_t bytes = stage_activation_bytes(config(), all_layers(config()), rows, length, groups.count,
                                                      element_bytes(dtype()), options);
    Arena arena(Space::device, bytes, "a part");
    Parameters gradients(config(), Space::device);
    for (const ParameterSpec& spec : gradients.specs()) {
      fill(ctx(), gradients.view(spec.name), std::numeric_limits<float>::quiet_NaN());
    }
    begin_gradients(ctx(), gradients);
    StagePass pass = part->begin(ctx(), arena, tokens.batch(), groups);
    pass.write = Write::replace;
    part->forward(ctx(), arena, pass);
    part->begin_backward(ctx(), arena, pass);
    for (std::int64_t module = num_modules(config()) - 1; module >= 0; --module) {
      part->backward(ctx(), arena, gradients, pass, module, scales(), {});
    }
    for (std::int64_t module = 0; splits && module < num_modules(config()); ++module) {
      part->backward_weights(ctx(), arena, gradients, pass, module);
    }
    compute_->synchronize();
    EXPECT_EQ(arena.peak(), bytes);
    found.push_back(values_of(gradients.flat()));
  }
  EXPECT_EQ(found[0], found[1]);
  // Products that add to what is there may be other ones.
  EXPECT_LT(relative_error(found[0], values_of(expected.flat())), dtype() == DType::f32 ? 1e-6 : 1e-5);
}

TEST_P(DeviceModel, EvaluationGivesTheSameLosses) {
  const TokenBatch tokens(rows, length, config().vocab_size, 8);
  Tensor loss(Space::host, DType::f32, {rows, length});
  Tensor best(Space::host, DType::i32, {rows, length});
  const LossSums device = device_->evaluate(ctx(), tokens.batch(), {}, loss, best);
  const LossSums host = host_->evaluate({}, tokens.batch(), {}, {}, {});
  EXPECT_LT(std::abs(device.ce - host.ce), (dtype() == DType::f32 ? 1e-5 : 2e-2) * host.ce);
  double sum = 0;
  for (std::int64_t i = 0; i < loss.numel(); ++i) sum += static_cast<double>(loss.host<float>()[i]);
  EXPECT_LT(std::abs(sum - device.ce), 1e-5 * device.ce);
}

// Changing token p leaves what predicts tokens up to p as it is, bit for bit, and changes something after it.
TEST_P(DeviceModel, IsCausal) {
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    const Compute compute(Space::device, numerics, training_scratch_bytes(config(), rows, length, dtype()));
    const TokenBatch tokens(1, length, config().vocab_size, 9);
    const auto hidden = [&](const TokenBatch& read) {
      const Tensor states = device_->hidden(compute.context(), read.batch());
      compute.synchronize();
      return values_of(states.view());
    };
    const std::vector<float> before = hidden(tokens);
    for (const std::int64_t p : {0, 17, 50, 88}) {
      TokenBatch changed = tokens;
      std::int32_t& id = changed.ids[static_cast<std::size_t>(p)];
      id = static_cast<std::int32_t>((id + 1) % config().vocab_size);
      const std::vector<float> after = hidden(changed);
      const auto same = static_cast<std::size_t>((p + 1) * config().dim);
      EXPECT_EQ(std::memcmp(before.data(), after.data(), same * sizeof(float)), 0) << "token " << p;
      EXPECT_NE(std::memcmp(before.data() + same, after.data() + same, (before.size() - same) * sizeof(float)), 0)
          << "token " << p;
    }
  }
}

}  // namespace
}  // namespace photon
