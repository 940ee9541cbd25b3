#include "config/model_config.hpp"

#include "config/visitors.hpp"

namespace photon {

std::int64_t ModelConfig::cumulative_chunk(std::int64_t level) const {
  std::int64_t product = 1;
  for (std::int64_t l = 1; l <= level; ++l) product *= levels[static_cast<std::size_t>(l - 1)].chunk;
  return product;
}

std::int64_t ModelConfig::decoder_positions(std::int64_t level) const {
  const LevelConfig& c = levels[static_cast<std::size_t>(level - 1)];
  return c.prefix + level_lookback(level) + c.chunk - 1;
}

bool operator==(const StackConfig& a, const StackConfig& b) {
  return a.layers == b.layers && a.heads == b.heads && a.kv_heads == b.kv_heads && a.ffn == b.ffn &&
         a.rope_theta == b.rope_theta && a.window == b.window;
}

bool operator==(const LevelConfig& a, const LevelConfig& b) {
  return a.dim == b.dim && a.chunk == b.chunk && a.prefix == b.prefix && a.encoder == b.encoder &&
         a.decoder == b.decoder;
}

bool operator==(const ModelConfig& a, const ModelConfig& b) {
  return a.type == b.type && a.vocab_size == b.vocab_size && a.dim == b.dim && a.tie_embeddings == b.tie_embeddings &&
         a.lookback == b.lookback && a.norm_eps == b.norm_eps && a.max_length == b.max_length &&
         a.tokenizer == b.tokenizer && a.start_token == b.start_token && a.levels == b.levels && a.stack == b.stack;
}

namespace config {

void check_format_version(const Document& document, const Json& object, const std::string& path) {
  const auto found = object.find("format_version");
  if (found == object.end() || !found->is_number_integer()) return;  // a type is Reader's to check
  const std::string key = join_path(path, "format_version");
  if (*found > format_version) {
    throw InputError(fmt::format("format_version {} of {}", found->dump(), document.origin(key)),
                     fmt::format("newer than the {} this photon reads", format_version), "update photon");
  }
  if (*found < 1) throw document.error(key, fmt::format("is {}", found->dump()), "formats count from 1", "correct it");
}

std::vector<std::string> model_key_paths(const std::string& path) {
  KeyNames names(path);
  for (const ModelType type : {ModelType::photon, ModelType::vanilla}) {
    ModelConfig example;
    example.type = type;
    describe(names, example);
  }
  return names.paths;
}

void read_model(const Document& document, const Json& object, const std::string& path, ModelConfig& config,
                const std::vector<std::string>& all_paths) {
  check_format_version(document, object, path);
  Reader(document, object, path, all_paths).scalar(model_type_key, config.type);
  Reader(document, object, path, all_paths).read([&](auto& v) { describe(v, config); });
  resolve_and_check(config, document, path);
}

}  // namespace config

std::string to_json_text(const ModelConfig& config) {
  config::Writer writer;
  config::describe(writer, config);
  return writer.tree.dump(2, ' ', false, config::Json::error_handler_t::replace) + "\n";
}

ModelConfig model_config_from_json(const std::string& text, const std::string& where) {
  const config::Document document = config::parse_json(text, where);
  for (const char* key : {"format_version", "model_type"}) {  // without them nothing tells what the other keys mean
    if (!document.tree.contains(key)) throw document.error(key, "is missing", "every config.json carries it", "add it");
  }
  ModelConfig result;
  config::read_model(document, document.tree, "", result, config::model_key_paths(""));
  return result;
}

}  // namespace photon
