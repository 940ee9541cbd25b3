#include <nlohmann/json.hpp>
#include <string>

#include "program.hpp"

namespace photon {
namespace {

using testing::Outcome;

class BenchCluster : public testing::ProgramTest {};

// What is measured is a cluster file that plans the very run.
TEST_F(BenchCluster, PrintsAFileThatPlanReads) {
  write("run.yaml",
        "model: {vocab_size: 259, dim: 8, tokenizer: byte, levels: [{dim: 8, chunk: 2, prefix: 1, encoder: {layers: 1, "
        "heads: 2, ffn: 16}, decoder: {layers: 1, heads: 2, ffn: 16}}]}\n"
        "data: {train: none.h5}\n"
        "train: {batch_size: 4, sequence_length: 16}\n");
  const Outcome measured = photon("bench cluster --config run.yaml --steps 2");
  ASSERT_EQ(measured.code, 0) << measured.err;
  write("here.yaml", measured.out);
  const Outcome planned = photon("plan --config run.yaml --cluster here.yaml --json");
  ASSERT_EQ(planned.code, 0) << planned.err << measured.out;
  const auto json = nlohmann::json::parse(planned.out);
  EXPECT_EQ(json["ranks"], 1);
  EXPECT_GT(json["step_seconds"].get<double>(), 0);
}

TEST_F(BenchCluster, RefusesWhatIsNotThere) {
  EXPECT_EQ(photon("bench cluster --config none.yaml").code, 2);
  EXPECT_EQ(photon("bench cluster").code, 2);
}

}  // namespace
}  // namespace photon
