// Golden values made by independent code: Hugging Face's LlamaModel for vanilla, a PyTorch PHOTON for the rest (the
// scripts stand beside the fixtures). All expected numbers were computed in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/linear.hpp"
#include "model/incremental.hpp"
#include "model/photon_model.hpp"
#include "model/vanilla_model.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using nlohmann::json;

constexpr double golden_tolerance = 2e-5;  // single precision against double, and the fixtures' ten digits

json read_fixture(const std::string& name) {
  std::ifstream in(std::string(PHOTON_SOURCE_DIR) + "/tests/model/fixtures/" + name);
  return json::parse(in);
}

void flatten(const json& value, std::vector<double>& out) {
  if (!value.is_array()) {
    out.push_back(value.get<double>());
    return;
  }
  for (const json& v : value) flatten(v, out);
}

std::vector<double> numbers(const json& value) {
  std::vector<double> out;
  flatten(value, out);
  return out;
}

std::unique_ptr<Model> load(const ModelConfig& config, const json& weights, std::int32_t start_token) {
  auto model = make_model(config, Space::host, start_token);
  EXPECT_EQ(weights.size(), model->parameters().specs().size());
  for (const ParameterSpec& spec : model->parameters().specs()) {
    const json& w = weights.at(spec.name);
    EXPECT_EQ(w.at("shape").get<std::vector<std::int64_t>>(), spec.shape) << spec.name;
    const std::vector<double> values = numbers(w.at("values"));
    float* const to = model->parameters().view(spec.name).host<float>();
    for (std::size_t i = 0; i < values.size(); ++i) to[i] = static_cast<float>(values[i]);
  }
  return model;
}

struct Tokens {
  explicit Tokens(const json& rows)
      : num_rows(static_cast<std::int64_t>(rows.size())), length(static_cast<std::int64_t>(rows[0].size())) {
    for (const double v : numbers(rows)) ids.push_back(static_cast<std::int32_t>(v));
  }
  Batch batch() const { return {host_view(ids.data(), {num_rows, length}), {}}; }
  std::int64_t num_rows;
  std::int64_t length;
  std::vector<std::int32_t> ids;
};

std::vector<float> logits_of(Model& model, const Tensor& hidden) {
  const TensorView rows = hidden.view().merge(0);
  Tensor logits(Space::host, DType::f32, {rows.size(0), model.config().vocab_size});
  linear_forward({}, rows, model.head_weight(), logits);
  return {logits.host<float>(), logits.host<float>() + logits.numel()};
}

void expect_close(const float* actual, std::int64_t count, const json& expected, const std::string& what) {
  SCOPED_TRACE(what);
  const std::vector<double> values = numbers(expected);
  ASSERT_EQ(count, static_cast<std::int64_t>(values.size()));
  EXPECT_CLOSE(actual, values.data(), count, golden_tolerance);
}

void expect_gradients(const Parameters& gradients, const json& expected) {
  for (const ParameterSpec& spec : gradients.specs()) {
    SCOPED_TRACE(spec.name);
    const json& e = expected.at(spec.name);
    const float* const g = gradients.view(spec.name).host<float>();
    double square = 0;
    double sum = 0;
    for (std::int64_t i = 0; i < spec.numel(); ++i) {
      square += static_cast<double>(g[i]) * g[i];
      sum += g[i];
    }
    const double norm = e.at("norm").get<double>();
    EXPECT_TRUE(std::abs(std::sqrt(square) - norm) <= 1e-4 * norm) << std::sqrt(square) << " != " << norm;
    EXPECT_TRUE(std::abs(sum - e.at("sum").get<double>()) <=
                1e-4 * norm * std::sqrt(static_cast<double>(spec.numel())));
    const std::vector<double> first = numbers(e.at("first"));
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(std::abs(g[i] - first[i]) <= 1e-4 * norm) << i;
  }
}

TEST(Golden, VanillaEqualsHuggingFaceLlama) {
  const json fixture = read_fixture("llama_tiny.json");
  const ModelConfig config = model_config_from_json(fixture.at("config").dump(), "llama_tiny.json");
  const auto model = load(config, fixture.at("weights"), fixture.at("bos").get<std::int32_t>());
  const Tokens tokens(fixture.at("tokens"));
  // The stack alone, from given inputs.
  auto& vanilla = dynamic_cast<VanillaModel&>(*model);
  std::vector<float> inputs;
  for (const double v : numbers(fixture.at("inputs"))) inputs.push_back(static_cast<float>(v));
  const Shape shape{1, tokens.length, config.dim};
  Arena arena(Space::host, 1 << 20, "a test");
  Tensor hidden(Space::host, DType::f32, shape);
  vanilla.stack().forward({}, arena, vanilla.tensors().stack, host_view(inputs.data(), shape), hidden);
  expect_close(hidden.host<float>(), hidden.numel(), fixture.at("hidden"), "hidden");
  const auto logits = logits_of(*model, model->hidden({}, tokens.batch()));
  expect_close(logits.data(), static_cast<std::int64_t>(logits.size()), fixture.at("logits"), "logits");
  Parameters gradients(config, Space::host);
  const double count = static_cast<double>(tokens.ids.size());
  const LossSums sums = model->forward_backward({}, tokens.batch(), {1 / count, {}}, {}, gradients);
  EXPECT_NEAR(sums.ce / count, fixture.at("loss").get<double>(), 1e-5);
  expect_gradients(gradients, fixture.at("gradients"));
}

class GoldenPhoton : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenPhoton()
      : fixture(read_fixture("photon_tiny.json")), c(fixture.at("cases/" + GetParam())), tokens(c.at("tokens")) {
    const json& m = fixture.at("models/" + c.at("model").get<std::string>());
    json config_json = m.at("config");
    for (const auto& [path, value] : c.at("change").items()) {  // "levels.0.encoder.window"
      std::string pointer = "/" + path;
      std::replace(pointer.begin(), pointer.end(), '.', '/');
      config_json[json::json_pointer(pointer)] = value;
    }
    config = model_config_from_json(config_json.dump(), "photon_tiny.json");
    model = load(config, m.at("weights"), -1);
  }
  // The first units of every row of a state [B, M, D] against the fixture's [B, units, D].
  void expect_state(const Tensor& state, const json& expected, const std::string& what) const {
    const auto units = static_cast<std::int64_t>(expected[0].size());
    for (std::int64_t b = 0; b < tokens.num_rows; ++b) {
      const TensorView row = state.view().slice(0, b, 1).merge(0).slice(0, 0, units);
      expect_close(row.host<float>(), row.numel(), expected[static_cast<std::size_t>(b)], what);
    }
  }

  const json fixture;
  const json& c;
  const Tokens tokens;
  ModelConfig config;
  std::unique_ptr<Model> model;
};
INSTANTIATE_TEST_SUITE_P(Cases, GoldenPhoton, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           const json fixture = read_fixture("photon_tiny.json");
                           for (const auto& [key, value] : fixture.items()) {
                             if (key.rfind("cases/", 0) == 0) names.push_back(key.substr(6));
                           }
                           return names;
                         }()),
                         [](const auto& name) { return name.param; });

TEST_P(GoldenPhoton, StatesLossesAndGradients) {
  auto& photon = dynamic_cast<PhotonModel&>(*model);
  const auto logits = logits_of(*model, model->hidden({}, tokens.batch()));
  expect_close(logits.data(), static_cast<std::int64_t>(logits.size()), c.at("logits"), "logits");
  const auto states = photon.states({}, tokens.batch());
  for (std::size_t l = 0; l < c.at("X").size(); ++l) expect_state(states.x[l + 1], c.at("X")[l], "X");
  for (std::size_t l = 0; l < c.at("Y").size(); ++l) expect_state(states.y[l], c.at("Y")[l], "Y");

  Parameters gradients(config, Space::host);
  LossScales scales{1.0 / static_cast<double>(tokens.ids.size()), {}};
  const auto units = unpadded_units(config, tokens.num_rows, tokens.length);
  for (const std::int64_t n : units) scales.rec.push_back(0.3 / static_cast<double>(n));
  const LossSums sums = model->forward_backward({}, tokens.batch(), scales, {}, gradients);
  EXPECT_NEAR(sums.ce * scales.ce, c.at("ce").get<double>(), 2e-5);
  double rec = 0;
  for (std::size_t l = 0; l < units.size(); ++l) rec += sums.rec[l] / static_cast<double>(units[l]);
  EXPECT_NEAR(rec, c.at("rec").at("cosine").get<double>(), 2e-5);
  EXPECT_NEAR(sums.ce * scales.ce + 0.3 * rec, c.at("loss").get<double>(), 4e-5);
  expect_gradients(gradients, c.at("gradients"));
  for (const auto& [kind, name] :
       {std::pair{RecDistance::smooth_l1, "smooth_l1"}, std::pair{RecDistance::mse, "mse"}}) {
    RecLossOptions options;
    options.distance = kind;
    const LossSums other = model->evaluate({}, tokens.batch(), options, {}, {});
    double mean = 0;
    for (std::size_t l = 0; l < units.size(); ++l) mean += other.rec[l] / static_cast<double>(units[l]);
    EXPECT_NEAR(mean, c.at("rec").at(name).get<double>(), 2e-5) << name;
  }
}

TEST_P(GoldenPhoton, RecGenLikelihood) {
  if (!c.contains("recgen")) GTEST_SKIP() << "RecGen has no meaning for this shape";
  const Batch row0{host_view(tokens.ids.data(), {1, tokens.length}), {}};
  for (const json& entry : c.at("recgen")) {
    const auto prompt = entry.at("prompt").get<std::int64_t>();
    const auto logits = logits_of(*model, recgen_hidden(*model, {}, row0, std::vector{prompt}));
    const std::vector<double> expected = numbers(entry.at("logprobs"));
    ASSERT_EQ(static_cast<std::int64_t>(expected.size()), tokens.length - prompt);
    for (std::int64_t t = prompt; t < tokens.length; ++t) {
      const float* const row = logits.data() + t * config.vocab_size;
      double sum = 0;
      for (std::int64_t v = 0; v < config.vocab_size; ++v) sum += std::exp(static_cast<double>(row[v]));
      const double logprob = static_cast<double>(row[tokens.ids[static_cast<std::size_t>(t)]]) - std::log(sum);
      EXPECT_NEAR(logprob, expected[static_cast<std::size_t>(t - prompt)], 1e-4)
          << "prompt " << prompt << ", token " << t;
    }
  }
}

TEST_P(GoldenPhoton, GreedyText) {
  for (const json& entry : c.at("greedy")) {
    const auto prompt = entry.at("prompt").get<std::int64_t>();
    const std::vector<std::int32_t> forced(tokens.ids.begin(), tokens.ids.begin() + prompt);
    const std::int64_t group = config.group_tokens();
    const std::int64_t aligned = prompt / group * group;
    const std::int64_t length = tokens.length + 4;
    for (const std::string mode : {"hiergen", "recgen"}) {
      if (!entry.contains(mode)) continue;
      SCOPED_TRACE(mode + " after " + std::to_string(prompt) + " tokens");
      const auto expected = entry.at(mode).get<std::vector<std::int32_t>>();
      const auto decoder = make_incremental_decoder(*model, {}, 1, length + group);
      const std::vector<std::int64_t> slot = {0};
      decoder->prefill(slot,
                       std::vector{std::span<const std::int32_t>(forced.data(), static_cast<std::size_t>(aligned))});
      std::vector<std::int32_t> text(forced.begin(), forced.begin() + aligned);
      const auto step_group = [&] {
        std::vector<std::int32_t> given;
        for (std::int64_t i = 0; i < group; ++i) {
          const auto at = text.size() + static_cast<std::size_t>(i);
          given.push_back(at < forced.size() ? forced[at] : draw_token);
        }
        const std::vector<RowDraw> draws(1);
        decoder->step_group({slot, given, draws});
        const StepResult result = decoder->take_step();
        text.insert(text.end(), result.tokens.begin(), result.tokens.end());
      };
      const bool recgen = mode == "recgen";
      if (recgen && prompt > aligned) step_group();  // the group in which the prompt ends
      while (static_cast<std::int64_t>(text.size()) < length) {
        if (!recgen) {
          step_group();
          continue;
        }
        const ConstTensorView chunks = decoder->roll_out(slot, 1).merge(0);
        for (std::int64_t i = 0; i < chunks.size(0); ++i) {
          RowDraw draw;
          draw.key.position = text.size();
          const StepResult result = decoder->decode_chunks(chunks, {std::vector{i}, slot, {&draw, 1}, {}});
          text.insert(text.end(), result.tokens.begin(), result.tokens.end());
        }
      }
      text.resize(static_cast<std::size_t>(length));
      EXPECT_EQ(text, expected);
    }
  }
}

}  // namespace
}  // namespace photon
