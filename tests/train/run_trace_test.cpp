// What a run says about its ranks' time: metrics, starts, rank logs, traces.
#include "train/run_trace.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "support/error.hpp"
#include "train/step_clock.hpp"
#include "train_process.hpp"

namespace photon {
namespace {

using Json = nlohmann::json;
using testing::ProcessResult;

std::vector<Json> json_lines(const std::filesystem::path& file) {
  std::vector<Json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(StepClock, AddsUpByActivity) {
  StepClock clock(0);
  clock.begin_step(4, true);
  const auto spend = [](double seconds) {
    const std::int64_t end = monotonic_ns() + static_cast<std::int64_t>(seconds * 1e9);
    while (monotonic_ns() < end) {
    }
  };
  {
    const auto measure = clock.measure({.op = Op::forward, .microbatch = 2});
    spend(0.02);
    const auto inner = clock.measure("inner", Activity::wait);  // part of the forward
    spend(0.01);
  }
  {
    const auto measure = clock.measure({.op = Op::receive, .microbatch = 2, .peer = 1, .tensor = {}});
    spend(0.01);
  }
  {
    const auto measure = clock.measure({.op = Op::all_reduce});
    spend(0.03);
    clock.arrived();
    spend(0.005);
  }
  {
    const auto measure = clock.measure({.op = Op::evaluate});
    spend(0.05);
  }
  EXPECT_GE(clock.seconds().compute, 0.03);
  EXPECT_GE(clock.seconds().wait, 0.04);
  EXPECT_GE(clock.seconds().communication, 0.005);
  std::vector<std::string> names;
  const std::vector<TraceSpan> spans = clock.take_spans();
  for (const TraceSpan& span : spans) names.push_back(span.name + " " + span.category);
  EXPECT_EQ(names, (std::vector<std::string>{"training step 4 step", "forward 2 compute", "inner wait",
                                             "receive 2 from rank 1 wait", "all_reduce communication",
                                             "wait for ranks wait", "evaluate other"}));
  const auto seconds = [&](std::size_t i) { return static_cast<double>(spans[i].end_ns - spans[i].begin_ns) * 1e-9; };
  EXPECT_NEAR(clock.seconds().compute, seconds(1), 1e-12);
  EXPECT_NEAR(clock.seconds().wait, seconds(3) + seconds(5), 1e-12);
  EXPECT_NEAR(clock.seconds().communication, seconds(4) - seconds(5), 1e-12);
  clock.begin_step(5, false);
  EXPECT_EQ(clock.seconds().compute, 0);
  { const auto measure = clock.measure({.op = Op::step}); }
  EXPECT_TRUE(clock.take_spans().empty());
}

TEST(StepClock, NamesTheSlowestRank) {
  EXPECT_EQ(slowest_rank({{1, 9, 0}, {3, 0, 0}, {2, 0, 5}}), 1);
}

TEST(StepRange, IsReadOrRefused) {
  EXPECT_EQ(parse_step_range("3:5").first, 3);
  EXPECT_EQ(parse_step_range("3:5").last, 5);
  EXPECT_EQ(parse_step_range("7").first, 7);
  EXPECT_EQ(parse_step_range("7").last, 7);
  for (const char* wrong : {"", ":", "0:2", "5:3", "a:b", "1:2:3", "2:", ":2", "1.5", "-1:2"}) {
    EXPECT_THROW(parse_step_range(wrong), InputError) << wrong;
  }
}

class RanksOfARun : public testing::TrainProcess {
 protected:
  const std::vector<std::string> layout_{"parallel.stages=2", "parallel.shards=3", "parallel.cut=decoder2",
                                         "parallel.microbatch_size=2"};
  ProcessResult traced(int ranks, const std::vector<std::string>& changes, const std::vector<std::string>& more) const {
    std::vector<std::string> words = ranks > 1 ? mpi_command(ranks, "run", changes) : command("run", changes);
    words.insert(words.end(), more.begin(), more.end());
    return testing::Process(words, mpi_environment()).wait();
  }
};

TEST_F(RanksOfARun, AreInTheMetrics) {
  const std::int64_t begin = monotonic_ns();
  const ProcessResult result = mpi_train(4, "run", layout_);
  const double took = static_cast<double>(monotonic_ns() - begin) * 1e-9;
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  std::vector<double> measured(4);
  const auto lines = json_lines(data_ / "run" / "metrics.jsonl");
  ASSERT_EQ(lines.size(), 6U);
  for (const Json& line : lines) {
    const auto compute = line["ranks"]["compute"].get<std::vector<double>>();
    const auto wait = line["ranks"]["wait"].get<std::vector<double>>();
    const auto communication = line["ranks"]["communication"].get<std::vector<double>>();
    ASSERT_EQ(compute.size(), 4U);
    ASSERT_EQ(wait.size(), 4U);
    ASSERT_EQ(communication.size(), 4U);
    // Equal when rounded, several may be the slowest.
    const auto slowest = line["slowest_rank"].get<std::size_t>();
    ASSERT_LT(slowest, 4U);
    EXPECT_EQ(compute[slowest], *std::max_element(compute.begin(), compute.end()));
    for (std::size_t rank = 0; rank < 4; ++rank) {
      EXPECT_GT(compute[rank], 0);
      EXPECT_GE(wait[rank], 0);  // the slowest may find everything ready
      EXPECT_GE(communication[rank], 0);
      measured[rank] += compute[rank] + wait[rank] + communication[rank];
    }
  }
  for (const double seconds : measured) EXPECT_LE(seconds, took);  // nothing is counted twice
  const auto starts = json_lines(data_ / "run" / "logs" / "starts.jsonl");
  ASSERT_EQ(starts.size(), 1U);
  EXPECT_EQ(starts[0]["step"], 0);
  EXPECT_EQ(starts[0]["steps"], 6);
  EXPECT_EQ(starts[0]["ranks"], 4);
  EXPECT_EQ(starts[0]["hosts"].size(), 4U);
  EXPECT_EQ(starts[0]["layout"]["stages"], Json::parse(R"([{"modules": ["encoder1", "encoder2"], "shards": 1},
                            {"modules": ["decoder2", "decoder1"], "shards": 3}])"));
  EXPECT_EQ(starts[0]["layout"]["microbatch_size"], 2);
  EXPECT_EQ(starts[0]["layout"]["microbatches"], 3);
  for (int rank = 0; rank < 4; ++rank) {
    const std::string log = testing::read_bytes(data_ / "run" / "logs" / ("rank-" + std::to_string(rank) + ".log"));
    EXPECT_NE(log.find("parameters; a step is 6 sequences"), std::string::npos) << rank << ": " << log;
  }
  // Only the first rank spoke on the terminal.
  const std::size_t first = result.errors.find("parameters; a step is");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(result.errors.find("parameters; a step is", first + 1), std::string::npos) << result.errors;
}

TEST_F(RanksOfARun, OneRankHasNobodyToWaitForAndEveryStartIsRecorded) {
  ASSERT_EQ(train("run", {"train.steps=4"}).exit_code, 0);
  std::filesystem::remove_all(data_ / "run" / "checkpoints" / "step-4");
  ASSERT_EQ(train("run").exit_code, 0);
  for (const Json& line : json_lines(data_ / "run" / "metrics.jsonl")) EXPECT_FALSE(line.contains("ranks"));
  const auto starts = json_lines(data_ / "run" / "logs" / "starts.jsonl");
  ASSERT_EQ(starts.size(), 2U);
  EXPECT_EQ(starts[0]["step"], 0);
  EXPECT_EQ(starts[0]["discarded_steps"], 0);
  EXPECT_EQ(starts[1]["step"], 2);
  EXPECT_EQ(starts[1]["discarded_steps"], 2);
  EXPECT_EQ(starts[1]["steps"], 6);
  ASSERT_EQ(train("run").exit_code, 0);  // finished: not a start
  EXPECT_EQ(json_lines(data_ / "run" / "logs" / "starts.jsonl").size(), 2U);
}

TEST_F(RanksOfARun, AreTracedOnOneClock) {
  const std::string file = (data_ / "out" / "trace.json").string();
  const ProcessResult result = traced(4, layout_, {"--trace", file, "--trace-steps", "2:3"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.errors.find("the trace of steps 2 to 3 is in"), std::string::npos) << result.errors;
  const Json trace = Json::parse(testing::read_bytes(file));
  const Json& other = trace["otherData"];
  EXPECT_EQ(other["kind"], "measured");
  ASSERT_EQ(other["ranks"].size(), 4U);
  EXPECT_EQ(other["ranks"][2]["label"], "decoder2 decoder1, shard 2 of 3");
  const double uncertainty = other["clock_uncertainty_us"];
  EXPECT_GT(uncertainty, 0);
  // These ranks share one clock: what was measured must be right within what is claimed.
  for (const Json& rank : other["ranks"]) {
    EXPECT_LE(std::abs(rank["clock_offset_us"].get<double>()), uncertainty) << rank;
  }

  std::map<std::int64_t, std::vector<Json>> tracks;
  std::map<std::int64_t, Json> sent, received;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] == "X") tracks[event["tid"]].push_back(event);
    if (event["ph"] != "s" && event["ph"] != "f") continue;
    auto& ends = event["ph"] == "s" ? sent : received;
    EXPECT_TRUE(ends.emplace(event["id"], event).second) << event;
  }
  ASSERT_EQ(tracks.size(), 4U);
  // Of each of 2 steps: 3 microbatches, with X(1) and c(2) to 3 shards and back, as far as they share groups.
  EXPECT_EQ(sent.size(), 2U * 3 * 3 * 2 * 2);
  EXPECT_EQ(received.size(), sent.size());
  for (const auto& [id, arrival] : received) {
    ASSERT_TRUE(sent.contains(id));
    EXPECT_NE(arrival["tid"], sent[id]["tid"]);
    // What is received was sent before, within the uncertainty of both clocks.
    EXPECT_GE(arrival["ts"].get<double>() + 2 * uncertainty, sent[id]["ts"].get<double>());
  }
  for (const auto& [rank, spans] : tracks) {
    std::multiset<std::string> names;
    std::vector<std::pair<double, double>> open;
    double before = 0;
    for (const Json& span : spans) {
      names.insert(span["name"].get<std::string>());
      const double begin = span["ts"];
      const double end = begin + span["dur"].get<double>();
      EXPECT_GE(begin, before);
      before = begin;
      while (!open.empty() && open.back().second <= begin + 1e-3) open.pop_back();
      if (!open.empty()) {
        EXPECT_LE(end, open.back().second + 1e-3) << span << " of rank " << rank << " crosses another";
      }
      open.emplace_back(begin, end);
    }
    for (const char* name : {"forward 0", "forward 2", "backward 1", "all_reduce", "clip_norm", "step", "load"}) {
      EXPECT_EQ(names.count(name), 2U) << name << " of rank " << rank;
    }
    EXPECT_EQ(names.count("training step 2"), 1U);
    EXPECT_EQ(names.count("training step 3"), 1U);
    EXPECT_EQ(names.count("training step 4"), 0U);
    EXPECT_EQ(names.count(rank == 0 ? "receive dX(1) 1 from rank 3" : "receive X(1) 1 from rank 0"), 2U);
    EXPECT_EQ(names.count("evaluate"), 1U);  // after step 3
    EXPECT_EQ(names.count("save"), 1U);      // after step 2
  }
  EXPECT_EQ(parse_trace(testing::read_bytes(file), file).tracks.size(), 4U);
}

TEST_F(RanksOfARun, ATraceIsWrittenWhereTrainingEndsEarlyAndNeverStopsIt) {
  const std::string file = (data_ / "trace.json").string();
  const ProcessResult early = traced(1, {"train.steps=2"}, {"--trace", file});
  ASSERT_EQ(early.exit_code, 0) << early.errors;
  EXPECT_EQ(parse_trace(testing::read_bytes(file), file).last_step, 2);
  const ProcessResult none = traced(1, {"train.steps=4"}, {"--trace", file, "--trace-steps=9:9"});
  EXPECT_EQ(none.exit_code, 0) << none.errors;
  EXPECT_NE(none.errors.find("no trace is written (training ended before step 9)"), std::string::npos) << none.errors;
  testing::write_bytes(data_ / "plain", "a file");
  const ProcessResult lost = traced(1, {}, {"--trace", (data_ / "plain" / "trace.json").string()});
  EXPECT_EQ(lost.exit_code, 0) << lost.errors;
  EXPECT_NE(lost.errors.find("the trace is lost: "), std::string::npos) << lost.errors;
  EXPECT_EQ(num_steps("run"), 6U);
  const ProcessResult wrong = traced(1, {}, {"--trace", file, "--trace-steps", "4:2"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.errors.find("'4:2' names no steps"), std::string::npos) << wrong.errors;
}

}  // namespace
}  // namespace photon
