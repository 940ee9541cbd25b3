// The folder a run lives in: config.yaml, metrics.jsonl, checkpoints/, LATEST, model/, logs/ (docs/training.md).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.hpp"

namespace photon {

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path config_file() const { return root_ / "config.yaml"; }
  std::filesystem::path metrics_file() const { return root_ / "metrics.jsonl"; }
  std::filesystem::path model() const { return root_ / "model"; }
  std::filesystem::path log_file(int rank) const;
  std::filesystem::path starts_file() const { return root_ / "logs" / "starts.jsonl"; }
  std::filesystem::path products_file(int rank) const;    // algorithms of matrix products (stored_products.hpp)
  std::filesystem::path operations_file(int rank) const;  // what the rank did last, after an end that was not in order

  // Renames an existing folder to the first free <root>.old-N and returns that name; nothing to do without one.
  std::optional<std::filesystem::path> set_aside() const;
  // Makes the folder. Errors: Error when it cannot be made, InputError when the path is something else.
  void create() const;

  // The configuration of the run that is already there.
  std::optional<RunConfig> stored_config() const;
  void store_config(const RunConfig& config) const;

 private:
  std::filesystem::path root_;
};

// Holds the run folder for this process; released when it ends, however it ends. File systems without locks are
// accepted with a warning.
class RunLock {
 public:
  // Errors: InputError when another process trains in the folder.
  explicit RunLock(const RunFolder& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int file_ = -1;
};

// Paths of the keys whose values differ, e.g. "train.steps: 10 -> 20".
std::vector<std::string> changed_keys(const RunConfig& before, const RunConfig& after);

// Whether weights of one are weights of the other: names, shapes and arithmetic are equal.
bool same_model(const ModelConfig& a, const ModelConfig& b);

}  // namespace photon
