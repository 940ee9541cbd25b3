#include "train/metrics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "storage/publish.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {

using Json = nlohmann::json;

StepRecord record_of(std::int64_t step) {
  StepRecord record;
  record.step = step;
  record.ce = 1.0 / 3.0 + static_cast<double>(step);
  record.rec = 0.1;
  record.rec_levels = {0.1};
  record.loss = record.ce + 0.3 * record.rec;
  record.lr = 3e-4 / 7;
  record.tokens = 64 * step;
  return record;
}

std::vector<Json> lines_of(const std::filesystem::path& file) {
  std::vector<Json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(Metrics, KeepsEveryBit) {
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  MetricsFile metrics(file, 0);
  metrics.append(record_of(1));
  const Json line = lines_of(file).at(0);  // readable while the run goes on
  EXPECT_EQ(line["step"], 1);
  EXPECT_EQ(line["ce"].get<double>(), record_of(1).ce);
  EXPECT_EQ(line["loss"].get<double>(), record_of(1).loss);
  EXPECT_EQ(line["lr"].get<double>(), record_of(1).lr);
  EXPECT_EQ(line["tokens"], 64);
  EXPECT_EQ(line["perplexity"].get<double>(), std::exp(record_of(1).ce));
  EXPECT_FALSE(line.contains("val_loss"));
  EXPECT_FALSE(line.contains("mfu"));
  StepRecord with_peak = record_of(2);
  with_peak.mfu = 1.0 / 3.0;
  EXPECT_EQ(Json::parse(to_json_line(with_peak))["mfu"].get<double>(), 1.0 / 3.0);
}

TEST(Metrics, WritesNonFiniteNumbersAsNull) {
  StepRecord record = record_of(1);
  record.loss = std::numeric_limits<double>::quiet_NaN();
  record.grad_norm = std::numeric_limits<double>::infinity();
  record.skipped = true;
  const Json line = Json::parse(to_json_line(record));
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["grad_norm"].is_null());
  EXPECT_TRUE(line["skipped"].get<bool>());
}

TEST(Metrics, AreCutBackToTheRestoredStep) {
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  {
    MetricsFile metrics(file, 0);
    for (std::int64_t step = 1; step <= 5; ++step) metrics.append(record_of(step));
  }
  const std::string whole = read_text_file(file);
  std::ofstream(file, std::ios::app) << "{\"step\": 6, \"lo";  // torn by a kill
  {
    MetricsFile metrics(file, 3);
    metrics.append(record_of(4));
    metrics.append(record_of(5));
  }
  EXPECT_EQ(read_text_file(file), whole);
  MetricsFile metrics(file, 0);
  EXPECT_EQ(read_text_file(file), "");
}

TEST(Metrics, CompleteTheLastStepWithItsEvaluation) {
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  const ValidationResult validation{
      .loss = 2.5, .ce = 2.25, .rec = 0.5, .bits_per_byte = 3, .num_tokens = 10, .seconds = 1};
  {
    MetricsFile metrics(file, 0);
    EXPECT_FALSE(metrics.lacks_validation(0));
    metrics.append(record_of(1));
    metrics.append(record_of(2));
  }
  {
    MetricsFile metrics(file, 2);
    EXPECT_TRUE(metrics.lacks_validation(2));
    metrics.complete_last(validation);
    EXPECT_FALSE(metrics.lacks_validation(2));
    metrics.append(record_of(3));
  }
  const std::vector<Json> lines = lines_of(file);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[1]["val_loss"], 2.5);
  EXPECT_EQ(lines[1]["val_ce"], 2.25);
  EXPECT_EQ(lines[1]["val_bits_per_byte"], 3.0);
  EXPECT_EQ(lines[1]["ce"].get<double>(), record_of(2).ce);
  EXPECT_FALSE(lines[2].contains("val_loss"));
  EXPECT_FALSE(MetricsFile(file, 2).lacks_validation(2));
}

// The line with an evaluation made in time is the line completed later.
TEST(Metrics, LateAndTimelyEvaluationsGiveTheSameLine) {
  const testing::TemporaryFolder folder;
  const ValidationResult validation{
      .loss = 2.5, .ce = 1.0 / 3, .rec = 0.5, .bits_per_byte = 3, .num_tokens = 10, .seconds = 1};
  StepRecord record = record_of(1);
  MetricsFile late(folder.path() / "late.jsonl", 0);
  late.append(record);
  late.complete_last(validation);
  record.validation = validation;
  MetricsFile timely(folder.path() / "timely.jsonl", 0);
  timely.append(record);
  EXPECT_EQ(read_text_file(folder.path() / "late.jsonl"), read_text_file(folder.path() / "timely.jsonl"));
}

}  // namespace
}  // namespace photon
