// photon inspect: what a model or a data file is.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/flops.hpp"
#include "checkpoint/checkpoint.hpp"
#include "cli/commands.hpp"
#include "data/dataset.hpp"
#include "storage/hdf5.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

// "levels.0.encoder.layers.3.attn.q_proj.weight" belongs to "levels.0.encoder".
std::string part_of(const std::string& name) {
  if (name.starts_with("levels.")) {
    const auto level = name.find('.', 7);
    return name.substr(0, name.find('.', level + 1));
  }
  if (name.starts_with("model.layers.")) return "model.layers";
  const std::string suffix = ".weight";
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
}

// The length of the sequences that FLOPs are said of: attention makes them grow with it.
constexpr std::int64_t flops_tokens = 2048;

Json describe_model(const std::string& path) {
  const LoadedModel model = resolve_model(path);
  const std::vector<ParameterSpec>& specs = model.parameters.specs();
  Json parts = Json::object();
  Json tensors = Json::array();
  std::int64_t total = 0;
  for (const ParameterSpec& spec : specs) {
    const std::string part = part_of(spec.name);
    parts[part] = parts.value(part, std::int64_t{0}) + spec.numel();
    tensors.push_back({{"name", spec.name}, {"shape", spec.shape}});
    total += spec.numel();
  }
  Json result = {{"kind", "model"}, {"path", path}};
  if (model.step >= 0) result["step"] = model.step;
  result["config"] = Json::parse(to_json_text(model.config));
  result["num_parameters"] = total;
  result["parameters"] = parts;
  result["hash"] = weights_hash(model.parameters);
  const auto tokens = static_cast<double>(flops_tokens);
  result["forward_gflops_per_token"] = forward_flops(model.config, flops_tokens).total() / tokens / 1e9;
  // Training keeps parameters, gradients and two moments in fp32.
  result["memory_bytes"] = {{"weights_fp32", total * 4}, {"weights_bf16", total * 2}, {"training_state", total * 16}};
  result["tensors"] = tensors;
  return result;
}

Json describe_data(const fs::path& path) {
  const Hdf5File file = Hdf5File::open(path);
  Json datasets = Json::array();
  for (const std::string& name : file.datasets()) {
    const Shape shape = file.shape(name);
    Json sizes = Json::array();
    for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
    datasets.push_back({{"name", name}, {"dtype", name_of(file.dtype(name))}, {"shape", sizes}});
  }
  Json result = {{"kind", "hdf5"}, {"path", path.string()}};
  if (file.has("tokens") && file.has("document_offsets")) {
    const TokenFile data = TokenFile::open(path);
    result["kind"] = "data";
    result["tokenizer"] = data.tokenizer();
    result["tokenizer_hash"] = data.tokenizer_hash();
    result["vocab_size"] = data.vocab_size();
    result["num_tokens"] = data.num_tokens();
    result["num_bytes"] = data.num_bytes();
    result["num_documents"] = data.num_documents();
    result["has_loss_mask"] = data.has_loss_mask();
  }
  result["datasets"] = datasets;
  return result;
}

std::string readable_bytes(std::int64_t bytes) {
  return bytes < 1'000'000 ? fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3)
                           : fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

// A line a tensor, where all layers of a stack have the same ones a line for all: "layers.{0..3}.".
std::vector<std::string> tensor_lines(const Json& tensors) {
  static constexpr std::string_view word = "layers.";
  struct Line {
    std::string before;
    std::string after;
    std::int64_t first = 0;
    std::int64_t last = 0;
    bool in_layer = false;
  };
  std::vector<Line> lines;
  for (const Json& tensor : tensors) {
    const std::string text = tensor["name"].get<std::string>() + " " + tensor["shape"].dump();
    const auto at = text.find(word);
    if (at == std::string::npos) {
      lines.push_back({text, "", 0, 0, false});
      continue;
    }
    const auto begin = at + word.size();
    const auto end = text.find('.', begin);
    const Line line{text.substr(0, begin), text.substr(end), std::stoll(text.substr(begin, end - begin)), 0, true};
    const auto found = std::find_if(lines.begin(), lines.end(), [&](const Line& other) {
      return other.in_layer && other.before == line.before && other.after == line.after && other.last + 1 == line.first;
    });
    if (found == lines.end()) {
      lines.push_back(line);
      lines.back().last = line.first;
    } else {
      found->last = line.first;
    }
  }
  std::vector<std::string> texts;
  for (const Line& line : lines) {
    const std::string range =
        line.first == line.last ? std::to_string(line.first) : fmt::format("{{{}..{}}}", line.first, line.last);
    texts.push_back(line.in_layer ? line.before + range + line.after : line.before);
  }
  return texts;
}

void print_model(const Json& json) {
  std::cout << fmt::format("{}: a {} model", json["path"].get<std::string>(),
                           json["config"]["model_type"].get<std::string>());
  if (json.contains("step")) std::cout << fmt::format(", step {}", json["step"].get<std::int64_t>());
  std::cout << fmt::format("\nhash {}\n", json["hash"].get<std::string>());
  std::cout << fmt::format("{} parameters: {} in fp32, {} in bf16, {} to train\n",
                           json["num_parameters"].get<std::int64_t>(),
                           readable_bytes(json["memory_bytes"]["weights_fp32"].get<std::int64_t>()),
                           readable_bytes(json["memory_bytes"]["weights_bf16"].get<std::int64_t>()),
                           readable_bytes(json["memory_bytes"]["training_state"].get<std::int64_t>()));
  std::cout << fmt::format("{:.3g} GFLOP a token forward, in sequences of {} tokens\n",
                           json["forward_gflops_per_token"].get<double>(), flops_tokens);
  for (const auto& [part, count] : json["parameters"].items()) {
    std::cout << fmt::format("  {:<24} {:>14}\n", part, count.get<std::int64_t>());
  }
  std::cout << "tensors\n";
  for (const std::string& line : tensor_lines(json["tensors"])) std::cout << "  " << line << "\n";
  std::cout << "config " << json["config"].dump(2) << std::endl;
}

void print_plain(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (key == "datasets") continue;
    std::cout << fmt::format("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  std::cout << "datasets\n";
  for (const Json& dataset : json["datasets"]) {
    std::cout << fmt::format("  {} {} {}\n", dataset["name"].get<std::string>(), dataset["dtype"].get<std::string>(),
                             dataset["shape"].dump());
  }
  std::cout << std::flush;
}

}  // namespace

void add_inspect(CLI::App& app) {
  struct Options {
    std::string model;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect",
                         "Describes a model (type, parameters by part, shapes, FLOPs, hash, step, memory) or "
                         "an HDF5 file (data sets, tokenizer).");
  command->footer(
      "Examples:\n  photon inspect --model runs/first\n  photon inspect --model data/king-james/train.h5 --json");
  command->add_option("--model", options->model, "weights folder, checkpoint, run folder, or a .h5 file")
      ->type_name("PATH")
      ->required();
  command->add_flag("--json", options->json, "print JSON");
  command->callback([options] {
    const bool is_file = fs::is_regular_file(options->model);
    const Json json = is_file ? describe_data(options->model) : describe_model(options->model);
    if (options->json) {
      std::cout << json.dump(2) << std::endl;
    } else if (is_file) {
      print_plain(json);
    } else {
      print_model(json);
    }
  });
}

}  // namespace photon::cli
