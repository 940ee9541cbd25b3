#include "config/run_config.hpp"

#include <algorithm>
#include <cstdlib>

#include "config/visitors.hpp"

namespace photon {
namespace config {
namespace {

// Values of `over` replace those of `base`; sections merge key by key, lists are replaced whole.
void merge(Json& base, const Json& over) {
  if (!base.is_object() || !over.is_object()) {
    base = over;
    return;
  }
  for (const auto& entry : over.items()) merge(base[entry.key()], entry.value());
}

Json preset_tree(const Document& document, const std::string& path, const Json& name) {
  if (!name.is_string()) {
    throw document.error(path, fmt::format("is {}", quote(name)), "it must be the name of a preset", "change it");
  }
  Writer writer;
  try {
    describe(writer, static_cast<const ModelConfig&>(preset(name.get<std::string>())));
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}: {}", document.origin(path), e.what()), "", "");
  }
  return std::move(writer.tree);
}

// Puts the preset's keys below the file's own ones and removes the key `preset`.
void resolve_preset(Document& document) {
  Json& tree = document.tree;
  const bool at_root = tree.contains("preset");
  Json model = tree.contains("model") ? tree["model"] : Json();
  const bool in_model = model.is_object() && model.contains("preset");
  if (!at_root && !in_model) return;
  if (at_root && in_model) {
    throw document.error("preset", "is given twice", fmt::format("also at {}", document.origin("model.preset")),
                         "keep one of them");
  }
  if (!model.is_null() && !model.is_object()) return;  // Reader's to refuse
  const std::string path = at_root ? "preset" : "model.preset";
  Json base = preset_tree(document, path, at_root ? tree["preset"] : model["preset"]);
  if (at_root) tree.erase("preset");
  if (in_model) model.erase("preset");
  if (!model.is_null()) merge(base, model);
  tree["model"] = std::move(base);
}

bool chooses_preset(const Override& change) {
  return change.path.back() == "preset" || (change.path.size() == 1 && change.path[0] == "model");
}

// The file with its overrides; presets are chosen first, as they are what everything else starts from.
Document resolve_document(const std::string& yaml, const std::string& where,
                          const std::vector<std::string>& overrides) {
  Document document = parse_yaml(yaml, where);
  document.presets = true;
  check_format_version(document, document.tree, "");
  std::vector<Override> changes;
  for (const std::string& text : overrides) changes.push_back(parse_override(text));
  for (const Override& change : changes) {
    if (!chooses_preset(change)) continue;
    document.tree.erase("preset");  // the last one named counts, wherever the file has its own
    if (document.tree.contains("model") && document.tree["model"].is_object()) document.tree["model"].erase("preset");
    apply(document, change);
  }
  resolve_preset(document);
  for (const Override& change : changes) {
    if (!chooses_preset(change)) apply(document, change);
  }
  check_format_version(document, document.tree, "");
  return document;
}

void check_data(const RunConfig& c, const Document& source) {
  if (c.data.train.empty()) throw source.error("data.train", "names no file", "training needs one", "add it");
  if (c.data.document_mask != "none") {
    throw source.error("data.document_mask", fmt::format("is {}", quote(c.data.document_mask)), "only none is known",
                       "use none");
  }
}

void check_train(const RunConfig& c, const Document& source) {
  const TrainConfig& t = c.train;
  const auto at_most = [&](const char* key, auto value, const char* limit_key, auto limit) {
    if (value <= limit) return;
    throw source.error(key, fmt::format("is {}", value), fmt::format("it must be at most {}, {}", limit_key, limit),
                       "lower it");
  };
  at_most("train.warmup_steps", t.warmup_steps, "train.steps", t.steps);
  at_most("train.min_learning_rate", t.min_learning_rate, "train.learning_rate", t.learning_rate);
  if (c.model.max_length > 0)
    at_most("train.sequence_length", t.sequence_length, "model.max_length", c.model.max_length);
  at_most("parallel.microbatch_size", c.parallel.microbatch_size, "train.batch_size", t.batch_size);
  if (c.parallel.data > 0 && t.batch_size % c.parallel.data != 0) {
    throw source.error("train.batch_size", fmt::format("is {}", t.batch_size),
                       fmt::format("it must be a multiple of parallel.data, {}", c.parallel.data),
                       "change one of them");
  }
}

// Defaults that follow another key; a key that the file names stays as it is.
void fill_train_defaults(const Json& tree, TrainConfig& t) {
  const Json train = tree.contains("train") && tree["train"].is_object() ? tree["train"] : Json::object();
  if (!train.contains("min_learning_rate")) {
    // Rounded in decimal, so that a tenth of 3e-4 is 3e-5.
    t.min_learning_rate = std::strtod(fmt::format("{:.12g}", t.learning_rate / 10).c_str(), nullptr);
  }
  if (!train.contains("warmup_steps")) t.warmup_steps = std::min<std::int64_t>(100, t.steps / 10);
}

std::vector<std::string> all_key_paths() {
  RunConfig example;
  KeyNames names;
  describe_run(names, example);
  std::vector<std::string> paths = model_key_paths("model");
  paths.insert(paths.end(), names.paths.begin(), names.paths.end());
  return paths;
}

const Json& section(const Document& document, const char* name) {
  static const Json empty = Json::object();
  const auto found = document.tree.find(name);
  return found != document.tree.end() && found->is_object() ? *found : empty;
}

}  // namespace
}  // namespace config

RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides) {
  const config::Document document = config::resolve_document(yaml, where, overrides);
  RunConfig result;
  const config::Json& model = config::section(document, "model");
  config::check_format_version(document, model, "model");
  const std::vector<std::string> paths = config::all_key_paths();
  config::Reader(document, model, "model", paths).scalar(config::model_type_key, result.model.type);
  config::Reader(document, document.tree, "", paths).read([&](auto& v) { config::describe_run(v, result); });
  config::fill_train_defaults(document.tree, result.train);
  config::resolve_and_check(result.model, document, "model");
  config::Checker ranges(document, "");
  config::describe_run(ranges, static_cast<const RunConfig&>(result));
  config::check_data(result, document);
  config::check_train(result, document);
  return result;
}

RunConfig load_run_config(const std::string& file, const std::vector<std::string>& overrides) {
  return parse_run_config(config::read_text_file(file), file, overrides);
}

ModelConfig load_model_section(const std::string& file, const std::vector<std::string>& overrides) {
  const config::Document document = config::resolve_document(config::read_text_file(file), file, overrides);
  const std::vector<std::string> paths = config::all_key_paths();
  for (const auto& entry : document.tree.items()) {
    if (std::find(paths.begin(), paths.end(), entry.key()) != paths.end()) continue;
    RunConfig unused;  // an unknown section: let the reader of whole files word the error
    config::Reader(document, document.tree, "", paths).read([&](auto& v) { config::describe_run(v, unused); });
  }
  const auto found = document.tree.find("model");
  if (found == document.tree.end() || !found->is_object()) {
    throw document.error("model", "is missing", "it has no default", "add the section, or preset: NAME");
  }
  ModelConfig result;
  config::read_model(document, *found, "model", result, paths);
  return result;
}

const char* name_of(Device device) {
  return config::Words<Device>::values[static_cast<std::size_t>(device)];
}

const char* name_of(Precision precision) {
  return config::Words<Precision>::values[static_cast<std::size_t>(precision)];
}

const char* name_of(SplitBackward split) {
  return config::Words<SplitBackward>::values[static_cast<std::size_t>(split)];
}

const char* name_of(Recompute recompute) {
  return config::Words<Recompute>::values[static_cast<std::size_t>(recompute)];
}

std::string to_yaml(const RunConfig& config) {
  config::Writer writer;
  config::describe_run(writer, config);
  return config::to_yaml_text(writer.tree);
}

}  // namespace photon
