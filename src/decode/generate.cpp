#include "decode/generate.hpp"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>

#include "decode/output.hpp"
#include "decode/progress.hpp"
#include "decode/prompt_feed.hpp"
#include "storage/byte_stream.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {

// Lines of a regular file that hold something and are the shard's: the true denominator of the progress, and a file
// that is damaged is found before anything is written. -1 where it cannot be known beforehand.
std::int64_t count_rows(const std::filesystem::path& path, const Shard& shard) {
  std::error_code ignored;
  if (path == "-" || !std::filesystem::is_regular_file(path, ignored)) return -1;
  const std::unique_ptr<std::istream> input = open_text(path);
  std::vector<char> block(std::size_t{1} << 18);
  std::int64_t rows = 0;
  std::int64_t line = 0;
  bool empty = true;
  const auto count = [&] { rows += !empty && shard.has(line) ? 1 : 0; };
  while (input->read(block.data(), static_cast<std::streamsize>(block.size())) || input->gcount() > 0) {
    for (std::streamsize i = 0; i < input->gcount(); ++i) {
      const char c = block[static_cast<std::size_t>(i)];
      if (c == '\n') {
        count();
        empty = true;
        ++line;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        empty = false;
      }
    }
  }
  count();
  return rows;
}

namespace {

class PromptRows : public RowSource {
 public:
  std::optional<Row> next() override { return next_row(); }
  bool ended() const override { return at_end(); }

  std::function<std::optional<Row>()> next_row;
  std::function<bool()> at_end;
};

constexpr double idle_seconds = 0.01;  // between two looks at signals while a pipe is silent

}  // namespace

std::int64_t default_cache_memory() {
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::int64_t kibibytes = 0;
  std::string unit;
  while (info >> key >> kibibytes) {
    std::getline(info, unit);
    if (key == "MemAvailable:") return kibibytes * 1024 / 2;
  }
  return static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 4;
}

void throw_too_many_errors(const GenerateOptions& options, std::int64_t num_errors) {
  throw Error(fmt::format("{} rows have failed", num_errors),
              fmt::format("--max-errors {} stops the job; what is done is written", options.max_errors),
              "correct the rows and start again with --retry-errors, or raise --max-errors");
}

GenerateSummary generate(OpenModel& model, const Context& ctx, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested) {
  return generate(model, decoder_source(*model.model, ctx), options, stop_requested);
}

GenerateSummary generate(const OpenModel& model, const DecoderSource& source, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested) {
  const auto begin = std::chrono::steady_clock::now();
  validate(options.defaults);
  if (options.engine.mode == GenerationMode::recgen) require_recgen(model.config());
  PromptFeed prompts(options.prompts, options.input_format, options.shard);
  const std::int64_t total = count_rows(options.prompts, options.shard);
  DecodeProgress progress(options.progress, total);
  ResultFile output(options.output, options.retry_errors, options.compression);
  const RequestParser parser(model.tokenizer.get(), options.defaults,
                             {model.config().vocab_size, model.config().max_length, options.input_format,
                              options.engine.logprobs, options.engine.top_logprobs, options.model_name});
  GenerateSummary summary;
  const auto too_many_errors = [&] { return options.max_errors >= 0 && output.num_errors() > options.max_errors; };
  PromptRows rows;
  rows.at_end = [&] { return prompts.ended(); };
  rows.next_row = [&]() -> std::optional<Row> {
    while (!too_many_errors()) {
      const std::optional<PromptLine> line = prompts.next();
      if (!line) break;
      if (!output.has(line->key)) return parser.parse(*line);
      ++summary.num_resumed;
    }
    return std::nullopt;
  };
  Engine engine(source, model.tokenizer.get(), model.eos(), options.engine);
  const bool done = engine.run(rows, output, [&](const EngineStatistics& statistics) {
    if (statistics.num_active == 0 && statistics.num_waiting == 0) prompts.wait(idle_seconds);
    progress.update(progress_figures(statistics, summary.num_resumed));
    output.poll();
    return !stop_requested() && !too_many_errors();
  });
  summary.engine = engine.statistics();
  progress.finish(progress_figures(summary.engine, summary.num_resumed));
  output.sync();
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (too_many_errors()) throw_too_many_errors(options, output.num_errors());
  if (!done) {
    throw Preempted(fmt::format("stopped early ({} rows are written) start the same command again to go on",
                                summary.num_resumed + summary.engine.rows + summary.engine.errors));
  }
  return summary;
}

}  // namespace photon
