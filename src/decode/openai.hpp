// Rows in the form of OpenAI's batches, and results in the same: what the service takes and gives for completions, as
// far as photon does it (docs/decoding.md). Includes nlohmann/json: for .cpp files of this room only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "decode/output.hpp"
#include "decode/request.hpp"

namespace photon {

// What a result says beside its texts.
struct OpenAiRow {
  std::string model;
  bool echo = false;
  bool logprobs = false;
  std::int64_t top_logprobs = 0;     // likeliest tokens beside each, of those that the job keeps
  std::vector<std::string> prompts;  // their texts, to echo them
  std::int64_t num_prompts = 1;
  std::int64_t num_prompt_tokens = 0;
  const Tokenizer* tokenizer = nullptr;  // null: tokens have no text
};

namespace openai {

// Whether a row of the prompts file is meant in this form.
bool is_row(const nlohmann::json& row);

// Takes what the row asks for into `request`, whose options hold the defaults. Throws rows::BadRow, InputError.
void read(const nlohmann::json& row, const Tokenizer* tokenizer, const RequestLimits& limits, Request& request);

std::string result_line(const Result& result);
std::string error_line(const RowError& error);
// What a record of a result file tells; nothing when it is none in this form.
std::optional<EarlierResult> read_record(const nlohmann::ordered_json& record);

}  // namespace openai
}  // namespace photon
