#include "eval/drift.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "eval/drift_json.hpp"
#include "eval/drift_rows.hpp"
#include "eval/latents.hpp"
#include "kernels/linear.hpp"
#include "reference.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using Logits = std::vector<std::vector<double>>;  // [positions][V]

std::vector<double> softmax(const std::vector<double>& logits) {
  std::vector<double> p;
  double sum = 0;
  for (const double logit : logits) p.push_back(std::exp(logit));
  for (const double value : p) sum += value;
  for (double& value : p) value /= sum;
  return p;
}

std::ptrdiff_t best(const std::vector<double>& logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

// Windows on every encoder below the top.
ModelConfig windowed(ModelConfig config, std::int64_t window) {
  for (std::size_t l = 0; l + 1 < config.levels.size(); ++l) config.levels[l].encoder.window = window;
  return config;
}

Context deterministic() {
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  return ctx;
}

std::vector<DriftRow> random_rows(const ModelConfig& config) {
  std::vector<DriftRow> rows;
  const std::int64_t lengths[] = {41, 30, 7, 41, 5};
  const std::int64_t prompts[] = {9, 0, 6, 16, 5};
  for (std::size_t i = 0; i < std::size(lengths); ++i) {
    DriftRow& row = rows.emplace_back();
    row.tokens = testing::TokenBatch(1, lengths[i], config.vocab_size, 20 + i).ids;
    row.prompt = prompts[i];
  }
  rows[3].mask.assign(41, 1);
  for (std::size_t i = 0; i < 41; i += 3) rows[3].mask[i] = 0;
  return rows;
}

// The reference: log-softmaxes in double of states that the public functions of the model give a row at a time.
void expect_as_by_hand(const PathDrift& path, const DriftResult& result, const std::vector<DriftRow>& rows,
                       const std::function<Logits(const DriftRow&)>& exact,
                       const std::function<Logits(const DriftRow&)>& approx) {
  std::vector<DriftSums> bins(path.bins.size());
  for (const DriftRow& row : rows) {
    const Logits p_logits = exact(row);
    const Logits q_logits = approx(row);
    for (std::size_t i = static_cast<std::size_t>(row.prompt); i < row.tokens.size(); ++i) {
      if (!row.mask.empty() && row.mask[i] == 0) continue;
      const auto at = (i - static_cast<std::size_t>(row.prompt)) / static_cast<std::size_t>(result.bin);
      ASSERT_LT(at, bins.size());
      const std::vector<double> p = softmax(p_logits[i]);
      const std::vector<double> q = softmax(q_logits[i]);
      ++bins[at].num_tokens;
      bins[at].num_agreeing += best(p_logits[i]) == best(q_logits[i]) ? 1 : 0;
      for (std::size_t v = 0; v < p.size(); ++v) bins[at].kl += p[v] * std::log(p[v] / q[v]);
      bins[at].loss -= std::log(q[static_cast<std::size_t>(row.tokens[i])]);
    }
  }
  DriftSums total;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    ASSERT_EQ(path.bins[i].num_tokens, bins[i].num_tokens);
    EXPECT_EQ(path.bins[i].num_agreeing, bins[i].num_agreeing);
    EXPECT_NEAR(path.bins[i].kl, bins[i].kl, 1e-4 * static_cast<double>(bins[i].num_tokens));
    EXPECT_NEAR(path.bins[i].loss, bins[i].loss, 1e-4 * static_cast<double>(bins[i].num_tokens));
    EXPECT_GE(path.bins[i].kl, 0.0);
    total += bins[i];
  }
  EXPECT_EQ(path.total.num_tokens, total.num_tokens);
  EXPECT_NEAR(path.total.perplexity(), std::exp(total.loss / static_cast<double>(total.num_tokens)),
              1e-3 * path.total.perplexity());
}

TEST(Drift, IsThatOfThePathsLogitsInDouble) {
  for (const testing::NamedConfig& shape : testing::recgen_shapes()) {
    SCOPED_TRACE(shape.name);
    const auto model = testing::random_model(shape.config, 3);
    const auto other = testing::random_model(windowed(shape.config, 2), 3);
    const std::vector<DriftRow> rows = random_rows(shape.config);
    DriftOptions options;
    options.windows = {2};
    options.bin = 5;
    const DriftResult result = measure_drift(*model, deterministic(), rows, options, [] {});
    const auto exact = [&](const DriftRow& row) { return testing::score_reference(*model, row.tokens, -1).logits; };
    ASSERT_EQ(result.approximations.size(), 2U);
    EXPECT_EQ(result.num_rows, 4);  // the last one ends with its prompt
    expect_as_by_hand(result.exact, result, rows, exact, exact);
    expect_as_by_hand(result.approximations[0], result, rows, exact, [&](const DriftRow& row) {
      return testing::score_reference(*model, row.tokens, row.prompt).logits;
    });
    expect_as_by_hand(result.approximations[1], result, rows, exact,
                      [&](const DriftRow& row) { return testing::score_reference(*other, row.tokens, -1).logits; });
    EXPECT_GT(result.approximations[0].total.mean_kl(), 0.0);
  }
}

TEST(Drift, RecGenIsExactInThePromptsOwnGroup) {
  for (const testing::NamedConfig& shape : testing::recgen_shapes()) {
    SCOPED_TRACE(shape.name);
    const auto model = testing::random_model(shape.config, 3);
    const std::int64_t group = shape.config.group_tokens();
    std::vector<DriftRow> rows(1);
    rows[0].tokens = testing::TokenBatch(1, 4 * group, shape.config.vocab_size, 8).ids;
    rows[0].prompt = group + 1;
    const DriftResult result = measure_drift(*model, deterministic(), rows, {}, [] {});
    const PathDrift& recgen = result.approximations.at(0);
    ASSERT_EQ(recgen.bins.size(), static_cast<std::size_t>(3 * group - 1));
    double later = 0;
    double latents = 0;
    for (std::size_t d = 0; d < recgen.bins.size(); ++d) {
      const DriftSums& sums = recgen.bins[d];
      if (static_cast<std::int64_t>(d) < group - 1) {
        EXPECT_EQ(sums.kl, 0.0) << d;
        EXPECT_EQ(sums.num_agreeing, 1) << d;
        EXPECT_EQ(sums.loss, result.exact.bins[d].loss) << d;
        for (const double level : sums.cosine) EXPECT_EQ(level, 1.0) << d;
      } else {
        later += sums.kl;
        latents += 1 - sums.cosine[0];
        // The first rolled-out group is decoded from X(L) of the groups before, which is exact.
        if (static_cast<std::int64_t>(d) < 2 * group - 1) {
          EXPECT_EQ(sums.cosine.back(), 1.0) << d;
        }
      }
    }
    EXPECT_GT(later, 1e-3);
    EXPECT_GT(latents, 1e-3);
  }
}

TEST(Drift, LatentsAreThoseOfARollOutByHand) {
  // Groups one after another, each rendered by whole passes of the decoder over its own reconstructions so far, the top
  // encoder run anew over all units before.
  for (const testing::NamedConfig& shape : testing::recgen_shapes()) {
    SCOPED_TRACE(shape.name);
    const auto owned = testing::random_model(shape.config, 4);
    auto& model = dynamic_cast<PhotonModel&>(*owned);
    const ModelConfig& config = shape.config;
    const Context ctx = deterministic();
    const std::int64_t group = config.group_tokens();
    const std::int64_t top = config.num_levels();
    const testing::TokenBatch tokens(1, 4 * group - 1, config.vocab_size, 5);
    const std::vector<std::int64_t> prompts{group - 1};  // rounded to one group
    const PathStates measured = recgen_states(model, ctx, tokens.batch(), prompts);
    const PhotonModel::States exact = model.states(ctx, tokens.batch());
    Arena arena(Space::host, std::int64_t{1} << 24, "by hand");

    // One level-l group from its latent: y [C_l, D_{l-1}].
    const auto render = [&](std::int64_t l, const Tensor& c) {
      const std::int64_t chunk = config.levels[static_cast<std::size_t>(l - 1)].chunk;
      Tensor content(Space::host, DType::f32, {1, chunk, config.width(l - 1)});
      Tensor y(Space::host, DType::f32, {1, chunk, config.width(l - 1)});
      for (std::int64_t j = 0; j < chunk; ++j) {
        model.decode_groups(ctx, arena, l, c, content, y);
        copy(y.view().slice(1, j, 1), content.view().slice(1, j, 1));
      }
      return content;
    };
    const auto near = [&](std::int64_t level, std::int64_t unit, const float* expected) {
      const auto latent = measured.latent(level, 0, unit);
      for (std::size_t d = 0; d < latent.size(); ++d)
        ASSERT_NEAR(latent[d], expected[d], 1e-4) << "level " << level << " unit " << unit;
    };
    Tensor below(Space::host, DType::f32, exact.x[static_cast<std::size_t>(top - 1)].shape());
    copy(exact.x[static_cast<std::size_t>(top - 1)], below);
    const LevelTensors& w = model.tensors().levels[static_cast<std::size_t>(top - 1)];
    for (std::int64_t g = 1; g < 4; ++g) {
      const std::int64_t chunk = config.levels[static_cast<std::size_t>(top - 1)].chunk;
      Tensor a(Space::host, DType::f32, {1, g, config.width(top)});
      Tensor x(Space::host, DType::f32, a.shape());
      linear_forward(ctx, below.view().merge(0).slice(0, 0, g * chunk).reshape({g, w.chunker.size(1)}), w.chunker,
                     a.view().merge(0));
      model.level(top).encoder.forward(ctx, arena, w.encoder, a, x);
      Tensor c(Space::host, DType::f32, {1, config.width(top)});
      copy(x.view().merge(0).slice(0, g - 1, 1), c);
      near(top, g, c.host<float>());
      std::vector<Tensor> level;
      level.push_back(std::move(c));
      for (std::int64_t l = top; l >= 2; --l) {
        std::vector<Tensor> next;
        for (const Tensor& latent : level) {
          const Tensor y = render(l, latent);
          for (std::int64_t j = 0; j < y.shape()[1]; ++j) {
            const auto unit = static_cast<std::int64_t>(next.size());
            Tensor& one = next.emplace_back(Space::host, DType::f32, Shape{1, config.width(l - 1)});
            copy(y.view().merge(0).slice(0, j, 1), one);
            const std::int64_t first = g * (group / config.cumulative_chunk(l - 1));
            near(l - 1, first + unit, one.host<float>());
            if (l == top) copy(one, below.view().merge(0).slice(0, first + unit, 1));
          }
        }
        level = std::move(next);
      }
    }
    for (std::int64_t l = 1; l < top; ++l) near(l, 0, exact.y[static_cast<std::size_t>(l)].host<float>());
    near(top, 0, model.tensors().start_latent.host<float>());
  }
}

TEST(Drift, AWindowOfAllUnitsDriftsNowhere) {
  for (const testing::NamedConfig& shape : testing::recgen_shapes()) {
    if (shape.name == "windowed") continue;  // HierGen itself has windows there
    const auto model = testing::random_model(shape.config, 3);
    DriftOptions options;
    options.recgen = false;
    options.windows = {1, 64};
    const DriftResult result = measure_drift(*model, deterministic(), random_rows(shape.config), options, [] {});
    EXPECT_GT(result.approximations[0].total.kl, 0.0);
    const DriftSums& all = result.approximations[1].total;
    EXPECT_NEAR(all.kl, 0.0, 1e-9);
    EXPECT_EQ(all.num_agreeing, all.num_tokens);
    EXPECT_NEAR(all.mean_loss(), result.exact.total.mean_loss(), 1e-6);
    for (std::int64_t l = 1; l <= result.num_levels; ++l) EXPECT_NEAR(all.mean_cosine(l), 1.0, 1e-9);
  }
}

TEST(Drift, DoesNotDependOnTheBatch) {
  const testing::NamedConfig shape = testing::recgen_shapes()[2];
  const auto model = testing::random_model(shape.config, 3);
  const std::vector<DriftRow> rows = random_rows(shape.config);
  std::vector<std::string> results;
  for (const std::int64_t batch : {0, 1, 2, 3}) {
    DriftOptions options;
    options.windows = {2};
    options.batch_size = batch;
    int polls = 0;
    results.push_back(to_json(measure_drift(*model, deterministic(), rows, options, [&] { ++polls; }), {}));
    EXPECT_EQ(polls, batch == 0 ? 1 : (5 + batch - 1) / batch);
  }
  for (const std::string& result : results) EXPECT_EQ(result, results[0]);
  const auto json = nlohmann::json::parse(results[0]);
  EXPECT_EQ(json["approximations"][1]["window"], 2);
  EXPECT_EQ(json["approximations"][0]["cosine"].size(), 3U);
  EXPECT_EQ(json["exact"]["by_distance"][3]["distance"], 3);
  EXPECT_FALSE(json["exact"].contains("kl"));
}

TEST(Drift, DivergenceIsNeverNegativeAndNeverOfNothing) {
  std::vector<float> p(33);
  std::vector<float> q(33);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const float scale = std::pow(10.0F, static_cast<float>(seed % 5) - 2.0F);
    for (std::size_t v = 0; v < p.size(); ++v) {
      p[v] = scale * static_cast<float>(random_normal(seed, 1, v));
      q[v] = seed % 3 == 0 ? p[v] : scale * static_cast<float>(random_normal(seed, 2, v));
    }
    const TokenDrift drift = compare_logits(p, q, 7);
    EXPECT_GE(drift.kl, 0.0);
    if (seed % 3 == 0) {
      EXPECT_EQ(drift.kl, 0.0);
    }
  }
  // Half and half against 1/4, 3/4.
  const std::vector<float> even{0.0F, 0.0F};
  const std::vector<float> uneven{0.0F, std::log(3.0F)};
  const TokenDrift known = compare_logits(even, uneven, 0);
  EXPECT_NEAR(known.kl, 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0), 1e-7);
  EXPECT_NEAR(known.exact, std::log(2.0), 1e-12);
  EXPECT_NEAR(known.approx, std::log(4.0), 1e-7);
  EXPECT_FALSE(known.agrees);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> broken = p;
    broken[5] = bad;
    EXPECT_THROW(compare_logits(broken, q, 0), Error);
    EXPECT_THROW(compare_logits(p, broken, 0), Error);
  }
}

TEST(Drift, CosinesOfAllKinds) {
  const std::vector<float> zero{0, 0};
  const std::vector<float> a{3, 4};
  const std::vector<float> b{-4, 3};
  EXPECT_EQ(cosine(a, a), 1.0);
  EXPECT_EQ(cosine(zero, zero), 1.0);
  EXPECT_EQ(cosine(zero, a), 0.0);
  EXPECT_EQ(cosine(a, b), 0.0);
  EXPECT_TRUE(std::isnan(cosine(a, {std::vector<float>{1, std::nanf("")}})));
}

TEST(Drift, BrokenWeightsFail) {
  const testing::NamedConfig shape = testing::recgen_shapes()[0];
  const auto model = testing::random_model(shape.config, 3);
  model->parameters().view("levels.1.decoder.norm.weight").host<float>()[0] = std::nanf("");
  const std::vector<DriftRow> rows = random_rows(shape.config);
  EXPECT_THROW(measure_drift(*model, deterministic(), rows, {}, [] {}), Error);
}

TEST(Drift, RefusesWhatHasNothingToCompare) {
  const auto refusal = [](const ModelConfig& config, const DriftOptions& options) {
    try {
      const auto model = testing::random_model(config, 1);
      measure_drift(*model, deterministic(), random_rows(config), options, [] {});
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto holds = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  DriftOptions windows;
  windows.recgen = false;
  windows.windows = {2};
  for (const testing::NamedConfig& shape : testing::all_shapes()) {
    if (shape.name == "block") holds(refusal(shape.config, windows), "one level");
    if (shape.name == "vanilla") holds(refusal(shape.config, {}), "no hierarchy");
    if (shape.name != "lookback") continue;
    holds(refusal(shape.config, {}), "looks back at 5 tokens");
    EXPECT_EQ(refusal(shape.config, windows), "");
    windows.windows = {0};
    holds(refusal(shape.config, windows), "a window is 0");
    windows.windows = {};
    holds(refusal(shape.config, windows), "nothing to compare");
  }
  const ModelConfig config = testing::recgen_shapes()[0].config;
  const auto model = testing::random_model(config, 1);
  std::vector<DriftRow> rows(1);
  rows[0].tokens = {1, 2, 3};
  rows[0].prompt = 3;
  EXPECT_THROW(measure_drift(*model, deterministic(), rows, {}, [] {}), InputError);
}

TEST(Drift, PromptsGoOnAsHierGenWritesThem) {
  ModelConfig config = testing::recgen_shapes()[0].config;
  config.vocab_size = 259;
  config.tokenizer = "byte";
  OpenModel model;
  model.model = testing::random_model(config, 9);
  model.tokenizer = make_byte_tokenizer();
  DriftPrompts prompts;
  prompts.file = std::filesystem::path(::testing::TempDir()) / ("photon_drift_" + std::to_string(::getpid()));
  prompts.defaults.max_new_tokens = 20;
  std::ofstream(prompts.file) << "{\"id\": \"b\", \"prompt\": \"In the beginning\"}\n"
                                 "{\"id\": \"a\", \"tokens\": [7, 8], \"max_new_tokens\": 5, \"n\": 2}\n";
  const std::vector<DriftRow> rows = drift_rows(model, deterministic(), prompts, [] {});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].prompt, 16);
  EXPECT_EQ(rows[1].prompt, 2);
  EXPECT_EQ(rows[1].tokens, rows[2].tokens);  // greedy
  for (const DriftRow& row : rows) {
    const auto scores = testing::score_reference(*model.model, row.tokens, -1);
    for (std::size_t i = static_cast<std::size_t>(row.prompt); i < row.tokens.size(); ++i)
      EXPECT_TRUE(scores.greedy[i]);
  }
  // Each prompt of a row of an OpenAI batch with its own continuation.
  std::ofstream(prompts.file) << R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", )"
                                 R"("body": {"prompt": [[7, 8], [9]], "max_tokens": 5}})"
                              << "\n";
  const std::vector<DriftRow> several = drift_rows(model, deterministic(), prompts, [] {});
  ASSERT_EQ(several.size(), 2U);
  EXPECT_EQ(several[0].tokens, rows[1].tokens);
  EXPECT_EQ(several[1].prompt, 1);
  EXPECT_EQ(several[1].tokens[0], 9);

  std::ofstream(prompts.file) << "{\"id\": \"b\", \"prompt\": \"x\"}\n{\"id\": \"c\"}\n";
  try {
    drift_rows(model, deterministic(), prompts, [] {});
    ADD_FAILURE() << "a bad row was taken";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("line 1 of the prompts"), std::string::npos) << error.what();
  }
  std::filesystem::remove(prompts.file);
}

}  // namespace
}  // namespace photon
