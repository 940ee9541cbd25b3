#include "checkpoint/llama.hpp"

#include <map>
#include <nlohmann/json.hpp>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

constexpr const char* config_name = "config.json";
constexpr const char* architecture = "LlamaForCausalLM";
constexpr const char* tokenizer_model = "tokenizer.model";

Json read_config(const fs::path& folder) {
  const fs::path path = folder / config_name;
  try {
    Json json = Json::parse(read_text_file(path));
    if (json.is_object()) return json;
  } catch (const Json::exception& error) {
    throw InputError(fmt::format("cannot read {}", path.string()), error.what(), "check that the file is complete");
  }
  throw InputError(fmt::format("cannot read {}", path.string()), "it is no JSON object",
                   "check that the file is complete");
}

// config.json of the other side, key by key, with errors that name the key.
class LlamaReader {
 public:
  explicit LlamaReader(const fs::path& folder) : path_(folder / config_name), json_(read_config(folder)) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    throw InputError(fmt::format("cannot import {}", path_.parent_path().string()),
                     fmt::format("'{}' of config.json is {}: {}", key, has(key) ? json_[key].dump() : "missing", why),
                     "import a plain Llama model");
  }
  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  const Json& at(const std::string& key) const { return json_[key]; }

  std::int64_t count(const std::string& key) const {
    if (!has(key) || !json_[key].is_number_integer() || json_[key].get<std::int64_t>() < 1)
      refuse(key, "it must be a count");
    return json_[key].get<std::int64_t>();
  }
  std::int64_t count(const std::string& key, std::int64_t otherwise) const { return has(key) ? count(key) : otherwise; }
  double number(const std::string& key, double otherwise) const {
    if (!has(key)) return otherwise;
    if (!json_[key].is_number()) refuse(key, "it must be a number");
    return json_[key].get<double>();
  }
  bool flag(const std::string& key) const {
    if (!has(key)) return false;
    if (!json_[key].is_boolean()) refuse(key, "it must be true or false");
    return json_[key].get<bool>();
  }

 private:
  fs::path path_;
  Json json_;
};

// RoPE's base, wherever this version of the format keeps it; every scaling of positions is refused.
double rope_theta(const LlamaReader& json) {
  double theta = json.number("rope_theta", 10000.0);
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    if (!json.has(key)) continue;
    const Json& rope = json.at(key);
    if (!rope.is_object()) json.refuse(key, "it must be an object");
    for (const auto& [name, value] : rope.items()) {
      if (name == "rope_theta" && value.is_number()) {
        theta = value.get<double>();
      } else if (name == "partial_rotary_factor" && value.is_number() && value.get<double>() == 1.0) {
        continue;
      } else if (!(name == "rope_type" || name == "type") || value != "default") {
        json.refuse(key, "photon computes plain RoPE only");
      }
    }
  }
  return theta;
}

void refuse_other_models(const LlamaReader& json) {
  if (!json.has("model_type") || json.at("model_type") != "llama")
    json.refuse("model_type", "photon imports 'llama' only");
  if (json.has("architectures")) {
    const Json& names = json.at("architectures");
    if (!names.is_array() || names.size() != 1 || names[0] != architecture) {
      json.refuse("architectures", fmt::format("photon imports '{}' only", architecture));
    }
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (json.flag(key)) json.refuse(key, "photon's matrix products have no biases");
  }
  if (json.has("hidden_act") && json.at("hidden_act") != "silu") json.refuse("hidden_act", "photon computes silu only");
  for (const char* key : {"quantization_config", "sliding_window"}) {
    if (json.has(key)) json.refuse(key, "photon does not compute it");
  }
}

ModelConfig read_model(const LlamaReader& json, const fs::path& folder) {
  refuse_other_models(json);
  ModelConfig config;
  config.type = ModelType::vanilla;
  config.vocab_size = json.count("vocab_size");
  config.dim = json.count("hidden_size");
  config.tie_embeddings = json.flag("tie_word_embeddings");
  config.norm_eps = json.number("rms_norm_eps", 1e-6);
  config.max_length = json.count("max_position_embeddings", 0);
  config.stack.layers = json.count("num_hidden_layers");
  config.stack.heads = json.count("num_attention_heads");
  config.stack.kv_heads = json.count("num_key_value_heads", config.stack.heads);
  config.stack.ffn = json.count("intermediate_size");
  config.stack.rope_theta = rope_theta(json);
  if (config.dim % config.stack.heads != 0 ||
      json.count("head_dim", config.dim / config.stack.heads) != config.dim / config.stack.heads) {
    json.refuse("head_dim", fmt::format("photon's heads are hidden_size / num_attention_heads = {} / {} wide",
                                        config.dim, config.stack.heads));
  }
  if (json.has("bos_token_id") && json.at("bos_token_id").is_number_integer()) {
    config.start_token = json.at("bos_token_id").get<std::int64_t>();
  }
  if (fs::is_regular_file(folder / tokenizer_model)) config.tokenizer = tokenizer_model;
  if (json.has("photon")) {  // what export_llama remembers
    const Json& own = json.at("photon");
    if (!own.is_object()) json.refuse("photon", "it must be an object");
    try {
      config.tokenizer = own.value("tokenizer", config.tokenizer);
      config.max_length = own.value("max_length", config.max_length);
      config.start_token = own.value("start_token", config.start_token);
    } catch (const Json::exception&) {
      json.refuse("photon", "its values have the wrong types");
    }
  }
  return config;
}

// Files of other programs hold a few tensors besides the parameters.
bool is_known_extra(const std::string& name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tie_embeddings && name == "lm_head.weight");
}

}  // namespace

void export_llama(const fs::path& folder, const ModelConfig& config, const Parameters& parameters, DType dtype,
                  const LlamaTokens& tokens, const fs::path& tokenizer_file) {
  if (config.type != ModelType::vanilla) {
    throw InputError("a photon model cannot be exported to the Hugging Face form", "it is no LlamaForCausalLM",
                     "export it with --format photon");
  }
  const std::int64_t length = config.max_length > 0 ? config.max_length : llama_max_positions;
  Json json = {{"architectures", {architecture}},
               {"model_type", "llama"},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.dim},
               {"intermediate_size", config.stack.ffn},
               {"num_hidden_layers", config.stack.layers},
               {"num_attention_heads", config.stack.heads},
               {"num_key_value_heads", config.stack.kv_heads},
               {"head_dim", config.dim / config.stack.heads},
               {"hidden_act", "silu"},
               {"rms_norm_eps", config.norm_eps},
               {"rope_theta", config.stack.rope_theta},
               {"max_position_embeddings", length},
               {"tie_word_embeddings", config.tie_embeddings},
               {"attention_bias", false},
               {"mlp_bias", false},
               {"torch_dtype", dtype == DType::f32 ? "float32" : "bfloat16"}};
  // Said even when unknown: readers would put in Llama's own ids.
  const auto id = [](std::int64_t token) { return token < 0 ? Json() : Json(token); };
  json["bos_token_id"] = id(tokens.bos);
  json["eos_token_id"] = id(tokens.eos);
  json["pad_token_id"] = id(tokens.pad);
  json["photon"] = {
      {"tokenizer", config.tokenizer}, {"max_length", config.max_length}, {"start_token", config.start_token}};
  const std::string text = json.dump(2) + "\n";
  const bool has_file = !config.tokenizer.empty() && config.tokenizer != "byte";
  const std::string tokenizer = has_file ? read_text_file(tokenizer_file) : "";
  write_folder(folder, [&](const fs::path& to) {
    publish_file(to / config_name, text, "weights.config");
    if (has_file) publish_file(to / config.tokenizer, tokenizer, "tokenizer");
    write_sharded(to, named_tensors(parameters), dtype, {});
  });
}

bool is_hugging_face_folder(const fs::path& folder) {
  if (!fs::is_regular_file(folder / config_name)) return false;
  const Json json = read_config(folder);
  return !json.contains("format_version") && (json.contains("architectures") || json.contains("model_type"));
}

LoadedModel import_llama(const fs::path& folder) {
  const LlamaReader json(folder);
  LoadedModel model;
  model.folder = folder;
  model.config = read_model(json, folder);
  validate(model.config);
  if (model.config.tokenizer.empty()) {
    log_warning("{} holds no {}: the imported model takes token ids only", folder.string(), tokenizer_model);
  }
  tokenizer_path(model.config, folder);
  WeightFiles files(folder);
  model.parameters = Parameters(model.config, Space::host, "the weights of " + folder.string());
  for (const auto& [name, place] : std::map(files.tensors())) {
    if (!is_known_extra(name, model.config)) continue;
    if (name == "lm_head.weight") {
      std::vector<float> head(static_cast<std::size_t>(place.entry.numel()));
      std::vector<float> embedding(head.size());
      const auto found = files.tensors().find("model.embed_tokens.weight");
      if (found == files.tensors().end() || found->second.entry.shape != place.entry.shape) continue;
      files.read(name, head.data());
      files.read("model.embed_tokens.weight", embedding.data());
      if (head != embedding) json.refuse("tie_word_embeddings", "but lm_head.weight differs from the embedding");
    }
    files.ignore(name);
  }
  read_parameters(files, folder, model.parameters);
  return model;
}

}  // namespace photon
