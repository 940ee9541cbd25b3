#include "train/start_record.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "blueprint/parameters.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/version.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32] = {};
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t value = line.find(": ");
    if (value != std::string::npos) return line.substr(value + 2);
  }
  return "unknown";
}

Json layout_of(const RunConfig& config, const Plan& plan) {
  Json stages = Json::array();
  for (const StagePlan& stage : plan.layout) {
    stages.push_back({{"modules", part_names(config.model, stage.layers)}, {"shards", stage.shards}});
  }
  return {{"replicas", plan.replicas},
          {"stages", stages},
          {"microbatch_size", plan.microbatch_size},
          {"microbatches", plan.num_microbatches()}};
}

}  // namespace

std::string to_json_line(const StartRecord& record, const RunConfig& config, const Plan& plan) {
  Json line;
  line["format_version"] = 1;
  line["time"] = now_text();
  line["step"] = record.step;
  line["steps"] = config.train.steps;
  line["discarded_steps"] = record.discarded_steps;
  line["ranks"] = plan.ranks.size();
  line["hosts"] = record.hosts;
  line["layout"] = layout_of(config, plan);
  line["num_parameters"] = num_parameters(config.model);
  line["threads"] = record.threads;
  line["processor"] = processor_name();
  line["cores"] = std::thread::hardware_concurrency();
  line["memory_bytes"] = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  if (!record.device.empty()) line["device"] = record.device;
  line["version"] = version;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void append_line(const std::filesystem::path& file, const std::string& line) {
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "ab"), &std::fclose);
  if (!stream) throw_io_error("open", file, errno);
  const std::string text = line + "\n";
  if (std::fwrite(text.data(), 1, text.size(), stream.get()) != text.size() || std::fflush(stream.get()) != 0) {
    throw_io_error("write", file, errno);
  }
}

}  // namespace photon
