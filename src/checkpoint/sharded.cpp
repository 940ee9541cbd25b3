#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/safetensors.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::json;

constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

[[noreturn]] void fail(const fs::path& path, const std::string& why) {
  throw InputError(fmt::format("cannot read weights from {}", path.string()), why,
                   "check that all files of the folder are there");
}

std::uint64_t bytes_of(const NamedTensor& tensor, DType dtype) {
  std::uint64_t bytes = size_of(dtype);
  for (const std::int64_t size : tensor.shape) bytes *= static_cast<std::uint64_t>(size);
  return bytes;
}

// Tensor name -> file name. A file name that leads out of the folder is refused.
std::map<std::string, std::string> read_index(const fs::path& path) {
  std::map<std::string, std::string> places;
  try {
    const Json index = Json::parse(read_text_file(path));
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
      fail(path, "it has no weight_map");
    for (const auto& [name, file] : index["weight_map"].items()) places[name] = file.get<std::string>();
  } catch (const Json::exception& error) {
    fail(path, fmt::format("its JSON is damaged: {}", error.what()));
  }
  for (const auto& [name, file] : places) {
    if (file.empty() || fs::path(file).filename() != fs::path(file) || file == "." || file == "..") {
      fail(path, fmt::format("tensor '{}' is said to be in '{}', which is no plain file name", name, file));
    }
  }
  return places;
}

}  // namespace

void write_sharded(const fs::path& folder, const std::vector<NamedTensor>& tensors, DType dtype,
                   const std::map<std::string, std::string>& metadata, std::uint64_t shard_bytes) {
  std::vector<std::vector<NamedTensor>> shards(1);
  std::uint64_t total = 0;
  std::uint64_t filled = 0;
  for (const NamedTensor& tensor : tensors) {
    const std::uint64_t bytes = bytes_of(tensor, dtype);
    if (!shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += bytes;
    total += bytes;
  }
  if (shards.size() == 1) {
    write_safetensors(folder / single_name, tensors, dtype, metadata);
    return;
  }
  Json map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(folder / name, shards[i], dtype, metadata);
    for (const NamedTensor& tensor : shards[i]) map[tensor.name] = name;
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  publish_file(folder / index_name, index.dump(2) + "\n", "weights.index");
}

WeightFiles::WeightFiles(const fs::path& folder) {
  const bool single = fs::exists(folder / single_name);
  const bool sharded = fs::exists(folder / index_name);
  if (single && sharded) fail(folder, fmt::format("it holds both {} and {}", single_name, index_name));
  if (!single && !sharded) fail(folder, fmt::format("it holds neither {} nor {}", single_name, index_name));
  if (single) {
    add(folder / single_name);
    return;
  }
  const auto places = read_index(folder / index_name);
  std::set<std::string> names;
  for (const auto& [name, file] : places) names.insert(file);
  for (const std::string& name : names) add(folder / name);
  for (const auto& [name, file] : places) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || files_[found->second.file].path().filename() != file) {
      fail(folder / file, fmt::format("it lacks tensor '{}', which {} places there", name, index_name));
    }
  }
  for (const auto& [name, place] : tensors_) {
    if (places.count(name) == 0)
      fail(files_[place.file].path(), fmt::format("{} does not list its tensor '{}'", index_name, name));
  }
}

void WeightFiles::add(const fs::path& path) {
  files_.emplace_back(path);
  for (const SafetensorsEntry& entry : files_.back().entries()) {
    if (!tensors_.emplace(entry.name, Place{files_.size() - 1, entry}).second) {
      fail(path, fmt::format("tensor '{}' is in another file too", entry.name));
    }
  }
}

void WeightFiles::read(const std::string& name, float* out) const {
  const auto found = tensors_.find(name);
  PHOTON_EXPECT(found != tensors_.end(), "no tensor named {}", name);
  const SafetensorsFile& file = files_[found->second.file];
  const std::uint64_t sum = file.read(found->second.entry, out);
  const auto recorded = file.metadata().find(checksum_key(name));
  if (recorded != file.metadata().end() && recorded->second != checksum_text(sum)) {
    throw InputError(fmt::format("tensor '{}' in {} is damaged", name, file.path().string()),
                     fmt::format("its checksum is {}, recorded is {}", checksum_text(sum), recorded->second),
                     "restore the file or export the weights again");
  }
}

std::vector<std::string> WeightFiles::damaged(std::int64_t& num_checked) const {
  std::vector<std::string> names;
  num_checked = 0;
  for (const auto& [name, place] : tensors_) {
    const SafetensorsFile& file = files_[place.file];
    const auto recorded = file.metadata().find(checksum_key(name));
    if (recorded == file.metadata().end()) continue;
    ++num_checked;
    if (recorded->second != checksum_text(file.checksum_of(place.entry))) names.push_back(name);
  }
  return names;
}

}  // namespace photon
