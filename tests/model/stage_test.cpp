// Parts of a model, run one behind the other, against the whole.
#include <gtest/gtest.h>

#include "blueprint/activations.hpp"
#include "kernels/elementwise.hpp"
#include "model/photon_stage.hpp"
#include "shapes.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::NamedConfig;
using testing::random_model;
using testing::TokenBatch;

class EveryCut : public ::testing::TestWithParam<NamedConfig> {};
INSTANTIATE_TEST_SUITE_P(Shapes, EveryCut, ::testing::ValuesIn(testing::photon_shapes()),
                         [](const auto& shape) { return shape.param.name; });

// A part with weights, gradients and memory of its own.
struct Part {
  Part(const ModelConfig& config, const ModuleRange& modules, const Parameters& whole, const Batch& batch,
       const GroupRange& groups)
      : stage(config, modules),
        parameters(hosted_parameters(config, modules), Space::host),
        gradients(parameters.specs(), Space::host),
        planned(stage_activation_bytes(config, modules, batch.tokens.size(0), batch.tokens.size(1), groups.count)),
        arena(Space::host, planned, "a part") {
    for (const ParameterSpec& spec : parameters.specs()) copy(whole.view(spec.name), parameters.view(spec.name));
    arena.poison(true);
    pass = stage.begin(Context{}, arena, batch, groups);
    imported = pass;
  }
  void forward() { stage.forward({}, arena, stage.bind(parameters), pass); }
  LossSums backward(const LossScales& scales, const RecLossOptions& rec) {
    return stage.backward({}, arena, stage.bind(parameters), stage.bind(gradients), pass, scales, rec);
  }

  PhotonStage stage;
  Parameters parameters;
  Parameters gradients;
  std::int64_t planned;
  Arena arena;
  PhotonStage::Pass pass;
  PhotonStage::Pass imported;  // as begin() left it: what other parts make
};

// The rows of `groups` of a level's state.
TensorView group_rows(const ModelConfig& config, const TensorView& state, std::int64_t l, const GroupRange& groups) {
  const std::int64_t each = config.group_tokens() / config.cumulative_chunk(l);
  return rows(state).slice(0, groups.begin * each, groups.count * each);
}

TEST_P(EveryCut, PartsGiveTheLossesAndGradientsOfTheWhole) {
  const ModelConfig& config = GetParam().config;
  const std::int64_t num_levels = config.num_levels();
  const auto model = random_model(config, 3);
  const std::int64_t length = 3 * config.group_tokens() - 1;  // padded to three groups
  const TokenBatch tokens(2, length, config.vocab_size, 7);
  const Batch batch = tokens.batch();
  const LossScales scales{0.01, std::vector<double>(static_cast<std::size_t>(num_levels - 1), 0.3)};
  RecLossOptions rec;
  rec.stop_gradient = false;
  Parameters expected(config, Space::host);
  const LossSums sums = model->forward_backward({}, batch, scales, rec, expected);

  for (std::int64_t cut = 1; cut < num_modules(config); ++cut) {
    SCOPED_TRACE(module_name(config, cut));
    Part first(config, {0, cut}, model->parameters(), batch, all_groups(config, batch));
    first.forward();
    first.stage.begin_backward({}, first.arena, first.pass);
    // Decoders may be shared by two; unequal parts, of whole sequences where lookback wants it.
    std::vector<GroupRange> shares{all_groups(config, batch)};
    if (cut >= num_levels) {
      shares = config.lookback > 0 ? std::vector<GroupRange>{{0, 3}, {3, 3}} : std::vector<GroupRange>{{0, 2}, {2, 4}};
    }
    LossSums found;
    Parameters gradients(config, Space::host);
    const auto add = [&](const Parameters& part) {
      for (const ParameterSpec& spec : part.specs()) {
        copy_elements({}, part.view(spec.name), gradients.view(spec.name), Write::accumulate);
      }
    };
    for (const GroupRange& groups : shares) {
      Part part(config, {cut, num_modules(config)}, model->parameters(), batch, groups);
      const auto at = [](std::int64_t l) { return static_cast<std::size_t>(l); };
      for (std::int64_t l = 1; l <= num_levels; ++l) {
        const auto give = [&](const TensorView& from, const TensorView& to) {
          if (to) copy_elements({}, group_rows(config, from, l, groups), rows(to));
        };
        give(first.pass.x[at(l)], part.imported.x[at(l)]);
        give(first.pass.y[at(l)], part.imported.y[at(l)]);
      }
      part.forward();
      part.stage.begin_backward({}, part.arena, part.pass);
      found += part.backward(scales, rec);
      for (std::int64_t l = 1; l <= num_levels; ++l) {
        if (part.imported.x[at(l)]) {
          copy_elements({}, rows(part.pass.dx[at(l)]), group_rows(config, first.pass.dx[at(l)], l, groups),
                        Write::accumulate);
        }
        if (part.imported.y[at(l)]) {
          copy_elements({}, rows(part.pass.dy[at(l)]), group_rows(config, first.pass.dy[at(l)], l, groups));
        }
      }
      add(part.gradients);
      EXPECT_EQ(part.arena.peak(), part.planned);
    }
    found += first.backward(scales, rec);
    add(first.gradients);
    EXPECT_EQ(first.arena.peak(), first.planned);

    EXPECT_CLOSE(&found.ce, &sums.ce, 1, 1e-6);
    EXPECT_EQ(found.num_tokens, sums.num_tokens);
    EXPECT_EQ(found.num_units, sums.num_units);
    for (std::size_t l = 0; l < sums.rec.size(); ++l) EXPECT_CLOSE(&found.rec[l], &sums.rec[l], 1, 1e-6);
    for (const ParameterSpec& spec : expected.specs()) {
      SCOPED_TRACE(spec.name);
      EXPECT_CLOSE(gradients.view(spec.name).host<float>(), expected.view(spec.name).host<float>(), spec.numel(), 1e-5);
    }
  }
}

TEST(PhotonStage, RefusesToCutWhatEncodersRead) {
  const ModelConfig config = testing::photon_shapes()[1].config;
  const TokenBatch tokens(1, 32, config.vocab_size, 7);
  const PhotonStage stage(config, {1, 4});
  Arena arena(Space::host, 1 << 20, "a part");
  EXPECT_THROW(stage.begin(Context{}, arena, tokens.batch(), {0, 1}), ContractError);
}

}  // namespace
}  // namespace photon
