// The loss of a model on a data file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "decode/engine.hpp"
#include "decode/open_model.hpp"
#include "model/model.hpp"

namespace photon {

struct EvalOptions {
  std::int64_t sequence_length = 2048;  // tokens; the last sequence of a file may be shorter
  GenerationMode mode = GenerationMode::hiergen;
  std::int64_t prompt_tokens = 0;  // of every sequence: read, but not counted. RecGen: the prompt it starts from
  std::int64_t batch_size = 0;     // sequences; 0 = as many as make about 8192 tokens
};

struct EvalResult {
  double ce = 0;                // mean of -log p over the counted tokens, nats
  std::vector<double> rec;      // mean distance at level l = 1 .. L-1; empty in RecGen
  std::int64_t num_tokens = 0;  // counted
  std::int64_t num_sequences = 0;
  std::uint64_t num_bytes = 0;  // of the file's text
  double tokens_per_byte = 0;   // of the file
  double seconds = 0;

  double perplexity() const;
  double bits_per_byte() const;  // ce / ln 2 * tokens / bytes
};

// Every consecutive slice of the file's stream, the remainder as a shorter one; tokens that the file masks, or that
// stand in a sequence's first prompt_tokens, are not counted. `poll` is called before every batch and may throw.
// Errors: InputError when the file does not fit the model, or no token is counted.
EvalResult evaluate_dataset(Model& model, const Context& ctx, const TokenFile& file, const EvalOptions& options,
                            const std::function<void()>& poll);

// {"loss", "perplexity", "bits_per_byte", "ce", "rec", "num_tokens", ...}: one line of JSON.
std::string to_json(const EvalResult& result, const EvalOptions& options);

// InputError when the file was made with another tokenizer than the model's; the names are for the message.
void check_tokenizer(const TokenFile& file, const std::string& file_name, const OpenModel& model,
                     const std::string& model_name);

// The sequence length that the run around `model` (a run folder, its model/ or one of its checkpoints) was trained
// with, else 2048; never more than max_length (0 = no limit).
std::int64_t default_sequence_length(const std::filesystem::path& model, std::int64_t max_length);

}  // namespace photon
