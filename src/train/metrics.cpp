#include "train/metrics.hpp"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

void add_validation(Json& line, const ValidationResult& validation) {
  line["val_loss"] = validation.loss;
  line["val_ce"] = validation.ce;
  line["val_rec"] = validation.rec;
  line["val_perplexity"] = std::exp(validation.ce);
  line["val_bits_per_byte"] = validation.bits_per_byte;
  line["val_tokens"] = validation.num_tokens;
  line["val_seconds"] = validation.seconds;
}

// Microseconds are enough for times.
double rounded(double seconds) {
  return std::round(seconds * 1e6) / 1e6;
}

void add_ranks(Json& line, const std::vector<RankSeconds>& ranks) {
  Json compute = Json::array();
  Json wait = Json::array();
  Json communication = Json::array();
  for (const RankSeconds& rank : ranks) {
    compute.push_back(rounded(rank.compute));
    wait.push_back(rounded(rank.wait));
    communication.push_back(rounded(rank.communication));
  }
  line["ranks"] = {{"compute", compute}, {"wait", wait}, {"communication", communication}};
  line["slowest_rank"] = slowest_rank(ranks);
}

// The lines of a metrics file that are whole JSON objects of steps up to `last_step`. Counts those of later ones.
std::vector<Json> read_lines(const std::string& text, std::int64_t last_step, std::int64_t* num_later = nullptr) {
  std::vector<Json> lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn
    Json line = Json::parse(text.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    if (line["step"].get<std::int64_t>() <= last_step) {
      lines.push_back(std::move(line));
    } else if (num_later != nullptr) {
      ++*num_later;
    }
  }
  return lines;
}

std::string join(const std::vector<Json>& lines) {
  std::string text;
  for (const Json& line : lines) text += line.dump() + "\n";
  return text;
}

}  // namespace

std::string to_json_line(const StepRecord& record) {
  Json line;
  line["step"] = record.step;
  line["loss"] = record.loss;
  line["ce"] = record.ce;
  line["perplexity"] = std::exp(record.ce);
  line["rec"] = record.rec;
  line["rec_levels"] = record.rec_levels;
  line["lr"] = record.lr;
  line["grad_norm"] = record.grad_norm;
  line["tokens"] = record.tokens;
  line["tokens_per_second"] = record.tokens_per_second;
  line["seconds"] = record.seconds;
  if (record.mfu) line["mfu"] = *record.mfu;
  line["skipped"] = record.skipped;
  line["num_skipped"] = record.num_skipped;
  if (!record.ranks.empty()) add_ranks(line, record.ranks);
  if (record.validation) add_validation(line, *record.validation);
  return line.dump();
}

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step)
    : file_(file), stream_(nullptr, &std::fclose) {
  if (std::filesystem::exists(file)) {
    const std::string before = read_text_file(file);
    const std::vector<Json> lines = read_lines(before, last_step, &num_discarded_);
    const std::string after = join(lines);
    if (after != before) publish_file(file, after, "metrics");
    if (!lines.empty()) {
      last_step_ = lines.back()["step"].get<std::int64_t>();
      last_has_validation_ = lines.back().contains("val_loss");
    }
  }
  open();
}

void MetricsFile::open() {
  stream_.reset(std::fopen(file_.c_str(), "ab"));
  if (!stream_) throw_io_error("open", file_, errno);
}

void MetricsFile::append(const StepRecord& record) {
  const std::string line = to_json_line(record) + "\n";
  const off_t before = lseek(fileno(stream_.get()), 0, SEEK_END);
  if (std::fwrite(line.data(), 1, line.size(), stream_.get()) != line.size() || std::fflush(stream_.get()) != 0) {
    const int error = errno;
    // Half a line must not stand before the next one: what was written goes, what is still buffered too.
    stream_.reset();
    if (before >= 0 && truncate(file_.c_str(), before) != 0) log_warning("{} may hold a torn line", file_.string());
    open();
    throw_io_error("write", file_, error);
  }
  last_step_ = record.step;
  last_has_validation_ = record.validation.has_value();
}

void MetricsFile::sync() {
  if (fsync(fileno(stream_.get())) != 0) throw_io_error("sync", file_, errno);
}

void MetricsFile::complete_last(const ValidationResult& validation) {
  std::vector<Json> lines = read_lines(read_text_file(file_), last_step_);
  PHOTON_EXPECT(!lines.empty(), "{} has no line to complete", file_.string());
  add_validation(lines.back(), validation);
  stream_.reset();
  publish_file(file_, join(lines), "metrics");
  open();
  last_has_validation_ = true;
}

}  // namespace photon
