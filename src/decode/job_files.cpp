#include "decode/job_files.hpp"

#include <chrono>
#include <thread>

#include "decode/part.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

// Ranks of a job whose launcher was killed end by themselves, within moments.
constexpr auto longest_wait = std::chrono::seconds(20);

LineWriter lock_file(const std::filesystem::path& path) {
  const auto begin = std::chrono::steady_clock::now();
  for (bool first = true;; first = false) {
    try {
      return LineWriter(path);
    } catch (const InputError&) {
      if (std::chrono::steady_clock::now() - begin > longest_wait) throw;
    }
    if (first) log_warning("{} is in use: waiting for the job that writes to it to end", path.string());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

JobFiles::JobFiles(const GenerateOptions& options) : options_(options), folder_(parts_folder(options.output)) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    throw InputError(fmt::format("cannot make {}", folder_.string()), error.message(), "choose another --output");
  }
  lock_ = lock_file(folder_ / "lock");
  if (std::filesystem::exists(options.output)) {
    output_ = std::make_unique<ResultFile>(options.output, options.retry_errors, options.compression);
    done_ = output_->keys();
    num_errors_ = output_->num_errors();
    if (options.ordered && output_->num_resumed() > 0) {
      log_info("{} holds {} rows: they stay in front, and the order of the prompts begins behind them",
               options.output.string(), output_->num_resumed());
    }
  }
  for (const std::filesystem::path& part : find_parts(folder_)) {
    const LineWriter lock = lock_file(part);
    recover_part(part, options.retry_errors);
    const auto visit = [&](const PartRecord& record) {
      if (done_.insert(record.key) && record.error) ++num_errors_;
    };
    num_in_parts_ += read_part(part, visit).num_records;
  }
}

MergeSummary JobFiles::complete(std::int64_t num_new, const std::function<bool()>& go_on) {
  if (num_in_parts_ + num_new == 0 && output_) {  // nothing to join
    if (!options_.keep_parts) remove_published(folder_);
    return {output_->num_resumed(), output_->num_errors(), 0};
  }
  MergeOptions merge;
  merge.compression = options_.compression;
  merge.ordered = options_.ordered;
  merge.keep_parts = options_.keep_parts;
  merge.expected_rows = num_done() + num_new;
  return merge_parts(options_.output, merge, go_on);
}

}  // namespace photon
