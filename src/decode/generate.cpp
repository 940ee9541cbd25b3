#include "decode/generate.hpp"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>

#include "decode/output.hpp"
#include "decode/progress.hpp"
#include "storage/byte_stream.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

// Lines of a regular file that hold something: the true denominator of the progress, and a file that is damaged is
// found before anything is written. -1 where it cannot be known beforehand.
std::int64_t count_rows(const std::filesystem::path& path) {
  std::error_code ignored;
  if (path == "-" || !std::filesystem::is_regular_file(path, ignored)) return -1;
  const std::unique_ptr<std::istream> input = open_text(path);
  std::vector<char> block(std::size_t{1} << 18);
  std::int64_t rows = 0;
  bool empty = true;
  while (input->read(block.data(), static_cast<std::streamsize>(block.size())) || input->gcount() > 0) {
    for (std::streamsize i = 0; i < input->gcount(); ++i) {
      const char c = block[static_cast<std::size_t>(i)];
      if (c == '\n') {
        rows += empty ? 0 : 1;
        empty = true;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        empty = false;
      }
    }
  }
  return rows + (empty ? 0 : 1);
}

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

GenerateSummary generate(OpenModel& model, const Context& ctx, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested) {
  const auto begin = std::chrono::steady_clock::now();
  validate(options.defaults);
  if (options.engine.mode == GenerationMode::recgen) require_recgen(model.config());
  const std::unique_ptr<std::istream> input = open_text(options.prompts);
  const std::int64_t total = count_rows(options.prompts);
  ResultFile output(options.output, options.retry_errors);
  PromptReader prompts(*input);
  const RequestParser parser(model.tokenizer.get(), options.defaults,
                             {model.config().vocab_size, model.config().max_length});
  GenerateSummary summary;
  const auto next = [&]() -> std::optional<Row> {
    while (std::optional<PromptLine> line = prompts.next()) {
      if (!output.has(line->key)) return parser.parse(*line);
      ++summary.num_resumed;
    }
    return std::nullopt;
  };
  DecodeProgress progress(total);
  Engine engine(decoder_source(*model.model, ctx), model.tokenizer.get(), model.eos(), options.engine);
  const bool done = engine.run(next, output, [&](const EngineStatistics& statistics) {
    progress.update(statistics, summary.num_resumed);
    output.poll();
    return !stop_requested();
  });
  progress.clear();
  output.sync();
  summary.engine = engine.statistics();
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!done) {
    throw Preempted(fmt::format("stopped by a signal ({} rows are written) start the same command again to go on",
                                summary.num_resumed + summary.engine.rows + summary.engine.errors));
  }
  return summary;
}

}  // namespace photon
