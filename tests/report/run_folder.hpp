// A run folder as training leaves it, written by hand: four ranks, a restart, skipped steps, a trace, hostile names.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "testing/temporary.hpp"
#include "testing/tiny_model.hpp"
#include "trace/trace.hpp"

namespace photon::testing {

inline constexpr const char* hostile = "</script><script>alert(1)</script><!-- \"'& \\u003c";

class RunFolderFixture {
 public:
  explicit RunFolderFixture(const std::string& name = "run") : run_(folder_.path() / name) {
    std::filesystem::create_directories(run_ / "logs");
    for (const char* step : {"step-8", "step-4"}) {
      std::filesystem::create_directories(run_ / "checkpoints" / step);
      write_bytes(run_ / "checkpoints" / step / "rank-00000.h5", std::string(1000, 'x'));
    }
    write_bytes(run_ / "checkpoints" / "step-8" / "manifest.json", "{}");
    write_bytes(run_ / "config.yaml", yaml());
    write_bytes(run_ / "metrics.jsonl", metrics());
    write_bytes(run_ / "logs" / "starts.jsonl", starts());
    write_bytes(run_ / "trace.json", trace_json(trace()));
  }

  const std::filesystem::path& path() const { return run_; }
  std::filesystem::path beside(const std::string& name) const { return folder_.path() / name; }

  static std::string yaml() {
    return std::string("# ") + hostile + "\n" + tiny_model_yaml +
           "data: {train: none.h5}\n"
           "train: {steps: 10, batch_size: 6, sequence_length: 16}\n"
           "parallel: {stages: 2, shards: 3, cut: decoder2, microbatch_size: 2}\n";
  }

  // Steps 1 to 9, an evaluation after each third; step 5 is skipped; the last line is torn.
  static std::string metrics() {
    std::string text;
    for (int step = 1; step <= 9; ++step) {
      nlohmann::ordered_json line{{"step", step},
                                  {"loss", 5.0 / step},
                                  {"ce", 4.5 / step},
                                  {"rec", 0.5 / step},
                                  {"rec_levels", {0.5 / step}},
                                  {"lr", 1e-3 * step},
                                  {"grad_norm", 1.0 + step},
                                  {"tokens", 96 * step},
                                  {"tokens_per_second", 9600 + step},
                                  {"seconds", 0.01},
                                  {"skipped", step == 5},
                                  {"num_skipped", step >= 5 ? 1 : 0}};
      if (step == 5) line["loss"] = line["grad_norm"] = nullptr;
      line["ranks"] = {{"compute", {0.004, 0.005, 0.006, 0.003}},
                       {"wait", {0.003, 0.002, 0.001, 0.004}},
                       {"communication", {0.001, 0.001, 0.001, 0.001}}};
      line["slowest_rank"] = 2;
      if (step % 3 == 0) {
        line["val_loss"] = 6.0 / step;
        line["val_ce"] = 5.5 / step;
        line["val_bits_per_byte"] = 7.5 / step;
      }
      text += line.dump() + "\n";
    }
    return text + "{\"step\": 10, \"lo";
  }

  static std::string starts() {
    nlohmann::ordered_json start{{"format_version", 1},
                                 {"time", "2026-01-02T03:04:05Z"},
                                 {"step", 0},
                                 {"steps", 10},
                                 {"discarded_steps", 0},
                                 {"ranks", 4},
                                 {"hosts", {"north", "north", "south", hostile}},
                                 {"threads", 2},
                                 {"processor", "a processor"},
                                 {"cores", 8},
                                 {"memory_bytes", std::int64_t{1} << 34},
                                 {"version", "0.1.0"}};
    std::string text = start.dump() + "\n";
    start["step"] = 4;
    start["discarded_steps"] = 2;
    return text + start.dump() + "\n";
  }

  // Steps 2 and 3; the second is quicker.
  static Trace trace() {
    Trace trace;
    trace.first_step = 2;
    trace.last_step = 3;
    for (std::int64_t rank = 0; rank < 4; ++rank) {
      TraceTrack track;
      track.rank = rank;
      track.label = rank == 3 ? hostile : "decoder1";
      track.host = "north";
      track.clock_uncertainty_ns = rank * 1000;
      const std::int64_t late = rank * 100'000;
      track.spans = {{"training step 2", "step", late, 30'000'000, {}, false},
                     {"forward 0", "compute", late + 1'000'000, 9'000'000, {}, false},
                     {"training step 3", "step", 30'000'000 + late, 50'000'000, {}, false},
                     {"forward 0", "compute", 31'000'000, 39'000'000, {}, false},
                     {"all_reduce", "communication", 40'000'000, 45'000'000, {}, false},
                     {"wait for ranks", "wait", 40'000'000, 41'000'000, {}, false}};
      trace.tracks.push_back(std::move(track));
    }
    return trace;
  }

 private:
  TemporaryFolder folder_;
  std::filesystem::path run_;
};

}  // namespace photon::testing
