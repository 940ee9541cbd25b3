#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "program.hpp"

namespace photon {
namespace {

using nlohmann::json;
using photon::testing::Outcome;

class BenchComm : public photon::testing::ProgramTest {
 protected:
  static std::vector<json> lines(const std::string& text) {
    std::vector<json> parsed;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) parsed.push_back(json::parse(line));
    return parsed;
  }
};

TEST_F(BenchComm, SaysThatNothingTravelsOnOneRank) {
  const Outcome outcome = photon("bench comm --memory host --max-mib 1 --factor 1024");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("one rank: nothing travels"), std::string::npos) << outcome.err;
  std::set<std::string> operations;
  for (const json& line : lines(outcome.out)) {
    operations.insert(line["operation"]);
    EXPECT_EQ(line["bus_gigabytes_per_second"], 0);
    EXPECT_EQ(line["ranks"], 1);
  }
  EXPECT_EQ(operations, (std::set<std::string>{"all_reduce", "reduce_scatter", "all_gather", "all_to_all"}));
}

TEST_F(BenchComm, MeasuresEveryOperationBetweenRanks) {
  const std::string mpirun =
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe "
      "-np 3 ";
  const Outcome outcome = program(mpirun + PHOTON_BINARY + " bench comm --memory host --max-mib 1 --factor 1024");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<json> figures = lines(outcome.out);
  ASSERT_EQ(figures.size(), 14U) << outcome.out;  // seven operations of 1 KiB and 1 MiB
  for (const json& line : figures) {
    EXPECT_EQ(line["ranks"], 3);
    EXPECT_EQ(line["bytes"].get<std::int64_t>() % 12, 0) << line;  // whole parts of f32 for three ranks
    const double algorithm = line["algorithm_gigabytes_per_second"];
    EXPECT_GT(algorithm, 0);
    EXPECT_NEAR(algorithm * line["seconds"].get<double>() * 1e9, line["bytes"].get<double>(), 1) << line;
    const std::string operation = line["operation"];
    const bool whole = operation == "broadcast" || operation == "send_receive" || operation == "chain";
    const double factor = operation == "all_reduce" ? 4.0 / 3 : whole ? 1 : 2.0 / 3;
    EXPECT_NEAR(line["bus_gigabytes_per_second"].get<double>() / algorithm, factor, 1e-9) << line;
  }
}

TEST_F(BenchComm, RefusesUnknownOperations) {
  const Outcome outcome = photon("bench comm --memory host --operations all_reduce,gossip");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("unknown operation gossip"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace photon
