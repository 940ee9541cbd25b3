#include "decode/output.hpp"

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "decode/openai.hpp"
#include "storage/byte_stream.hpp"
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
  if (completion.top.empty()) return;
  Json top = Json::array();
  for (const std::vector<TopToken>& tokens : completion.top) {
    Json entries = Json::array();
    for (const TopToken& one : tokens) entries.push_back({one.token, one.logprob});
    top.push_back(std::move(entries));
  }
  record["top_logprobs"] = std::move(top);
}

bool known_by_line(std::string_view type) {
  return type == name_of(RowError::Kind::malformed) || type == name_of(RowError::Kind::duplicate);
}

constexpr auto sync_interval = std::chrono::seconds(10);

[[noreturn]] void throw_no_result(const std::filesystem::path& path, std::int64_t line) {
  throw InputError(fmt::format("{} line {} is no result of photon generate", path.string(), line),
                   "results are appended to what an earlier run of the job left", "choose another --output");
}

// The first line of a file, or what there is of it; its end comes last.
std::string first_line(const std::filesystem::path& path) {
  constexpr std::size_t longest = std::size_t{1} << 28;
  std::atomic<std::uint64_t> progress = 0;
  const std::unique_ptr<ByteStream> stream = ByteStream::open(path, progress);
  std::vector<char> block(std::size_t{1} << 16);
  std::string line;
  try {
    while (line.size() < longest) {
      const std::size_t count = stream->read_some(block);
      if (count == 0) break;
      line.append(block.data(), count);
      if (const auto end = line.find('\n', line.size() - count); end != std::string::npos)
        return line.substr(0, end + 1);
    }
  } catch (const CutShort&) {  // the end that a kill left
  }
  return line;
}

// Somebody else's file, named by mistake, must not lose what a kill would have left at the end of ours.
void expect_results(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path) || std::filesystem::file_size(path) == 0) return;
  std::string line;
  try {
    line = first_line(path);
  } catch (const InputError&) {
    return;  // damaged, or not compressed as it should be: recover() says so
  }
  constexpr std::string_view beginning = R"({"id":)";  // and no space behind it
  const bool torn = !line.ends_with('\n') && !Json::accept(line);
  const bool ours =
      torn ? line.starts_with(beginning.substr(0, line.size())) && !line.substr(0, beginning.size() + 1).ends_with(' ')
           : read_result_line(line).has_value();
  if (!ours) throw_no_result(path, 1);
}

}  // namespace

std::string result_line(const Result& result) {
  if (result.openai) return openai::result_line(result);
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
  if (error.openai) return openai::error_line(error);
  Json record;
  record["id"] = Json::parse(error.id);
  record["error"] = {{"type", name_of(error.kind)}, {"message", error.message}, {"line", error.line}};
  return dump(record);
}

std::optional<EarlierResult> read_result_line(const std::string& line) {
  const Json record = Json::parse(line, nullptr, false);
  if (!record.is_object() || !record.contains("id")) return std::nullopt;
  if (record.contains("custom_id")) return openai::read_record(record);
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

ResultFile::ResultFile(const std::filesystem::path& path, bool retry_errors, Compression compression)
    : writer_(path, compression) {
  if (!writer_.is_stdout()) read_earlier(retry_errors);
}

void ResultFile::read_earlier(bool retry_errors) {
  const std::filesystem::path path = writer_.path();
  expect_results(path);
  if (const std::int64_t dropped = writer_.recover(); dropped > 0) {
    log_warning("{} ends in a half-written row ({} bytes): dropped, it is decoded again", path.string(), dropped);
  }
  if (!std::filesystem::is_regular_file(path) || std::filesystem::file_size(path) == 0) return;
  const std::filesystem::path rewritten = path.string() + ".tmp";
  std::unique_ptr<LineWriter> kept;  // the file without its errors, when they are to be tried again
  if (retry_errors) {
    std::filesystem::remove(rewritten);
    kept = std::make_unique<LineWriter>(rewritten, writer_.compression());
  }
  bool changed = false;
  const std::unique_ptr<std::istream> input = open_text(path);
  std::string line;
  bool open_end = false;  // a compressed file that was made of a plain one whose last line lacks its end
  for (std::int64_t number = 1; std::getline(*input, line); ++number) {
    open_end = input->eof();
    const std::optional<EarlierResult> earlier = read_result_line(line);
    if (!earlier) {
      if (kept) std::filesystem::remove(rewritten);
      throw_no_result(path, number);
    }
    if (earlier->error && retry_errors) {
      changed = true;
      continue;
    }
    ++num_resumed_;
    num_errors_ += earlier->error ? 1 : 0;
    done_.insert(earlier->key);
    if (kept) kept->write(line);
  }
  if (!changed) {
    if (open_end) writer_.write("");
    if (kept) std::filesystem::remove(rewritten);
    return;
  }
  const Compression compression = writer_.compression();
  kept->sync();
  kept.reset();
  publish_path(rewritten, path, "results");
  writer_ = LineWriter(path, compression);  // the old file is gone
}

void ResultFile::result(const Result& result) {
  append(result_line(result));
}

void ResultFile::error(const RowError& error) {
  append(error_line(error));
  ++num_errors_;
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
