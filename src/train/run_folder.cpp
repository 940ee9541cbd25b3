#include "train/run_folder.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <map>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

void flatten(const YAML::Node& node, const std::string& path, std::map<std::string, std::string>& values) {
  if (node.IsMap()) {
    for (const auto& entry : node) {
      const auto key = entry.first.as<std::string>();
      flatten(entry.second, path.empty() ? key : path + "." + key, values);
    }
  } else if (node.IsSequence()) {
    for (std::size_t i = 0; i < node.size(); ++i) flatten(node[i], fmt::format("{}[{}]", path, i), values);
  } else {
    values[path] = node.IsScalar() && !node.Scalar().empty() ? node.Scalar() : "(none)";
  }
}

std::map<std::string, std::string> flatten(const RunConfig& config) {
  std::map<std::string, std::string> values;
  flatten(YAML::Load(to_yaml(config)), "", values);
  return values;
}

std::string value_of(const std::map<std::string, std::string>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? "(none)" : found->second;
}

}  // namespace

std::filesystem::path RunFolder::log_file(int rank) const {
  return root_ / "logs" / fmt::format("rank-{}.log", rank);
}

std::filesystem::path RunFolder::products_file(int rank) const {
  return root_ / "products" / fmt::format("rank-{}.json", rank);
}

std::filesystem::path RunFolder::operations_file(int rank) const {
  return root_ / "logs" / fmt::format("operations-rank-{}.jsonl", rank);
}

std::optional<std::filesystem::path> RunFolder::set_aside() const {
  if (!std::filesystem::exists(root_)) return std::nullopt;
  // A trailing slash would put the old run inside itself.
  const std::filesystem::path plain = root_.has_filename() ? root_ : root_.parent_path();
  for (int i = 1;; ++i) {
    std::filesystem::path old = plain;
    old += fmt::format(".old-{}", i);
    if (std::filesystem::exists(old)) continue;
    std::filesystem::rename(plain, old);
    return old;
  }
}

void RunFolder::create() const {
  if (std::filesystem::exists(root_) && !std::filesystem::is_directory(root_)) {
    throw InputError(fmt::format("{} cannot be the run folder", root_.string()), "it is not a folder",
                     "choose another with --run");
  }
  std::error_code code;
  std::filesystem::create_directories(root_, code);
  if (code) throw_io_error("make the folder", root_, code.value());
}

std::optional<RunConfig> RunFolder::stored_config() const {
  if (!std::filesystem::exists(config_file())) return std::nullopt;
  return load_run_config(config_file().string(), {});
}

void RunFolder::store_config(const RunConfig& config) const {
  publish_file(config_file(), to_yaml(config), "config");
}

RunLock::RunLock(const RunFolder& folder) {
  const std::filesystem::path path = folder.root() / ".lock";
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) throw_io_error("open", path, errno);
  if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  close(file_);
  file_ = -1;
  if (error == EWOULDBLOCK) {
    throw InputError(fmt::format("{} is in use", folder.root().string()), "another photon train runs there",
                     "wait for it, stop it, or choose another folder with --run");
  }
  log_warning("{} cannot be locked (the file system has no locks) make sure that no other training runs there",
              folder.root().string());
}

RunLock::~RunLock() {
  if (file_ >= 0) close(file_);
}

std::vector<std::string> changed_keys(const RunConfig& before, const RunConfig& after) {
  const auto old_values = flatten(before);
  const auto new_values = flatten(after);
  auto all = old_values;
  all.insert(new_values.begin(), new_values.end());
  std::vector<std::string> changes;
  for (const auto& [key, unused] : all) {
    const std::string old_value = value_of(old_values, key);
    const std::string new_value = value_of(new_values, key);
    if (old_value != new_value) changes.push_back(fmt::format("{}: {} -> {}", key, old_value, new_value));
  }
  return changes;
}

bool same_model(const ModelConfig& a, const ModelConfig& b) {
  ModelConfig comparable = b;
  comparable.max_length = a.max_length;  // a limit, not a property of the weights
  return a == comparable;
}

}  // namespace photon
