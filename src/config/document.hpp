// A configuration file as a tree of values, with where each value came from. Internal to this room.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/error.hpp"

namespace photon::config {

using Json = nlohmann::ordered_json;

// "levels[1]" + "encoder" -> "levels[1].encoder"; "" + "train" -> "train".
std::string join_path(const std::string& parent, const std::string& key);
std::string join_path(const std::string& parent, std::size_t index);

// A short quotation of a value for messages.
std::string quote(const Json& value);

struct Document {
  Json tree = Json::object();
  std::string where;                           // the file's name, for messages
  std::map<std::string, std::string> origins;  // path of a value -> "run.yaml:12" or "--set train.steps=10"
  bool presets = false;                        // `preset` is a key of the root and of `model`

  // Where the value at `path` was written: its own origin, else that of the nearest enclosing section, else the file.
  std::string origin(const std::string& path) const;

  // An InputError about one key: "<path> <problem> (<origin>: <why>) <remedy>".
  InputError error(const std::string& path, const std::string& problem, const std::string& why,
                   const std::string& remedy) const;
};

// Errors: InputError for a text that is not one YAML (JSON) document, for a key given twice, for a root that is no
// section.
Document parse_yaml(const std::string& text, const std::string& where);
Document parse_json(const std::string& text, const std::string& where);

// "train.steps=10": sets one value, parsed as YAML. List entries are addressed as levels.0 or levels[0].
struct Override {
  std::string text;
  std::vector<std::string> path;  // ["train", "steps"]
  Json value;
};
Override parse_override(const std::string& text);
void apply(Document& document, const Override& change);

// The whole file as text. Errors: InputError when it cannot be read.
std::string read_text_file(const std::string& file);

// The tree as YAML in block style; doubles in the shortest form that reads back to the same value.
std::string to_yaml_text(const Json& tree);

}  // namespace photon::config
