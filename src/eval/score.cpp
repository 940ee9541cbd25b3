#include "eval/score.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <istream>
#include <memory>
#include <numeric>
#include <optional>

#include "decode/output.hpp"
#include "decode/row_fields.hpp"
#include "kernels/linear.hpp"
#include "model/compute.hpp"
#include "storage/byte_stream.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

// Rows that are read, sorted by length and scored together.
constexpr std::size_t window_rows = 2048;

struct ScoreRow {
  std::string id;                    // as JSON
  std::int64_t index = 0;            // among the rows, from 0
  std::vector<std::int32_t> tokens;  // context and continuation
  std::int64_t num_context = 0;
  std::optional<RowError> error;
  // Results: one for each token of the continuation.
  std::vector<float> logprobs;
  bool is_greedy = true;

  std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()); }
};

void read_tokens(const std::string& text, std::int64_t line, const OpenModel& model, ScoreRow& row) {
  static const std::vector<std::string> keys{"id", "context", "continuation", "context_tokens", "continuation_tokens"};
  const rows::Json json = rows::parse(text, line, row.id);
  rows::expect_keys(json, keys);
  const bool as_text = json.contains("context") && json.contains("continuation");
  const bool as_tokens = json.contains("context_tokens") && json.contains("continuation_tokens");
  if (as_text == as_tokens || json.size() > (json.contains("id") ? 3U : 2U)) {
    rows::bad("the row is no pair of context and continuation", "both must be given, in one form",
              "give \"context\" and \"continuation\", or \"context_tokens\" and \"continuation_tokens\"");
  }
  if (as_text) {
    if (!model.tokenizer) rows::bad("the row gives texts", "this model has no tokenizer", "give tokens");
    const std::string context = rows::text("context", json["context"]);
    row.tokens = model.tokenizer->encode(context + rows::text("continuation", json["continuation"]));
    row.num_context = std::min(row.length(), static_cast<std::int64_t>(model.tokenizer->encode(context).size()));
  } else {
    row.tokens = rows::tokens("context_tokens", json["context_tokens"], model.config().vocab_size);
    row.num_context = row.length();
    const auto more = rows::tokens("continuation_tokens", json["continuation_tokens"], model.config().vocab_size);
    row.tokens.insert(row.tokens.end(), more.begin(), more.end());
  }
  const std::int64_t limit = model.config().max_length;
  if (limit > 0 && row.length() > limit) {
    rows::bad(fmt::format("context and continuation have {} tokens", row.length()),
              fmt::format("the model's max_length is {}", limit), "shorten the context", RowError::Kind::too_long);
  }
}

std::string score_line(const ScoreRow& row) {
  nlohmann::ordered_json record;
  record["id"] = nlohmann::ordered_json::parse(row.id);
  double sum = 0;
  for (const float logprob : row.logprobs) sum += static_cast<double>(logprob);
  record["logprob"] = sum;
  record["num_tokens"] = row.logprobs.size();
  record["token_logprobs"] = row.logprobs;
  record["is_greedy"] = row.is_greedy;
  return record.dump();
}

class Scorer {
 public:
  Scorer(OpenModel& model, const Context& ctx, GenerationMode mode, Hdf5File* logits)
      : model_(model), ctx_(ctx), mode_(mode), logits_(logits) {}

  // Rows of about one length, padded on the right: the model is causal, so padding changes nothing before it.
  void score(std::span<ScoreRow* const> rows) {
    const auto n = static_cast<std::int64_t>(rows.size());
    std::int64_t columns = 1;
    for (const ScoreRow* row : rows) columns = std::max(columns, row->length());
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(n * columns), 0);
    std::vector<std::uint8_t> mask(tokens.size(), 0);
    std::vector<std::int64_t> prompts;
    for (std::int64_t i = 0; i < n; ++i) {
      const ScoreRow& row = *rows[static_cast<std::size_t>(i)];
      std::copy(row.tokens.begin(), row.tokens.end(), tokens.begin() + i * columns);
      std::fill(mask.begin() + i * columns + row.num_context, mask.begin() + i * columns + row.length(),
                std::uint8_t{1});
      prompts.push_back(row.num_context);
    }
    const Batch batch{host_view(tokens.data(), {n, columns}), {}};
    reserve_scratch(ctx_, model_.config(), n, columns, model_.model->dtype());
    const Tensor hidden = mode_ == GenerationMode::hiergen ? model_.model->hidden(ctx_, batch)
                                                           : recgen_hidden(*model_.model, ctx_, batch, prompts);
    const ConstTensorView states = hidden.view().merge(0);  // [n * columns, D_0]
    std::vector<float> loss(tokens.size());
    std::vector<std::int32_t> argmax(tokens.size());
    const Shape flat{n * columns};
    head_losses(*model_.model, ctx_, states, host_view(tokens.data(), flat), host_view(mask.data(), flat),
                host_view(loss.data(), flat), host_view(argmax.data(), flat));
    for (std::int64_t i = 0; i < n; ++i) {
      ScoreRow& row = *rows[static_cast<std::size_t>(i)];
      const std::int64_t begin = i * columns + row.num_context;
      const std::int64_t count = row.length() - row.num_context;
      take(row, loss.data() + begin, argmax.data() + begin);
      if (logits_ != nullptr) write_logits(row, states.slice(0, begin, count));
    }
  }

 private:
  static void take(ScoreRow& row, const float* loss, const std::int32_t* argmax) {
    for (std::int64_t position = row.num_context; position < row.length(); ++position, ++loss, ++argmax) {
      if (!std::isfinite(*loss)) {
        row.error = RowError{RowError::Kind::failed, row.id, row.index, "the model's logits are not finite"};
      }
      row.logprobs.push_back(-*loss);
      row.is_greedy = row.is_greedy && *argmax == row.tokens[static_cast<std::size_t>(position)];
    }
  }

  void write_logits(const ScoreRow& row, const ConstTensorView& states) {
    const Tensor logits(Space::host, DType::f32, {states.size(0), model_.config().vocab_size}, "logits of a row");
    if (states.size(0) > 0) {
      const Tensor here = ctx_.space == Space::host ? Tensor() : Tensor(ctx_.space, DType::f32, logits.shape());
      linear_forward(ctx_, states, model_.model->head_weight(), here.view() ? here.view() : logits.view());
      if (here.view()) copy(ctx_.stream, here, logits.view());
    }
    logits_->write(fmt::format("/logits/{}", row.index), logits.view());
  }

  OpenModel& model_;
  Context ctx_;
  GenerationMode mode_;
  Hdf5File* logits_;
};

// A file that is written beside its name and takes it when it is complete.
class Unpublished {
 public:
  explicit Unpublished(std::filesystem::path path) : path_(std::move(path)) {
    if (!enabled()) return;
    std::filesystem::remove(temporary());
  }
  ~Unpublished() {
    std::error_code ignored;
    if (enabled() && !published_) std::filesystem::remove(temporary(), ignored);
  }
  Unpublished(const Unpublished&) = delete;
  Unpublished& operator=(const Unpublished&) = delete;

  bool enabled() const { return !path_.empty() && path_ != "-"; }
  std::filesystem::path temporary() const { return enabled() ? std::filesystem::path(path_.string() + ".tmp") : path_; }
  void publish() {
    if (enabled()) publish_path(temporary(), path_, "score");
    published_ = true;
  }

 private:
  std::filesystem::path path_;
  bool published_ = false;
};

}  // namespace

ScoreSummary score(OpenModel& model, const Context& ctx, const ScoreOptions& options,
                   const std::function<void()>& poll) {
  const auto start = std::chrono::steady_clock::now();
  if (options.mode == GenerationMode::recgen) require_recgen(model.config());
  const std::unique_ptr<std::istream> input = open_text(options.input);
  for (const std::filesystem::path& replaced : {options.output, options.logits}) {
    std::error_code missing;
    if (std::filesystem::equivalent(options.input, replaced, missing)) {
      throw InputError(fmt::format("{} is the input", replaced.string()), "it would be replaced", "name another file");
    }
  }
  Unpublished results(options.output);
  Unpublished logits_path(options.logits);
  LineWriter writer(results.temporary(), compression_of(options.output));
  std::optional<Hdf5File> logits;
  if (logits_path.enabled()) {
    logits = Hdf5File::create(logits_path.temporary());
    logits->set_attribute("format_version", std::int64_t{1});
  }
  Scorer scorer(model, ctx, options.mode, logits ? &*logits : nullptr);

  ScoreSummary summary;
  std::int64_t line = -1;
  std::int64_t num_rows = 0;
  std::string text;
  while (true) {
    std::vector<ScoreRow> window;
    while (window.size() < window_rows && std::getline(*input, text)) {
      ++line;
      if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
      ScoreRow row;
      row.id = std::to_string(line);
      row.index = num_rows++;
      try {
        read_tokens(text, line, model, row);
      } catch (const rows::BadRow& bad) {
        row.error = RowError{bad.kind, row.id, line, bad.message};
      }
      window.push_back(std::move(row));
    }
    if (window.empty()) break;

    std::vector<ScoreRow*> sorted;
    for (ScoreRow& row : window) {
      if (!row.error) sorted.push_back(&row);
    }
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const ScoreRow* a, const ScoreRow* b) { return a->length() > b->length(); });
    for (std::size_t begin = 0; begin < sorted.size();) {
      poll();
      const std::int64_t longest = std::max<std::int64_t>(sorted[begin]->length(), 1);
      const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(
          options.batch_tokens / longest, 1, static_cast<std::int64_t>(sorted.size() - begin)));
      scorer.score(std::span<ScoreRow* const>(sorted).subspan(begin, count));
      begin += count;
    }
    for (const ScoreRow& row : window) {
      writer.write(row.error ? error_line(*row.error) : score_line(row));
      ++(row.error ? summary.errors : summary.rows);
      summary.num_tokens += static_cast<std::int64_t>(row.logprobs.size());
    }
  }
  writer.flush();
  if (logits) logits->close();
  logits_path.publish();
  results.publish();
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return summary;
}

}  // namespace photon
