#include "eval/eval.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "config/run_config.hpp"
#include "model/compute.hpp"
#include "model/incremental.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

constexpr std::int64_t default_batch_tokens = 8192;

}  // namespace

double EvalResult::perplexity() const {
  return std::exp(ce);
}

double EvalResult::bits_per_byte() const {
  return ce / std::numbers::ln2 * tokens_per_byte;
}

EvalResult evaluate_dataset(Model& model, const Context& ctx, const TokenFile& file, const EvalOptions& options,
                            const std::function<void()>& poll) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = model.config();
  file.check_vocabulary(config.vocab_size);
  const std::int64_t length = options.sequence_length;
  if (length < 1)
    throw InputError(fmt::format("the sequence length is {}", length), "it counts tokens", "choose 1 or more");
  if (config.max_length > 0 && length > config.max_length) {
    throw InputError(fmt::format("the sequence length is {}", length),
                     fmt::format("the model's max_length is {}", config.max_length), "choose a shorter one");
  }
  if (options.prompt_tokens < 0 || options.prompt_tokens >= length) {
    throw InputError(fmt::format("prompt tokens are {}", options.prompt_tokens),
                     fmt::format("no token of a sequence of {} would be counted", length), "choose fewer");
  }
  if (options.mode == GenerationMode::recgen) require_recgen(config);
  const std::int64_t batch_size =
      options.batch_size > 0 ? options.batch_size : std::max<std::int64_t>(1, default_batch_tokens / length);

  const auto total = static_cast<std::int64_t>(file.num_tokens());
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(batch_size * length));
  std::vector<std::uint8_t> mask(tokens.size());
  LossSums sums;
  sums.rec.assign(static_cast<std::size_t>(std::max<std::int64_t>(config.num_levels() - 1, 0)), 0.0);
  sums.num_units.assign(sums.rec.size(), 0);
  EvalResult result;
  for (std::int64_t position = 0; position < total;) {
    poll();
    const std::int64_t whole = (total - position) / length;
    const std::int64_t rows = std::clamp<std::int64_t>(whole, 1, batch_size);
    const std::int64_t columns = whole > 0 ? length : total - position;
    file.read(static_cast<std::uint64_t>(position), static_cast<std::uint64_t>(rows * columns), tokens.data(),
              mask.data());
    position += rows * columns;
    result.num_sequences += rows;
    for (std::int64_t row = 0; row < rows; ++row) {
      std::fill_n(mask.begin() + row * columns, std::min(options.prompt_tokens, columns), std::uint8_t{0});
    }
    const ConstTensorView token_view = host_view(tokens.data(), {rows, columns});
    const ConstTensorView mask_view = host_view(mask.data(), {rows, columns});
    reserve_scratch(ctx, config, rows, columns, model.dtype());
    if (options.mode == GenerationMode::hiergen) {
      sums += model.evaluate(ctx, {token_view, mask_view}, {}, {}, {});
    } else {
      const std::vector<std::int64_t> prompts(static_cast<std::size_t>(rows), std::min(options.prompt_tokens, columns));
      const Tensor hidden = recgen_hidden(model, ctx, {token_view, {}}, prompts);  // [rows, columns, D_0]
      sums.ce += head_losses(model, ctx, hidden.view().merge(0), token_view.reshape({rows * columns}),
                             mask_view.reshape({rows * columns}), {}, {});
      sums.num_tokens += std::count(mask.begin(), mask.begin() + rows * columns, std::uint8_t{1});
    }
  }
  if (sums.num_tokens == 0) {
    throw InputError(fmt::format("no token of {} counts", file.path().string()),
                     "its loss_mask and the prompt tokens leave none",
                     "evaluate another file, or with fewer prompt tokens");
  }
  result.ce = sums.ce / static_cast<double>(sums.num_tokens);
  if (options.mode == GenerationMode::hiergen) {
    for (std::size_t l = 0; l < sums.rec.size(); ++l) {
      result.rec.push_back(sums.num_units[l] > 0 ? sums.rec[l] / static_cast<double>(sums.num_units[l]) : 0.0);
    }
  }
  result.num_tokens = sums.num_tokens;
  result.num_bytes = file.num_bytes();
  if (result.num_bytes > 0) result.tokens_per_byte = static_cast<double>(total) / static_cast<double>(result.num_bytes);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string to_json(const EvalResult& result, const EvalOptions& options) {
  nlohmann::ordered_json json;
  double rec = 0;
  for (const double level : result.rec) rec += level;
  json["loss"] = result.ce;
  json["perplexity"] = result.perplexity();
  json["bits_per_byte"] = result.bits_per_byte();
  json["ce"] = result.ce;
  if (options.mode == GenerationMode::hiergen) json["rec"] = rec;
  json["num_tokens"] = result.num_tokens;
  json["num_bytes"] = result.num_bytes;
  json["num_sequences"] = result.num_sequences;
  json["sequence_length"] = options.sequence_length;
  json["mode"] = options.mode == GenerationMode::hiergen ? "hiergen" : "recgen";
  json["prompt_tokens"] = options.prompt_tokens;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = static_cast<double>(result.num_tokens) / std::max(result.seconds, 1e-9);
  return json.dump();
}

void check_tokenizer(const TokenFile& file, const std::string& file_name, const OpenModel& model,
                     const std::string& model_name) {
  if (!model.tokenizer || model.tokenizer->hash() == file.tokenizer_hash()) return;
  throw InputError(fmt::format("{} was made with another tokenizer than {}", file_name, model_name),
                   fmt::format("{} and {}", file.tokenizer(), model.tokenizer->name()),
                   "prepare the text with the model's tokenizer");
}

std::int64_t default_sequence_length(const std::filesystem::path& model, std::int64_t max_length) {
  constexpr std::int64_t fallback = 2048;
  std::int64_t length = fallback;
  const std::filesystem::path folder = std::filesystem::weakly_canonical(model);
  std::vector<std::filesystem::path> runs{folder};
  if (folder.filename() == "model") runs.push_back(folder.parent_path());
  if (folder.parent_path().filename() == "checkpoints") runs.push_back(folder.parent_path().parent_path());
  for (const std::filesystem::path& run : runs) {
    const std::filesystem::path file = run / "config.yaml";
    if (!std::filesystem::exists(file)) continue;
    try {
      length = load_run_config(file.string(), {}).train.sequence_length;
      break;
    } catch (const InputError& error) {
      log_warning("the sequence length of the run is not known, {} is used: {}", fallback, error.what());
    }
  }
  return max_length > 0 ? std::min(length, max_length) : length;
}

}  // namespace photon
