#include "checkpoint/weights.hpp"

#include <system_error>

#include "config/nearest.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {

constexpr const char* config_name = "config.json";

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool needs_tokenizer_file(const ModelConfig& config) {
  return !config.tokenizer.empty() && config.tokenizer != "byte";
}

void check_tokenizer_name(const ModelConfig& config) {
  const fs::path name = config.tokenizer;
  if (name.filename() != name || name == "." || name == "..") {
    throw InputError(fmt::format("tokenizer '{}' of config.json is refused", config.tokenizer),
                     "it must be a plain file name", "put the file beside config.json and name it there");
  }
}

}  // namespace

std::vector<NamedTensor> named_tensors(const Parameters& parameters) {
  std::vector<NamedTensor> tensors;
  for (const ParameterSpec& spec : parameters.specs()) {
    tensors.push_back({spec.name, spec.shape, parameters.view(spec.name).host<float>()});
  }
  return tensors;
}

fs::path tokenizer_path(const ModelConfig& config, const fs::path& folder) {
  if (!needs_tokenizer_file(config)) return {};
  check_tokenizer_name(config);
  const fs::path file = folder / config.tokenizer;
  if (!fs::is_regular_file(file)) {
    throw InputError(fmt::format("the tokenizer's file {} is missing", file.string()), "config.json names it",
                     "put it there; it is the file that the training data was prepared with");
  }
  return file;
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  publish_file(to, read_text_file(from), "tokenizer");
}

void write_folder(const fs::path& folder, const std::function<void(const fs::path&)>& write) {
  fs::path target = folder;
  if (!target.has_filename()) target = target.parent_path();  // "out/" means "out"
  const bool exists = fs::exists(fs::symlink_status(target));
  if (exists && !fs::is_regular_file(target / config_name)) {
    throw InputError(fmt::format("cannot write weights to {}", target.string()), "it exists and is no weights folder",
                     "name a new folder");
  }
  fs::path temporary = target;
  temporary += ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);  // left by a crash
  if (!error) fs::create_directories(temporary, error);
  if (error) throw_io_error("create", temporary, error.value());
  try {
    fault_point("weights.begin");
    write(temporary);
    fault_point("weights.data");
    replace_folder(temporary, target, "weights");
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

void save_weights_folder(const fs::path& folder, const ModelConfig& config, const Parameters& parameters, DType dtype,
                         const fs::path& tokenizer_file, std::uint64_t shard_bytes) {
  if (needs_tokenizer_file(config)) {
    check_tokenizer_name(config);
    if (!fs::is_regular_file(tokenizer_file)) {
      throw InputError(fmt::format("the tokenizer's file '{}' is missing", tokenizer_file.string()),
                       fmt::format("the model names the tokenizer '{}'", config.tokenizer), "put the file there");
    }
  }
  // Read first: the file may lie in the folder that is to be replaced.
  const std::string tokenizer = needs_tokenizer_file(config) ? read_text_file(tokenizer_file) : "";
  const std::string config_text = to_json_text(config);
  std::map<std::string, std::string> metadata = {
      {"photon.config", checksum_text(checksum(config_text.data(), config_text.size()))}};
  if (needs_tokenizer_file(config))
    metadata["photon.tokenizer"] = checksum_text(checksum(tokenizer.data(), tokenizer.size()));
  write_folder(folder, [&](const fs::path& to) {
    publish_file(to / config_name, config_text, "weights.config");
    if (needs_tokenizer_file(config)) publish_file(to / config.tokenizer, tokenizer, "tokenizer");
    write_sharded(to, named_tensors(parameters), dtype, metadata, shard_bytes);
  });
}

void read_parameters(const WeightFiles& files, const fs::path& folder, Parameters& parameters) {
  const auto fail = [&](const std::string& problem, const std::string& why) {
    throw InputError(problem + " in " + folder.string(), why, "check that config.json and the weights belong together");
  };
  std::vector<std::string> known;
  for (const ParameterSpec& spec : parameters.specs()) {
    known.push_back(spec.name);
    const auto found = files.tensors().find(spec.name);
    if (found == files.tensors().end()) {
      fail(fmt::format("tensor '{}' is missing", spec.name),
           fmt::format("the model needs it, of shape {}", shape_text(spec.shape)));
    }
    if (found->second.entry.shape != spec.shape) {
      fail(fmt::format("tensor '{}' has the wrong shape", spec.name),
           fmt::format("{} is found, {} is needed", shape_text(found->second.entry.shape), shape_text(spec.shape)));
    }
  }
  for (const auto& [name, place] : files.tensors()) {
    if (!parameters.has(name)) {
      fail(fmt::format("tensor '{}' is unknown", name),
           fmt::format("the model of config.json has none of that name; the nearest is '{}'", nearest(name, known)));
    }
  }
  for (const ParameterSpec& spec : parameters.specs()) files.read(spec.name, parameters.view(spec.name).host<float>());
}

LoadedModel load_weights(const fs::path& folder, const WantedParameters& wanted) {
  const fs::path config_file = folder / config_name;
  LoadedModel model;
  model.folder = folder;
  model.config = model_config_from_json(read_text_file(config_file), config_file.string());
  model.parameters = Parameters(wanted(model.config), Space::host, "the weights of " + folder.string());
  WeightFiles files(folder);
  for (const ParameterSpec& spec : parameters(model.config)) {
    if (!model.parameters.has(spec.name)) files.ignore(spec.name);
  }
  read_parameters(files, folder, model.parameters);
  return model;
}

std::vector<std::string> verify_weights(const fs::path& folder) {
  std::vector<std::string> problems;
  try {
    const WeightFiles files(folder);
    std::int64_t num_checked = 0;
    for (const std::string& name : files.damaged(num_checked)) {
      problems.push_back(
          fmt::format("tensor '{}' in {} does not have the checksum it was written with", name, folder.string()));
    }
    if (!problems.empty()) return problems;
    const LoadedModel model = load_weights(folder);
    const auto check = [&](const char* key, const fs::path& file) {
      for (const SafetensorsFile& weights : files.files()) {
        const auto recorded = weights.metadata().find(key);
        if (recorded == weights.metadata().end() || recorded->second == checksum_text(checksum_file(file))) continue;
        problems.push_back(fmt::format("{} is not the file that the weights were written with", file.string()));
        return;
      }
    };
    check("photon.config", folder / config_name);
    const fs::path tokenizer = tokenizer_path(model.config, folder);
    if (!tokenizer.empty()) check("photon.tokenizer", tokenizer);
  } catch (const Error& error) {
    problems.emplace_back(error.what());
  }
  return problems;
}

std::string weights_hash(const Parameters& parameters) {
  std::string lines;
  for (const ParameterSpec& spec : parameters.specs()) {
    const TensorView values = parameters.view(spec.name);
    lines += fmt::format("{} {} {}\n", spec.name, shape_text(spec.shape),
                         checksum_text(checksum(values.data(), static_cast<std::uint64_t>(values.bytes()))));
  }
  return checksum_text(checksum(lines.data(), lines.size()));
}

}  // namespace photon
