// Runs of the photon program on a tiny model, on one process or several ranks.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/weights.hpp"
#include "testing/compare.hpp"
#include "testing/process.hpp"
#include "tiny_run.hpp"

namespace photon::testing {

using Variables = std::vector<std::pair<std::string, std::string>>;

class TrainProcess : public ::testing::Test {
 protected:
  void SetUp() override { write_bytes(data_ / "tiny.yaml", data_.yaml()); }

  std::vector<std::string> command(const std::string& run, const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> words{PHOTON_BINARY,         "train", "--config", (data_ / "tiny.yaml").string(), "--run",
                                   (data_ / run).string()};
    for (const std::string& change : overrides) {
      words.push_back("--set");
      words.push_back(change);
    }
    return words;
  }
  ProcessResult train(const std::string& run, const std::vector<std::string>& overrides = {},
                      Variables environment = {}) const {
    environment.emplace_back("OMP_NUM_THREADS", "1");
    return Process(command(run, overrides), environment).wait();
  }
  std::vector<std::string> mpi_command(int ranks, const std::string& run,
                                       const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> words{"mpirun", "--oversubscribe", "-np", std::to_string(ranks)};
    for (std::string& word : command(run, overrides)) words.push_back(std::move(word));
    return words;
  }
  ProcessResult mpi_train(int ranks, const std::string& run, const std::vector<std::string>& overrides = {}) const {
    return Process(mpi_command(ranks, run, overrides), mpi_environment()).wait();
  }
  static Variables mpi_environment() {
    // Open MPI's plug-ins are unloaded with memory unfreed: LeakSanitizer cannot name it, so it must not look.
    return {{"OMP_NUM_THREADS", "1"},
            {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
            {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
            {"ASAN_OPTIONS", "detect_leaks=0"}};
  }
  // Steps that a run's metrics hold by now.
  std::size_t num_steps(const std::string& run) const {
    const std::string text = read_bytes(data_ / run / "metrics.jsonl");
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  // The same training to rounding.
  void expect_close_runs(const std::string& a, const std::string& b) const {
    const auto lines_a = metrics_of(data_ / a);
    const auto lines_b = metrics_of(data_ / b);
    ASSERT_EQ(lines_a.size(), lines_b.size());
    for (std::size_t i = 0; i < lines_a.size(); ++i) {
      for (const char* key : {"loss", "ce", "rec", "val_loss", "val_bits_per_byte"}) {
        ASSERT_EQ(lines_a[i].contains(key), lines_b[i].contains(key));
        if (!lines_a[i].contains(key)) continue;
        const auto x = lines_a[i][key].get<double>();
        const auto y = lines_b[i][key].get<double>();
        EXPECT_TRUE(std::abs(x - y) <= 1e-5 * std::abs(y)) << key << " of step " << i + 1 << ": " << x << " and " << y;
      }
      EXPECT_EQ(lines_a[i]["tokens"], lines_b[i]["tokens"]);
    }
    const LoadedModel model_a = load_weights(data_ / a / "model");
    const LoadedModel model_b = load_weights(data_ / b / "model");
    for (const ParameterSpec& spec : model_a.parameters.specs()) {
      SCOPED_TRACE(spec.name);
      EXPECT_CLOSE(model_a.parameters.view(spec.name).host<float>(), model_b.parameters.view(spec.name).host<float>(),
                   spec.numel(), 1e-5);
    }
  }

  TinyData data_;
};

}  // namespace photon::testing
