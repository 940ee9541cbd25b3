#include "decode/merge.hpp"

#include <algorithm>
#include <fstream>
#include <memory>
#include <vector>

#include "decode/part.hpp"
#include "storage/byte_stream.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

constexpr std::int64_t rows_between_calls = 256;  // of go_on

// Where a row stands in the parts.
struct Place {
  std::int64_t line = 0;
  std::int64_t begin = 0;
  std::uint32_t bytes = 0;
  std::uint32_t part = 0;
};

class Merge {
 public:
  Merge(const std::filesystem::path& output, const MergeOptions& options, const std::function<bool()>& go_on)
      : output_(output),
        options_(options),
        go_on_(go_on),
        parts_(find_parts(parts_folder(output))),
        merged_(output.string() + ".merging") {}
  ~Merge() {
    std::error_code ignored;
    std::filesystem::remove(merged_, ignored);  // nothing is there after a success
  }
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  MergeSummary run() {
    std::filesystem::remove(merged_);
    writer_ = std::make_unique<LineWriter>(merged_, options_.compression);
    if (std::filesystem::exists(output_) && std::filesystem::file_size(output_) > 0) copy_output();
    if (options_.ordered) {
      copy_in_order();
    } else {
      for (const std::filesystem::path& part : parts_) {
        read_part(part, [&](const PartRecord& record) { write(record.key, record.error, record.text); });
      }
    }
    if (options_.expected_rows >= 0 && summary_.num_rows != options_.expected_rows) {
      throw Error(fmt::format("{} and its parts hold {} rows", output_.string(), summary_.num_rows),
                  fmt::format("{} were written", options_.expected_rows),
                  "start the same command again: rows that are missing are decoded again");
    }
    writer_->sync();
    writer_.reset();
    publish_path(merged_, output_, "merge");
    summary_.num_parts = static_cast<std::int64_t>(parts_.size());
    return summary_;
  }

 private:
  void tick() {
    if (++num_calls_ % rows_between_calls != 0 || go_on_()) return;
    throw Preempted(
        fmt::format("stopped while the parts of {} were being joined (they are all there) start the same "
                    "command again to go on",
                    output_.string()));
  }

  void write(const RowKey& key, bool error, std::string_view text) {
    tick();
    if (!seen_.insert(key)) return;
    writer_->write(text);
    ++summary_.num_rows;
    summary_.num_errors += error ? 1 : 0;
  }

  void copy_output() {
    const std::unique_ptr<std::istream> input = open_text(output_);
    std::string line;
    for (std::int64_t number = 1; std::getline(*input, line); ++number) {
      const std::optional<EarlierResult> row = read_result_line(line);
      if (!row) {
        throw InputError(fmt::format("{} line {} is no result of photon generate", output_.string(), number),
                         "parts can only be joined to results", "move the file away, and merge again");
      }
      write(row->key, row->error, line);
    }
  }

  void copy_in_order() {
    std::vector<Place> places;
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      read_part(parts_[part], [&](const PartRecord& record) {
        tick();
        if (!seen_.insert(record.key)) return;
        places.push_back({record.line, record.text_begin, static_cast<std::uint32_t>(record.text.size()),
                          static_cast<std::uint32_t>(part)});
        ++summary_.num_rows;
        summary_.num_errors += record.error ? 1 : 0;
      });
    }
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.line < b.line; });
    std::vector<std::ifstream> files;
    for (const std::filesystem::path& part : parts_) files.emplace_back(part, std::ios::binary);
    std::string text;
    for (const Place& place : places) {
      tick();
      std::ifstream& file = files[place.part];
      text.resize(place.bytes);
      file.seekg(place.begin);
      if (!file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
        throw Error(fmt::format("cannot read {}", parts_[place.part].string()), "the file system reports an error", "");
      }
      writer_->write(text);
    }
  }

  const std::filesystem::path& output_;
  const MergeOptions& options_;
  const std::function<bool()>& go_on_;
  std::vector<std::filesystem::path> parts_;
  std::filesystem::path merged_;
  std::unique_ptr<LineWriter> writer_;
  KeySet seen_;
  MergeSummary summary_;
  std::int64_t num_calls_ = 0;
};

}  // namespace

MergeSummary merge_parts(const std::filesystem::path& output, const MergeOptions& options,
                         const std::function<bool()>& go_on) {
  const MergeSummary summary = Merge(output, options, go_on).run();
  if (!options.keep_parts) remove_published(parts_folder(output));
  return summary;
}

}  // namespace photon
