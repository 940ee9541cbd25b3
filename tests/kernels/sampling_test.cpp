#include "kernels/sampling.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "reference.hpp"
#include "support/random.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Field;

class Sampling : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Sampling, testing::all_isas(), testing::isa_name);

// Draws the token of `position` 0 .. draws-1 from the same logits.
std::vector<std::int32_t> draw(const std::vector<float>& logits, const SamplingOptions& options, std::int64_t draws,
                               std::vector<std::int32_t> seen = {}) {
  const auto v = static_cast<std::int64_t>(logits.size());
  std::vector<float> all;
  std::vector<SampleRow> rows;
  for (std::int64_t i = 0; i < draws; ++i) {
    all.insert(all.end(), logits.begin(), logits.end());
    rows.push_back({options,
                    {.seed = 5, .request = hash_name("r"), .sample = 2, .position = static_cast<std::uint64_t>(i)},
                    seen});
  }
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(draws), -1);
  sample(Context{}, host_view(all.data(), {draws, v}), rows, host_view(tokens.data(), {draws}), {});
  return tokens;
}

// Fails when the frequencies are not those of `probabilities` within five standard deviations.
void expect_distribution(const std::vector<std::int32_t>& tokens, const std::vector<double>& probabilities) {
  std::map<std::int32_t, std::int64_t> counts;
  for (const std::int32_t t : tokens) ++counts[t];
  const auto n = static_cast<double>(tokens.size());
  for (std::size_t t = 0; t < probabilities.size(); ++t) {
    const double p = probabilities[t];
    const double frequency = static_cast<double>(counts[static_cast<std::int32_t>(t)]) / n;
    EXPECT_NEAR(frequency, p, 5 * std::sqrt(p * (1 - p) / n)) << "token " << t;
  }
}

// log of the probabilities, in an order that is not sorted
const std::vector<float> logits = {std::log(0.05F), std::log(0.4F), std::log(0.1F), std::log(0.25F), std::log(0.2F)};
constexpr std::int64_t draws = 4000;

TEST_P(Sampling, GreedyTakesTheLowestIndexOfTheLargest) {
  EXPECT_EQ(draw({1, 3, 2, 3}, {}, 1), std::vector<std::int32_t>{1});
  EXPECT_EQ(draw({-5}, {}, 1), std::vector<std::int32_t>{0});
  constexpr float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(draw({-infinity, -infinity, -7}, {}, 1), std::vector<std::int32_t>{2});
  std::vector<float> many(1000, 0.0F);
  many[777] = 1;
  many[900] = 1;
  EXPECT_EQ(draw(many, {}, 1), std::vector<std::int32_t>{777});
}

TEST_P(Sampling, TemperatureShapesTheDistribution) {
  expect_distribution(draw(logits, {.temperature = 1}, draws), {0.05, 0.4, 0.1, 0.25, 0.2});
  // p^(1/T): at T = 0.5 the squares.
  std::vector<double> squares = {0.0025, 0.16, 0.01, 0.0625, 0.04};
  for (double& p : squares) p /= 0.275;
  expect_distribution(draw(logits, {.temperature = 0.5}, draws), squares);
  for (const std::int32_t t : draw(logits, {.temperature = 1e-30}, 50)) EXPECT_EQ(t, 1);
  for (const std::int32_t t : draw(logits, {.temperature = 1e-300}, 50)) EXPECT_EQ(t, 1);
}

TEST_P(Sampling, TopKKeepsTheLikeliestAndTheLowerIndexOfTies) {
  expect_distribution(draw(logits, {.temperature = 1, .top_k = 2}, draws), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
  for (const std::int32_t t : draw({0, 0, 0, 0}, {.temperature = 1, .top_k = 2}, 100)) EXPECT_LE(t, 1);
  expect_distribution(draw(logits, {.temperature = 1, .top_k = 100}, draws), {0.05, 0.4, 0.1, 0.25, 0.2});
}

TEST_P(Sampling, TopPKeepsTheSmallestSetThatReachesP) {
  // 0.4 + 0.25 < 0.7 <= 0.4 + 0.25 + 0.2
  expect_distribution(draw(logits, {.temperature = 1, .top_p = 0.7}, draws),
                      {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85});
  for (const std::int32_t t : draw(logits, {.temperature = 1, .top_p = 1e-9}, 100)) EXPECT_EQ(t, 1);
  // After top-k 2, 0.4 is 0.615 of what is left.
  for (const std::int32_t t : draw(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6}, 100)) EXPECT_EQ(t, 1);
}

TEST_P(Sampling, MinPKeepsWhatIsLikelyEnoughBesideTheLargest) {
  // 0.45 * 0.4 = 0.18
  expect_distribution(draw(logits, {.temperature = 1, .min_p = 0.45}, draws),
                      {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85});
  for (const std::int32_t t : draw(logits, {.temperature = 1, .min_p = 1}, 100)) EXPECT_EQ(t, 1);
}

TEST_P(Sampling, PenaltyActsOnceOnSeenTokens) {
  // 4 / 2 = 2 < 3; seen twice, still divided once: 4 / 2 > 1.5.
  EXPECT_EQ(draw({4, 3, 0}, {.repetition_penalty = 2}, 1, {0}), std::vector<std::int32_t>{1});
  EXPECT_EQ(draw({4, 1.5, 0}, {.repetition_penalty = 2}, 1, {0, 0}), std::vector<std::int32_t>{0});
  // A negative logit moves away from 0: -1 * 2 = -2 < -1.5.
  EXPECT_EQ(draw({-1, -1.5}, {.repetition_penalty = 2}, 1, {0}), std::vector<std::int32_t>{1});
  EXPECT_EQ(draw({4, 3, 0}, {.repetition_penalty = 1}, 1, {0}), std::vector<std::int32_t>{0});
}

TEST_P(Sampling, ARowsTokenIsAFunctionOfItsKeyAndLogits) {
  constexpr std::int64_t n = 60;
  constexpr std::int64_t v = 300;
  const Field x = Field::random({n, v}, "logits", 4);
  std::vector<SampleRow> rows;
  for (std::int64_t i = 0; i < n; ++i) {
    SamplingOptions o{.temperature = i % 5 == 0 ? 0 : 0.9};
    if (i % 3 == 1) o.top_k = 40;
    if (i % 3 == 2) o.top_p = 0.8;
    const auto key = static_cast<std::uint64_t>(i);
    rows.push_back({o, {.seed = key % 4, .request = key / 2, .sample = key % 2, .position = 3}, {}});
  }
  std::vector<std::int32_t> all(n, -1);
  Field logprobs = Field::poison({n});
  sample(Context{}, x.view(), rows, host_view(all.data(), {n}), logprobs.view());
  const testing::Threads scope(1);
  const testing::Doubles xs = x.values();
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    std::int32_t token = -1;
    sample(Context{}, x.view().slice(0, i, 1), std::span(rows).subspan(at, 1), host_view(&token, {1}), {});
    EXPECT_EQ(token, all[at]);
    double sum = 0;
    for (std::int64_t j = 0; j < v; ++j) sum += std::exp(xs[static_cast<std::size_t>(i * v + j)]);
    EXPECT_NEAR(logprobs.values()[at], xs[static_cast<std::size_t>(i * v + token)] - std::log(sum), 2e-6);
  }
  // Every part of the key matters.
  const SampleKey key{1, 2, 3, 4};
  const std::set<double> distinct = {sample_uniform(key), sample_uniform({2, 2, 3, 4}), sample_uniform({1, 3, 3, 4}),
                                     sample_uniform({1, 2, 4, 4}), sample_uniform({1, 2, 3, 5})};
  EXPECT_EQ(distinct.size(), 5U);
}

TEST_P(Sampling, DrawsByTheInverseDistributionInOrderOfProbability) {
  constexpr std::size_t v = 1000;
  std::vector<float> x(v);
  for (std::size_t i = 0; i < v; ++i) x[i] = static_cast<float>(2 * random_normal(1, 2, i));
  std::vector<std::int32_t> order(v);
  for (std::size_t i = 0; i < v; ++i) order[i] = static_cast<std::int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return x[static_cast<std::size_t>(a)] > x[static_cast<std::size_t>(b)];
  });
  double total = 0;
  for (const float value : x) total += std::exp(static_cast<double>(value));
  const std::vector<std::int32_t> tokens = draw(x, {.temperature = 1}, 300);
  for (std::uint64_t i = 0; i < 300; ++i) {
    const double target = sample_uniform({.seed = 5, .request = hash_name("r"), .sample = 2, .position = i}) * total;
    double sum = 0;
    std::size_t j = 0;
    while (j + 1 < v && (sum += std::exp(static_cast<double>(x[static_cast<std::size_t>(order[j])]))) <= target) ++j;
    EXPECT_EQ(tokens[i], order[j]) << i;
  }
}

TEST_P(Sampling, RefusesRowsWithoutAFiniteLogit) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& bad :
       {std::vector<float>{-infinity, -infinity}, {1, nan}, {nan, nan}, {infinity, 0}}) {
    for (const double temperature : {0.0, 1.0}) {
      try {
        draw(bad, {.temperature = temperature}, 3);
        FAIL() << "sampled from a row without a finite logit";
      } catch (const InputError& e) {
        EXPECT_NE(std::string(e.what()).find("row 0 of the logits cannot be sampled"), std::string::npos) << e.what();
      }
    }
  }
  EXPECT_THROW(draw({1, 2}, {.temperature = -1}, 1), ContractError);
  EXPECT_THROW(draw({1, 2}, {.repetition_penalty = 2}, 1, {2}), ContractError);
  EXPECT_TRUE(draw({1, 2}, {}, 0).empty());
  // Tokens that cannot occur are never drawn.
  for (const std::int32_t t : draw({-infinity, 0, -infinity, 0}, {.temperature = 1}, 100))
    EXPECT_TRUE(t == 1 || t == 3);
}

}  // namespace
}  // namespace photon
