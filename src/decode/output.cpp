#include "decode/output.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& record) {
  return record.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void put_completion(const Completion& completion, Json& record) {
  record["text"] = completion.text;
  record["tokens"] = completion.tokens;
  record["finish_reason"] = name_of(completion.finish);
  if (!completion.logprobs.empty()) record["logprobs"] = completion.logprobs;
}

bool known_by_line(std::string_view type) {
  return type == name_of(RowError::Kind::malformed) || type == name_of(RowError::Kind::duplicate);
}

constexpr auto sync_interval = std::chrono::seconds(10);

}  // namespace

std::string result_line(const Result& result) {
  Json record;
  record["id"] = Json::parse(result.id);
  if (result.samples.size() == 1) {
    put_completion(result.samples[0], record);
  } else {
    Json outputs = Json::array();
    for (const Completion& completion : result.samples) {
      Json output;
      put_completion(completion, output);
      outputs.push_back(std::move(output));
    }
    record["outputs"] = std::move(outputs);
  }
  return dump(record);
}

std::string error_line(const RowError& error) {
  Json record;
  record["id"] = Json::parse(error.id);
  record["error"] = {{"type", name_of(error.kind)}, {"message", error.message}, {"line", error.line}};
  return dump(record);
}

std::optional<EarlierResult> read_result_line(const std::string& line) {
  const Json record = Json::parse(line, nullptr, false);
  if (!record.is_object() || !record.contains("id")) return std::nullopt;
  const Json& id = record["id"];
  if (!id.is_string() && !id.is_number_integer()) return std::nullopt;
  const auto error = record.find("error");
  if (error == record.end()) {
    if (!record.contains("text") && !record.contains("outputs")) return std::nullopt;
    return EarlierResult{key_of_id(dump(id)), false};
  }
  if (!error->is_object()) return std::nullopt;
  const std::string type = error->contains("type") && (*error)["type"].is_string() ? (*error)["type"] : "";
  if (known_by_line(type) && error->contains("line") && (*error)["line"].is_number_integer()) {
    return EarlierResult{key_of_line((*error)["line"]), true};
  }
  return EarlierResult{key_of_id(dump(id)), true};
}

RowKey key_of(const RowError& error) {
  return known_by_line(name_of(error.kind)) ? key_of_line(error.line) : key_of_id(error.id);
}

LineWriter::LineWriter(const std::filesystem::path& path) : path_(path) {
  if (is_stdout()) {
    file_ = STDOUT_FILENO;
    return;
  }
  file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) {
    throw InputError(fmt::format("cannot write {}", path.string()), std::strerror(errno), "choose another --output");
  }
  // File systems without locks are taken as they are.
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(std::exchange(file_, -1));
    throw InputError(fmt::format("{} is in use", path.string()), "another photon writes to it",
                     "wait for it to end, or choose another --output");
  }
}

LineWriter::~LineWriter() {
  if (file_ >= 0 && !is_stdout()) ::close(file_);
}

LineWriter::LineWriter(LineWriter&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

LineWriter& LineWriter::operator=(LineWriter&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  return *this;
}

void LineWriter::write(std::string_view line) {
  std::string bytes(line);
  bytes += '\n';
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(file_, bytes.data() + done, bytes.size() - done);
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_io_error("write", path_, errno);
    }
    done += static_cast<std::size_t>(count);
  }
}

void LineWriter::sync() {
  if (!is_stdout() && ::fsync(file_) != 0 && errno != EINVAL && errno != EROFS) throw_io_error("sync", path_, errno);
}

void LineWriter::truncate(std::int64_t bytes) {
  if (::ftruncate(file_, static_cast<off_t>(bytes)) != 0) throw_io_error("truncate", path_, errno);
}

ResultFile::ResultFile(const std::filesystem::path& path, bool retry_errors) {
  writer_ = LineWriter(path);
  if (!writer_.is_stdout()) read_earlier(retry_errors);
}

void ResultFile::read_earlier(bool retry_errors) {
  const std::filesystem::path& path = writer_.path();
  std::ifstream input(path, std::ios::binary);
  std::string kept;  // the file without its errors, when they are to be tried again
  std::string line;
  std::int64_t whole = 0;
  for (std::int64_t number = 1; std::getline(input, line); ++number) {
    if (input.eof()) {
      log_warning("{} ends in half a line ({} bytes): dropped, its row is decoded again", path.string(), line.size());
      writer_.truncate(whole);
      break;
    }
    whole += static_cast<std::int64_t>(line.size()) + 1;
    const std::optional<EarlierResult> earlier = read_result_line(line);
    if (!earlier) {
      throw InputError(fmt::format("{} line {} is no result of photon generate", path.string(), number),
                       "results are appended to what an earlier run of the job left", "choose another --output");
    }
    if (earlier->error && retry_errors) continue;
    ++(earlier->error ? num_errors_ : num_results_);
    done_.insert(earlier->key);
    if (retry_errors) kept += line + "\n";
  }
  if (retry_errors && static_cast<std::int64_t>(kept.size()) < whole) {
    publish_file(path, kept, "results");
    writer_ = LineWriter(path);  // the old file is gone
  }
}

void ResultFile::result(const Result& result) {
  append(result_line(result));
}

void ResultFile::error(const RowError& error) {
  append(error_line(error));
}

void ResultFile::append(const std::string& line) {
  fault_point("results.row");
  writer_.write(line);
  fault_point("results.done");
  if (std::chrono::steady_clock::now() - synced_ > sync_interval) sync();
}

void ResultFile::sync() {
  writer_.sync();
  synced_ = std::chrono::steady_clock::now();
}

}  // namespace photon
