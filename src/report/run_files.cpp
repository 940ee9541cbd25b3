#include "report/run_files.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoint/checkpoint.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// The keys of metrics.jsonl that are curves of their own.
constexpr const char* curve_keys[] = {
    "loss", "ce", "rec", "lr", "grad_norm", "tokens_per_second", "val_loss", "val_ce", "val_rec", "val_bits_per_byte"};

double number_of(const Json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

class Reader {
 public:
  explicit Reader(RunFiles& run) : run_(run) {}

  void add(const Json& line) {
    if (!line.contains("step") || !line["step"].is_number_integer()) return;
    const auto step = line["step"].get<std::int64_t>();
    if (step <= run_.last_step) return;  // written by something else
    run_.last_step = step;
    for (const char* key : curve_keys) {
      if (line.contains(key)) curve(key).add(step, number_of(line[key]));
    }
    if (line.contains("rec_levels") && line["rec_levels"].is_array() && line["rec_levels"].size() > 1) {
      for (std::size_t l = 0; l < line["rec_levels"].size(); ++l)
        curve(fmt::format("rec level {}", l + 1)).add(step, number_of(line["rec_levels"][l]));
    }
    if (line.value("skipped", false)) run_.skipped.push_back(step);
    if (line.contains("tokens")) run_.tokens.add(step, number_of(line["tokens"]));
    const double seconds = line.contains("seconds") ? number_of(line["seconds"]) : 0;
    run_.seconds += std::isfinite(seconds) ? seconds : 0;
    if (line.contains("ranks")) add_ranks(step, line, seconds);
  }

 private:
  Series& curve(const std::string& name) {
    for (auto& [key, series] : run_.curves) {
      if (key == name) return series;
    }
    return run_.curves.emplace_back(name, Series{}).second;
  }

  void add_ranks(std::int64_t step, const Json& line, double seconds) {
    const auto list = [&](const char* key) { return line["ranks"].value(key, std::vector<double>{}); };
    const std::vector<double> compute = list("compute");
    const std::vector<double> wait = list("wait");
    const std::vector<double> communication = list("communication");
    if (compute.empty() || wait.size() != compute.size() || communication.size() != compute.size()) return;
    RankTotals& totals = run_.ranks;
    if (totals.compute.size() != compute.size()) {
      totals = {};
      for (auto* sums : {&totals.compute, &totals.wait, &totals.communication}) sums->resize(compute.size());
      totals.slowest.resize(compute.size());
    }
    double busy = 0;
    double all = 0;
    for (std::size_t rank = 0; rank < compute.size(); ++rank) {
      totals.compute[rank] += compute[rank];
      totals.wait[rank] += wait[rank];
      totals.communication[rank] += communication[rank];
      busy += compute[rank];
      all += compute[rank] + wait[rank] + communication[rank];
    }
    const auto slowest = line.value("slowest_rank", std::size_t{0});
    if (slowest < totals.slowest.size()) ++totals.slowest[slowest];
    ++totals.num_steps;
    totals.seconds += seconds;
    if (all > 0) curve("not_compute").add(step, 1 - busy / all);
  }

  RunFiles& run_;
};

double median_of(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<CheckpointFolder> read_checkpoints(const fs::path& run) {
  std::vector<CheckpointFolder> found;
  for (const fs::path& path : list_checkpoints(run)) {
    CheckpointFolder folder;
    folder.name = path.filename().string();
    const std::string_view digits = std::string_view(folder.name).substr(std::min<std::size_t>(folder.name.size(), 5));
    std::from_chars(digits.data(), digits.data() + digits.size(), folder.step);
    std::error_code error;  // a run that goes on may remove it meanwhile
    for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code gone;
      if (!entry->is_regular_file(gone)) continue;
      const std::uintmax_t bytes = entry->file_size(gone);
      if (!gone) folder.bytes += bytes;
    }
    folder.complete = fs::exists(path / "manifest.json", error);
    found.push_back(std::move(folder));
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace

const Series* RunFiles::curve(const std::string& name) const {
  for (const auto& [key, series] : curves) {
    if (key == name) return &series;
  }
  return nullptr;
}

Series thinned(const Series& series, std::size_t most) {
  const std::size_t count = series.steps.size();
  if (count <= most || most < 2) return series;
  Series result;
  const std::size_t buckets = most / 2;
  for (std::size_t b = 0; b < buckets; ++b) {
    const std::size_t begin = count * b / buckets;
    const std::size_t end = count * (b + 1) / buckets;
    std::size_t least = end;
    std::size_t greatest = end;
    for (std::size_t i = begin; i < end; ++i) {
      if (!std::isfinite(series.values[i])) continue;
      if (least == end || series.values[i] < series.values[least]) least = i;
      if (greatest == end || series.values[i] > series.values[greatest]) greatest = i;
    }
    for (std::size_t i = begin; i < end; ++i) {
      if (i == least || i == greatest || !std::isfinite(series.values[i]))
        result.add(series.steps[i], series.values[i]);
    }
  }
  return result;
}

std::vector<Json> read_json_lines(const fs::path& file) {
  std::vector<Json> lines;
  if (!fs::exists(file)) return lines;
  const std::string text = read_text_file(file);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                            text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (line.is_object()) lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

RunFiles read_run(const fs::path& folder, const fs::path& trace) {
  RunFiles run;
  run.folder = folder;
  if (!fs::exists(folder / "config.yaml")) {
    throw InputError(fmt::format("{} is not a run folder", folder.string()), "it has no config.yaml",
                     "give the folder that photon train --run wrote to");
  }
  run.config_text = read_text_file(folder / "config.yaml");
  run.config = parse_run_config(run.config_text, (folder / "config.yaml").string(), {});
  Reader reader(run);
  for (const Json& line : read_json_lines(folder / "metrics.jsonl")) reader.add(line);
  if (const Series* speed = run.curve("tokens_per_second")) run.median_tokens_per_second = median_of(speed->values);
  run.checkpoints = read_checkpoints(folder);
  const fs::path usual = folder / "trace.json";
  const fs::path file = trace.empty() ? usual : trace;
  if (!trace.empty() || fs::exists(usual)) run.trace = parse_trace(read_text_file(file), file.string());
  return run;
}

}  // namespace photon
