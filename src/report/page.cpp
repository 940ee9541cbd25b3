#include "report/page.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "blueprint/parameters.hpp"
#include "report/layout.hpp"
#include "report/markup.hpp"
#include "report/page_file.hpp"
#include "report/run_files.hpp"
#include "support/error.hpp"
#include "support/version.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t max_points = 4000;  // of a curve

// Six digits draw the same picture and keep the page small. null for what is not finite.
Json short_number(double value) {
  if (!std::isfinite(value)) return nullptr;
  const std::string text = fmt::format("{:.6g}", value);
  double rounded = value;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return rounded;
}

Json series_json(const Series& series) {
  const Series few = thinned(series, max_points);
  Json values = Json::array();
  for (const double value : few.values) values.push_back(short_number(value));
  return {{"steps", few.steps}, {"values", values}, {"thinned", few.steps.size() < series.steps.size()}};
}

Json rank_means(const RankTotals& totals) {
  const auto means = [&](const std::vector<double>& sums) {
    Json list = Json::array();
    for (const double sum : sums) list.push_back(short_number(sum / static_cast<double>(totals.num_steps)));
    return list;
  };
  return {{"num_steps", totals.num_steps},
          {"step_seconds", short_number(totals.seconds / static_cast<double>(totals.num_steps))},
          {"compute", means(totals.compute)},
          {"wait", means(totals.wait)},
          {"communication", means(totals.communication)},
          {"slowest", totals.slowest}};
}

std::int64_t ranks_of(const RunFiles& run, const Json& starts) {
  if (!starts.empty() && starts.back().contains("ranks")) return starts.back()["ranks"].get<std::int64_t>();
  if (!run.ranks.compute.empty()) return static_cast<std::int64_t>(run.ranks.compute.size());
  return std::max<std::int64_t>(run.config.parallel.data, 1) * ranks_per_replica(run.config.parallel);
}

std::string name_of(const std::filesystem::path& folder) {
  const std::filesystem::path plain = folder.has_filename() ? folder : folder.parent_path();
  const std::string name = plain.filename().string();
  return name.empty() || name == "." || name == ".." ? std::filesystem::absolute(plain).lexically_normal().string()
                                                     : name;
}

Json run_json(const std::filesystem::path& folder, const ReportOptions& options) {
  const RunFiles run = read_run(folder, options.trace);
  Json starts = Json::array();
  for (const nlohmann::json& start : read_json_lines(folder / "logs" / "starts.jsonl")) starts.push_back(Json(start));
  Json curves = Json::object();
  for (const auto& [key, series] : run.curves) curves[key] = series_json(series);
  Json checkpoints = Json::array();
  for (const CheckpointFolder& checkpoint : run.checkpoints) {
    checkpoints.push_back({{"name", checkpoint.name},
                           {"step", checkpoint.step},
                           {"bytes", checkpoint.bytes},
                           {"complete", checkpoint.complete}});
  }
  const ModelConfig& model = run.config.model;
  Json json{{"name", name_of(folder)},
            {"folder", std::filesystem::absolute(folder).lexically_normal().string()},
            {"last_step", run.last_step},
            {"steps", run.config.train.steps},
            {"tokens_per_step", run.config.train.batch_size * run.config.train.sequence_length},
            {"tokens", series_json(run.tokens)},
            {"seconds", short_number(run.seconds)},
            {"tokens_per_second", short_number(run.median_tokens_per_second)},
            {"num_parameters", num_parameters(model)},
            {"levels", model.num_levels()},
            {"curves", curves},
            {"skipped", run.skipped},
            {"starts", starts},
            {"checkpoints", checkpoints},
            {"config", run.config_text}};
  if (run.ranks.num_steps > 0) json["rank_means"] = rank_means(run.ranks);
  if (run.trace) json["measured"] = timeline_json(*run.trace);
  try {
    const RunLayout layout = layout_of(run, ranks_of(run, starts), options.cluster);
    json["layout"] = layout_json(layout, model);
    if (layout.prediction) json["predicted"] = prediction_json(layout, model);
  } catch (const InputError& error) {
    if (!options.cluster.empty()) throw;  // asked for
    json["layout_problem"] = error.what();
  }
  return json;
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32] = {};
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc);
  return text;
}

// JSON within a script element: nothing in it can end the element or begin a comment.
std::string island(const Json& json) {
  std::string text;
  for (const char c : json.dump(-1, ' ', true, Json::error_handler_t::replace)) {
    switch (c) {
      case '<':
        text += "\\u003c";
        break;
      case '>':
        text += "\\u003e";
        break;
      case '&':
        text += "\\u0026";
        break;
      default:
        text += c;
    }
  }
  return text;
}

// Replaces each {{name}} of the template once, from front to back: what is put in is not looked at again.
std::string filled(std::string_view page, const std::vector<std::pair<std::string, std::string>>& parts) {
  std::string result;
  for (const auto& [name, text] : parts) {
    const std::string mark = "{{" + name + "}}";
    const std::size_t place = page.find(mark);
    PHOTON_EXPECT(place != std::string_view::npos, "the template has no {} where it belongs", mark);
    result += page.substr(0, place);
    result += text;
    page.remove_prefix(place + mark.size());
  }
  return result.append(page);
}

}  // namespace

std::string report_page(const ReportOptions& options) {
  PHOTON_EXPECT(!options.runs.empty(), "a report of no runs");
  Json runs = Json::array();
  std::string title;
  for (const std::filesystem::path& folder : options.runs) {
    runs.push_back(run_json(folder, options));
    title += (title.empty() ? "" : ", ") + runs.back()["name"].get<std::string>();
  }
  const Json data{{"program", std::string("photon ") + version}, {"made", now_text()}, {"runs", runs}};
  std::string script;
  for (const char* file : {"base.js", "chart.js", "ranks.js", "main.js"}) script += page_file(file);
  return filled(page_file("page.html"), {{"title", escaped(title)},
                                         {"style", std::string(page_file("style.css"))},
                                         {"data", island(data)},
                                         {"script", script}});
}

}  // namespace photon
