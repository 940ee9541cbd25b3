// Texts to measure drift on: windows of a data file, or prompts with HierGen's own continuations.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "data/dataset.hpp"
#include "decode/open_model.hpp"
#include "decode/request.hpp"
#include "eval/drift.hpp"

namespace photon {

// `count` windows of `length` tokens, the first `prompt` of them the prompt: of the file's consecutive slices, evenly
// over the file; all where count is 0 or there are no more. Errors: InputError when the file does not fit the model or
// holds no whole window, or no token follows the prompt.
std::vector<DriftRow> drift_rows(const TokenFile& file, const ModelConfig& config, std::int64_t length,
                                 std::int64_t prompt, std::int64_t count);

struct DriftPrompts {
  std::filesystem::path file;                         // JSON lines as `photon generate` takes them; "-": stdin
  GenerationOptions defaults;                         // rows may set their own
  std::int64_t max_batch = 64;                        // sequences decoded at once
  std::int64_t memory_bytes = std::int64_t{1} << 30;  // for their caches
};

// Each prompt (each of its n samples) with what HierGen makes of it, in the order of the file. Errors: InputError for
// the first row that cannot be decoded: a measure of the others would be one of something else than was asked.
std::vector<DriftRow> drift_rows(OpenModel& model, const Context& ctx, const DriftPrompts& prompts,
                                 const std::function<void()>& poll);

}  // namespace photon
