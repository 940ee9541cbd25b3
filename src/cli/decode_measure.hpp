// Decoding speed of one case: what photon bench decode and its table measure.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "decode/engine.hpp"
#include "decode/open_model.hpp"
#include "decode/place.hpp"

namespace photon::cli {

// All rows at once, greedy and to their full length.
struct DecodeCase {
  std::string mode = "hiergen";
  std::int64_t batch = 64;  // 0: as many as are admitted
  std::int64_t prompt = 128;
  std::int64_t new_tokens = 128;
};

struct DecodeRun {
  std::int64_t look_ahead = 0;
  bool graphs = true;
  bool shards = false;                  // chunks are decoded by others
  std::int64_t ranks_per_host = 1;      // that share its memory
  std::function<void()> before_timing;  // may be empty: waits for other ranks
};

struct DecodeMeasured {
  std::int64_t batch = 0;
  double seconds = 0;  // of everything
  double decode_seconds = 0;
  double prefill_seconds = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t memory_bytes = 0;  // taken at the end: of a GPU all, on the host by this process
};

// "hiergen:256:128:256": mode, batch, prompt, new tokens. Errors: InputError.
DecodeCase parse_decode_case(const std::string& text);

// The last of several runs on the same caches: the ones before choose algorithms and record steps. Errors: Error when
// the rows' caches do not fit.
DecodeMeasured measure_decode(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& c, const DecodeRun& how);

// Answers of `new_tokens` after prompts of `prompt`, of which the middle is measured: the rate there is that of the
// whole answer, since what a step costs grows by the same amount with every token a row holds. Caches are made once,
// for whole answers of as many rows as are admitted.
class SteadyDecoding {
 public:
  struct Rate {
    std::int64_t rows = 0;
    double tokens_per_second = 0;
    double seconds = 0;       // measured, ...
    std::int64_t from = 0;    // ... while every row went from so many tokens, prompt included, ...
    double tokens_a_row = 0;  // ... on by so many
  };

  SteadyDecoding(const ModelConfig& config, const DecoderSource& source, const Place& place, const std::string& mode,
                 std::int64_t prompt, std::int64_t new_tokens);

  // As many as the engine admits; 0: not one.
  std::int64_t most_rows() const { return most_rows_; }
  // Of `rows`, at most most_rows(). Rows share `distinct_prompts` prompts, which end where the measured part begins,
  // but for four groups before it in which algorithms are chosen and steps recorded. Errors: Error when the caches do
  // not fit.
  Rate measure(std::int64_t rows);

  static constexpr std::int64_t distinct_prompts = 256;

 private:
  std::int64_t vocabulary_;
  std::int64_t group_;
  std::int64_t tokens_;  // of a whole row
  std::int64_t span_;    // measured
  std::int64_t start_;   // tokens of a prompt
  std::int64_t most_rows_;
  std::unique_ptr<Engine> engine_;
};

// photon bench decode --table: throughput for a GiB of cache, of a preset and of its relatives, as JSON lines.
void print_decode_table(const std::string& preset_name, const Place& place);

}  // namespace photon::cli
