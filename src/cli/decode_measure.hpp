// Decoding speed of one case: what photon bench decode and its table measure.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "decode/engine.hpp"
#include "decode/open_model.hpp"
#include "decode/place.hpp"

namespace photon::cli {

// All rows at once, greedy and to their full length.
struct DecodeCase {
  std::string mode = "hiergen";
  std::int64_t batch = 64;
  std::int64_t prompt = 128;
  std::int64_t new_tokens = 128;
  std::int64_t reserve_tokens = 0;  // caches are made for at least so many tokens a row
};

struct DecodeRun {
  std::int64_t look_ahead = 0;
  bool graphs = true;
  std::int64_t ranks_per_host = 1;      // that share its memory
  std::function<void()> before_timing;  // may be empty: waits for other ranks
};

struct DecodeMeasured {
  double seconds = 0;  // of everything
  double decode_seconds = 0;
  double prefill_seconds = 0;
  std::int64_t cache_bytes = 0;
};

// "hiergen:256:128:256": mode, batch, prompt, new tokens. Errors: InputError.
DecodeCase parse_decode_case(const std::string& text);

// The most rows of a case whose caches fit.
std::int64_t most_decode_rows(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& c);

// The last of several runs on the same caches: the ones before choose algorithms and record steps. Errors: Error when
// the rows' caches do not fit.
DecodeMeasured measure_decode(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& c, const DecodeRun& how);

// photon bench decode --table: throughput for a GiB of cache, of a preset and of its relatives, as JSON lines.
void print_decode_table(const std::string& preset_name, const Place& place);

}  // namespace photon::cli
