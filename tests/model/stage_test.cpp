// Parts of a model, run one behind the other, against the whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "blueprint/activations.hpp"
#include "kernels/elementwise.hpp"
#include "model/model_part.hpp"
#include "shapes.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::NamedConfig;
using testing::random_model;
using testing::TokenBatch;

// A part with weights, gradients and memory of its own.
struct Part {
  Part(const ModelConfig& model, const LayerRange& layers, const Parameters& whole, const Batch& batch,
       const GroupRange& share, const PassOptions& options)
      : config(model),
        range(layers),
        groups(share),
        parameters(hosted_parameters(config, layers), Space::host),
        gradients(parameters.specs(), Space::host),
        planned(stage_activation_bytes(config, layers, batch.tokens.size(0), batch.tokens.size(1), groups.count,
                                       f32_bytes, options)),
        arena(Space::host, planned, "a part"),
        part(make_model_part(config, layers, parameters, 1, DType::f32, options)) {
    for (const ParameterSpec& spec : parameters.specs()) copy(whole.view(spec.name), parameters.view(spec.name));
    arena.poison(true);
    pass = part->begin({}, arena, batch, groups);
    imported = pass;
  }
  LossSums backward(const LossScales& scales, const RecLossOptions& rec) {
    LossSums sums;
    for (std::int64_t module = num_modules(config) - 1; module >= 0; --module) {
      if (!part_of(config, range, module).empty()) {
        sums += part->backward({}, arena, gradients, pass, module, scales, rec);
      }
    }
    return sums;
  }
  // In another order than the backward's.
  void backward_weights() {
    for (std::int64_t module = 0; module < num_modules(config); ++module) {
      if (!part_of(config, range, module).empty()) part->backward_weights({}, arena, gradients, pass, module);
    }
  }
  // The rows of a tensor here that stand for the groups of `other`.
  TensorView rows_for(const TensorView& tensor, const Part& other) const {
    const std::int64_t each = rows(tensor).size(0) / groups.count;
    return rows(tensor).slice(0, (other.groups.begin - groups.begin) * each, other.groups.count * each);
  }

  ModelConfig config;
  LayerRange range;
  GroupRange groups;
  Parameters parameters;
  Parameters gradients;
  std::int64_t planned;
  Arena arena;
  std::unique_ptr<ModelPart> part;
  StagePass pass;
  StagePass imported;  // as begin() left it: what other parts make
};

// Stages one behind the other, the last of which may be several parts.
class Chain {
 public:
  Chain(const ModelConfig& config, const std::vector<std::int64_t>& starts, const std::vector<GroupRange>& shares,
        const Parameters& weights, const Batch& batch, const PassOptions& options = {}) {
    for (std::size_t s = 0; s < starts.size(); ++s) {
      const bool last = s + 1 == starts.size();
      const LayerRange layers{starts[s], last ? all_layers(config).end : starts[s + 1]};
      for (const GroupRange& groups : last ? shares : std::vector<GroupRange>{all_groups(config, batch)}) {
        parts_.emplace_back(config, layers, weights, batch, groups, options);
      }
    }
  }

  LossSums run(const LossScales& scales, const RecLossOptions& rec, Parameters& gradients) {
    for (Part& part : parts_) {
      for_each_import(part, [&](Part& maker, auto tensor, auto) {
        copy_elements({}, maker.rows_for(tensor(maker.pass), part), rows(tensor(part.pass)));
      });
      part.part->forward({}, part.arena, part.pass);
    }
    for (Part& part : parts_) part.part->begin_backward({}, part.arena, part.pass);
    LossSums sums;
    for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
      sums += part->backward(scales, rec);
      for_each_import(*part, [&](Part& maker, auto tensor, auto gradient) {
        // X(l) has several readers.
        const bool adds = &tensor(maker.pass) >= maker.pass.x.data() &&
                          &tensor(maker.pass) < maker.pass.x.data() + maker.pass.x.size();
        copy_elements({}, rows(gradient(part->pass)), maker.rows_for(gradient(maker.pass), *part),
                      adds ? Write::accumulate : Write::replace);
      });
    }
    for (Part& part : parts_) {
      if (part.pass.options.split_backward) part.backward_weights();
      for (const ParameterSpec& spec : part.gradients.specs()) {
        copy_elements({}, part.gradients.view(spec.name), gradients.view(spec.name), Write::accumulate);
      }
      EXPECT_EQ(part.arena.peak(), part.planned);
    }
    return sums;
  }

 private:
  // visit(maker, tensor of a pass, its gradient) for everything that a part reads and another makes.
  template <class Visit>
  void for_each_import(Part& part, const Visit& visit) {
    const auto from_maker = [&](auto tensor, auto gradient) {
      if (!tensor(part.imported)) return;
      for (Part& maker : parts_) {
        if (maker.range.end <= part.range.begin && tensor(maker.pass) && !tensor(maker.imported)) {
          visit(maker, tensor, gradient);
        }
      }
    };
    for (std::size_t l = 0; l < part.pass.x.size(); ++l) {
      from_maker([l](StagePass& p) -> TensorView& { return p.x[l]; },
                 [l](StagePass& p) -> TensorView& { return p.dx[l]; });
      from_maker([l](StagePass& p) -> TensorView& { return p.y[l]; },
                 [l](StagePass& p) -> TensorView& { return p.dy[l]; });
    }
    if (!part.pass.in) return;
    for (Part& before : parts_) {
      if (before.range.end != part.range.begin) continue;
      // Out of one part, into the next.
      visit(
          before, [&](StagePass& p) -> TensorView& { return &p == &before.pass ? p.out : p.in; },
          [&](StagePass& p) -> TensorView& { return &p == &before.pass ? p.dout : p.din; });
    }
  }

  std::deque<Part> parts_;
};

class Parts : public ::testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    rec_.stop_gradient = false;
    if (config_.num_levels() > 0) scales_.rec.assign(static_cast<std::size_t>(config_.num_levels() - 1), 0.3);
    sums_ = model_->forward_backward({}, tokens_.batch(), scales_, rec_, expected_);
  }
  void expect_equal(const std::vector<std::int64_t>& starts, const std::vector<GroupRange>& shares) const {
    Parameters gradients(config_, Space::host);
    Chain chain(config_, starts, shares, model_->parameters(), tokens_.batch());
    const LossSums found = chain.run(scales_, rec_, gradients);
    EXPECT_CLOSE(&found.ce, &sums_.ce, 1, 1e-6);
    EXPECT_EQ(found.num_tokens, sums_.num_tokens);
    EXPECT_EQ(found.num_units, sums_.num_units);
    for (std::size_t l = 0; l < sums_.rec.size(); ++l) EXPECT_CLOSE(&found.rec[l], &sums_.rec[l], 1, 1e-6);
    for (const ParameterSpec& spec : expected_.specs()) {
      SCOPED_TRACE(spec.name);
      EXPECT_CLOSE(gradients.view(spec.name).host<float>(), expected_.view(spec.name).host<float>(), spec.numel(),
                   1e-5);
    }
  }

  ModelConfig config_ = GetParam().config;
  std::unique_ptr<Model> model_ = random_model(config_, 3);
  TokenBatch tokens_{2, 3 * config_.group_tokens() - (config_.num_levels() > 0 ? 1 : 0), config_.vocab_size, 7};
  LossScales scales_{0.01, {}};
  RecLossOptions rec_;
  Parameters expected_{config_, Space::host};
  LossSums sums_;
};
INSTANTIATE_TEST_SUITE_P(Shapes, Parts, ::testing::ValuesIn(testing::all_shapes()),
                         [](const auto& shape) { return shape.param.name; });

// Decoders may be shared by two; unequal parts, of whole sequences where lookback wants it.
TEST_P(Parts, OnBothSidesOfAnyLayerGiveTheWhole) {
  const GroupRange all = all_groups(config_, tokens_.batch());
  for (std::int64_t layer = 1; layer < all_layers(config_).end; ++layer) {
    SCOPED_TRACE(layer_name(config_, layer));
    std::vector<GroupRange> shares{all};
    if (config_.num_levels() > 0 && layer >= first_decoder_layer(config_)) {
      shares = config_.lookback > 0 ? std::vector<GroupRange>{{0, 3}, {3, 3}} : std::vector<GroupRange>{{0, 2}, {2, 4}};
    }
    expect_equal({0, layer}, shares);
  }
}

TEST_P(Parts, OfOneLayerEachGiveTheWhole) {
  std::vector<std::int64_t> starts;
  for (std::int64_t layer = 0; layer < all_layers(config_).end; ++layer) starts.push_back(layer);
  expect_equal(starts, {all_groups(config_, tokens_.batch())});
}

// The same ops on the same operands, at other times and in other memory.
TEST_P(Parts, ThatRecomputeOrSplitTheBackwardGiveTheSameBits) {
  for (std::int64_t layer = 1; layer < all_layers(config_).end; ++layer) {
    SCOPED_TRACE(layer_name(config_, layer));
    const auto run = [&](const PassOptions& options, Parameters& gradients) {
      Chain chain(config_, {0, layer}, {all_groups(config_, tokens_.batch())}, model_->parameters(), tokens_.batch(),
                  options);
      return chain.run(scales_, rec_, gradients).ce;
    };
    Parameters kept(config_, Space::host);
    const double loss = run({}, kept);
    for (const PassOptions& options : {PassOptions{.recompute = true}, PassOptions{.split_backward = true}}) {
      SCOPED_TRACE(options.recompute ? "recompute" : "split");
      Parameters other(config_, Space::host);
      EXPECT_EQ(run(options, other), loss);
      for (const ParameterSpec& spec : kept.specs()) {
        EXPECT_EQ(std::memcmp(kept.view(spec.name).host<float>(), other.view(spec.name).host<float>(),
                              static_cast<std::size_t>(spec.numel()) * sizeof(float)),
                  0)
            << spec.name;
      }
    }
  }
}

// A backward that only starts to be split leaves the weights of linear layers, and no others, to its second part.
TEST_P(Parts, OfASplitBackwardDivideTheGradients) {
  const Batch batch = tokens_.batch();
  Part part(config_, all_layers(config_), model_->parameters(), batch, all_groups(config_, batch),
            {.split_backward = true});
  part.part->forward({}, part.arena, part.pass);
  part.part->begin_backward({}, part.arena, part.pass);
  part.backward(scales_, rec_);
  const auto is_zero = [&](const ParameterSpec& spec) {
    const auto* const values = part.gradients.view(spec.name).host<float>();
    return std::all_of(values, values + spec.numel(), [](float x) { return x == 0; });
  };
  for (const ParameterSpec& spec : part.gradients.specs()) EXPECT_EQ(is_zero(spec), !only_added_to(spec)) << spec.name;
  part.backward_weights();
  for (const ParameterSpec& spec : part.gradients.specs()) EXPECT_FALSE(is_zero(spec)) << spec.name;
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
