#include "decode/part.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <utility>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

constexpr std::string_view header_word = "photon-part ";
constexpr std::string_view header = "photon-part 1";
constexpr std::size_t checksum_digits = 16;
constexpr std::size_t key_digits = 32;
constexpr auto sync_interval = std::chrono::seconds(10);

std::string record_line(const RowKey& key, bool error, std::int64_t line, std::string_view text) {
  const std::string body = fmt::format("{} {} {} {}", key_text(key), error ? 'e' : 'r', line, text);
  return fmt::format("{} {}", checksum_text(checksum(body.data(), body.size())), body);
}

// The record of a line; text_begin counts from the line's begin.
std::optional<PartRecord> parse_record(std::string_view line) {
  constexpr std::size_t body_at = checksum_digits + 1;
  constexpr std::size_t kind_at = body_at + key_digits + 1;
  constexpr std::size_t number_at = kind_at + 2;
  if (line.size() < number_at + 2) return std::nullopt;
  const std::string_view body = line.substr(body_at);
  if (line[checksum_digits] != ' ') return std::nullopt;
  if (line.substr(0, checksum_digits) != checksum_text(checksum(body.data(), body.size()))) return std::nullopt;
  PartRecord record;
  record.error = line[kind_at] == 'e';
  const char* end = line.data() + line.size();
  const auto number = std::from_chars(line.data() + number_at, end, record.line);
  if (!parse_key(line.substr(body_at, key_digits), record.key) || number.ec != std::errc() || number.ptr == end) {
    return std::nullopt;
  }
  record.text_begin = number.ptr + 1 - line.data();
  record.text = line.substr(static_cast<std::size_t>(record.text_begin));
  return record;
}

void expect_header(const std::filesystem::path& path, const std::string& line) {
  if (line == header) return;
  if (line.starts_with(header_word)) {
    throw InputError(fmt::format("{} has the format '{}'", path.string(), line),
                     fmt::format("this photon knows '{}'", header), "use the photon that began the job");
  }
  throw InputError(fmt::format("{} is no part of photon generate", path.string()), "its first line is another",
                   "move it away, or choose another --output");
}

int rank_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  constexpr std::string_view begin = "rank-";
  constexpr std::string_view end = ".part";
  if (!name.starts_with(begin) || !name.ends_with(end)) return -1;
  int rank = -1;
  const char* last = name.data() + name.size() - end.size();
  const auto number = std::from_chars(name.data() + begin.size(), last, rank);
  return number.ec == std::errc() && number.ptr == last ? rank : -1;
}

}  // namespace

std::filesystem::path parts_folder(const std::filesystem::path& output) {
  return output.string() + ".parts";
}

std::filesystem::path part_file(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("rank-{}.part", rank);
}

std::vector<std::filesystem::path> find_parts(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> parts;
  if (!std::filesystem::is_directory(folder)) return parts;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (rank_of(entry.path()) >= 0) parts.push_back(entry.path());
  }
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return rank_of(a) < rank_of(b); });
  return parts;
}

PartSummary read_part(const std::filesystem::path& path, const std::function<void(const PartRecord&)>& visit) {
  std::ifstream input(path, std::ios::binary);
  if (!input) {
    throw InputError(fmt::format("cannot read {}", path.string()), "no such file, or no permission", "check the path");
  }
  PartSummary summary;
  std::string line;
  std::int64_t begin = 0;
  for (bool first = true; std::getline(input, line); first = false) {
    const std::int64_t end = begin + static_cast<std::int64_t>(line.size()) + 1;
    if (input.eof()) {
      ++summary.num_damaged;
      break;
    }
    if (first) {
      expect_header(path, line);
      summary.whole_bytes = end;
    } else if (std::optional<PartRecord> record = parse_record(line)) {
      record->text_begin += begin;
      ++summary.num_records;
      summary.whole_bytes = end;
      visit(*record);
    } else {
      ++summary.num_damaged;
    }
    begin = end;
  }
  if (input.bad()) throw Error(fmt::format("cannot read {}", path.string()), "the file system reports an error", "");
  return summary;
}

void recover_part(const std::filesystem::path& path, bool drop_errors) {
  bool errors = false;
  const PartSummary summary = read_part(path, [&](const PartRecord& record) { errors = errors || record.error; });
  if (summary.num_damaged > 0) {
    log_warning("{} holds {} half-written or damaged row(s): dropped, they are decoded again", path.string(),
                summary.num_damaged);
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(summary.whole_bytes));
  }
  if (!drop_errors || !errors) return;
  std::filesystem::path rewritten = path;
  rewritten += ".tmp";
  std::filesystem::remove(rewritten);
  {
    LineWriter kept(rewritten);
    kept.write(header);
    read_part(path, [&](const PartRecord& record) {
      if (!record.error) kept.write(record_line(record.key, false, record.line, record.text));
    });
    kept.sync();
  }
  publish_path(rewritten, path, "part");
}

PartWriter::PartWriter(const std::filesystem::path& path) : writer_(path) {
  if (std::filesystem::file_size(path) == 0) writer_.write(header);
}

void PartWriter::result(const Result& result) {
  append(key_of_id(result.id), false, result.line, result_line(result));
}

void PartWriter::error(const RowError& error) {
  append(key_of(error), true, error.line, error_line(error));
}

void PartWriter::append(const RowKey& key, bool error, std::int64_t line, std::string_view text) {
  fault_point("results.row");
  writer_.write(record_line(key, error, line, text));
  fault_point("results.done");
}

void PartWriter::poll() {
  if (std::chrono::steady_clock::now() - synced_ > sync_interval) sync();
}

void PartWriter::sync() {
  writer_.sync();
  synced_ = std::chrono::steady_clock::now();
}

}  // namespace photon
