#include "decode/progress.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/error.hpp"

namespace photon {
namespace {

using nlohmann::json;

TEST(ProgressTest, TextForPeople) {
  const ProgressFigures figures{100, 2, 18, 15360, 64, std::int64_t{1} << 29};
  EXPECT_EQ(progress_text(figures, 1000, 30),
            "120/1000 rows, 15360 tokens, 512 tok/s, 64 in flight, 0.50 GiB of caches, 2 errors, 4:18 left");
  EXPECT_EQ(progress_text(figures, 1'000'000, 30),
            "120/1000000 rows, 15360 tokens, 512 tok/s, 64 in flight, 0.50 GiB of caches, 2 errors, 81:41:22 left");
  EXPECT_EQ(progress_text({}, -1, 0), "0 rows, 0 tokens, 0 in flight");
}

TEST(ProgressTest, JsonForPrograms) {
  const ProgressFigures figures{100, 2, 18, 15360, 64, 4096};
  EXPECT_EQ(progress_json(figures, 1000, 30),
            R"({"rows":100,"errors":2,"resumed":18,"total":1000,"tokens":15360,"tokens_per_second":512.0,)"
            R"("eta_seconds":258.824,"active":64,"cache_bytes":4096,"elapsed":30.0})");
  const json unknown = json::parse(progress_json(figures, -1, 30));
  EXPECT_TRUE(unknown["total"].is_null());
  EXPECT_TRUE(unknown["eta_seconds"].is_null());
  const json first = json::parse(progress_json({0, 0, 50, 0, 4, 1}, 100, 0));
  EXPECT_TRUE(first["tokens_per_second"].is_null());
  EXPECT_TRUE(first["eta_seconds"].is_null());  // resumed rows say nothing about the pace
  EXPECT_EQ(json::parse(progress_json({0, 0, 100, 0, 0, 1}, 100, 1))["eta_seconds"], 0);
}

TEST(ProgressTest, RefusesNoIntervalAndNoFile) {
  EXPECT_THROW(DecodeProgress({{}, 0}, 10), InputError);
  EXPECT_THROW(DecodeProgress({"/nowhere/at/all/progress.jsonl", 1}, 10), InputError);
}

}  // namespace
}  // namespace photon
