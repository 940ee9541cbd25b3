#include "eval/drift_rows.hpp"

#include <algorithm>
#include <istream>
#include <map>
#include <memory>

#include "decode/engine.hpp"
#include "storage/byte_stream.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

class Collect : public ResultSink {
 public:
  void result(const Result& result) override { samples[result.id] = result.samples; }
  void error(const RowError& error) override {
    throw InputError(fmt::format("line {} of the prompts gives no text", error.line), error.message,
                     "correct the row or take it out");
  }

  std::map<std::string, std::vector<Completion>> samples;
};

}  // namespace

std::vector<DriftRow> drift_rows(const TokenFile& file, const ModelConfig& config, std::int64_t length,
                                 std::int64_t prompt, std::int64_t count) {
  file.check_vocabulary(config.vocab_size);
  if (length < 1 || prompt < 0 || prompt >= length) {
    throw InputError(fmt::format("a prompt of {} tokens in windows of {}", prompt, length), "no token would follow it",
                     "choose a longer --sequence-length, or fewer --prompt-tokens");
  }
  if (config.max_length > 0 && length > config.max_length) {
    throw InputError(fmt::format("the windows have {} tokens", length),
                     fmt::format("the model's max_length is {}", config.max_length), "choose shorter ones");
  }
  const std::int64_t whole = static_cast<std::int64_t>(file.num_tokens()) / length;
  if (whole == 0) {
    throw InputError(fmt::format("{} holds no window of {} tokens", file.path().string(), length),
                     fmt::format("it has {} tokens", file.num_tokens()), "choose a shorter --sequence-length");
  }
  const std::int64_t taken = count > 0 ? std::min(count, whole) : whole;
  std::vector<DriftRow> rows(static_cast<std::size_t>(taken));
  for (std::int64_t i = 0; i < taken; ++i) {
    DriftRow& row = rows[static_cast<std::size_t>(i)];
    row.tokens.resize(static_cast<std::size_t>(length));
    row.prompt = prompt;
    if (file.has_loss_mask()) row.mask.resize(row.tokens.size());
    const std::int64_t slice = i * whole / taken;
    file.read(static_cast<std::uint64_t>(slice * length), static_cast<std::uint64_t>(length), row.tokens.data(),
              row.mask.empty() ? nullptr : row.mask.data());
  }
  return rows;
}

std::vector<DriftRow> drift_rows(OpenModel& model, const Context& ctx, const DriftPrompts& prompts,
                                 const std::function<void()>& poll) {
  validate(prompts.defaults);
  const std::unique_ptr<std::istream> input = open_text(prompts.file);
  PromptReader lines(*input);
  const RequestParser parser(model.tokenizer.get(), prompts.defaults,
                             {model.config().vocab_size, model.config().max_length});
  EngineOptions options;
  options.max_batch = prompts.max_batch;
  options.memory_bytes = prompts.memory_bytes;
  Engine engine(decoder_source(*model.model, ctx), model.tokenizer.get(), model.eos(), options);
  Collect collected;
  struct Asked {
    std::string id;
    std::vector<std::vector<std::int32_t>> prompts;  // their samples follow each other
  };
  std::vector<Asked> asked;
  engine.run(
      [&]() -> std::optional<Row> {
        const std::optional<PromptLine> line = lines.next();
        if (!line) return std::nullopt;
        Row row = parser.parse(*line);
        if (std::holds_alternative<RowError>(row)) collected.error(std::get<RowError>(row));
        const Request& request = std::get<Request>(row);
        asked.push_back({request.id, {request.prompt}});
        for (const FurtherPrompt& more : request.more_prompts) asked.back().prompts.push_back(more.tokens);
        return row;
      },
      collected,
      [&](const EngineStatistics&) {
        poll();
        return true;
      });
  std::vector<DriftRow> rows;
  for (const auto& [id, texts] : asked) {
    const std::vector<Completion>& samples = collected.samples.at(id);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const Completion& sample = samples[i];
      const std::vector<std::int32_t>& prompt = texts[i / (samples.size() / texts.size())];
      DriftRow& row = rows.emplace_back();
      row.tokens = prompt;
      row.prompt = static_cast<std::int64_t>(prompt.size());
      row.tokens.insert(row.tokens.end(), sample.tokens.begin(), sample.tokens.end());
    }
  }
  return rows;
}

}  // namespace photon
