// The visitors of the table of keys (config/keys.hpp) that read, write and check a configuration. Internal to this
// room.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "config/document.hpp"
#include "config/keys.hpp"
#include "config/nearest.hpp"

namespace photon::config {

// Larger bounds only keep sizes representable; they are named to those who exceed them.
inline constexpr double telling_bound = 1e4;

// What a value of this type and range is called: "an integer, at least 1, at most 64", "one of cosine, wsd".
template <class T>
std::string describe_type(const Key& key, bool every_bound = false) {
  if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "a text";
  } else if constexpr (std::is_enum_v<T>) {
    return fmt::format("one of {}", fmt::join(Words<T>::values, ", "));
  } else {
    std::string text = std::is_floating_point_v<T> ? "a number" : "an integer";
    if (std::isfinite(key.min)) text += fmt::format("{} {}", key.min_excluded ? " above" : ", at least", key.min);
    if (std::isfinite(key.max) && (every_bound || key.max < telling_bound)) {
      text += fmt::format("{} {:.15g}", key.max_excluded ? ", below" : ", at most", key.max);
    }
    return text;
  }
}

// The names of an object's own keys; `paths` also those of all objects inside, as dotted paths.
class KeyNames {
 public:
  std::vector<std::string> names;
  std::vector<std::string> paths;

  explicit KeyNames(std::string path = "") : path_(std::move(path)) {}

  template <class T>
  void scalar(const Key& key, T&) {
    add(key);
  }
  template <class T>
  void files(const Key& key, T&) {
    add(key);
  }
  template <class Inner>
  void group(const Key& key, Inner inner) {
    KeyNames nested(add(key));
    inner(nested);
    paths.insert(paths.end(), nested.paths.begin(), nested.paths.end());
  }
  template <class List, class Inner>
  void list(const Key& key, List&, Inner) {
    add(key);
  }

 private:
  std::string add(const Key& key) {
    names.emplace_back(key.name);
    paths.push_back(join_path(path_, key.name));
    return paths.back();
  }
  std::string path_;
};

// Reads one object of a document; keys that are absent leave the value as it is. Types are checked here, ranges by
// Checker.
class Reader {
 public:
  // `all_paths`: every key of the whole document, for hints about keys in the wrong section.
  Reader(const Document& document, const Json& object, std::string path, const std::vector<std::string>& all_paths)
      : document_(document), object_(object), path_(std::move(path)), all_paths_(all_paths) {}

  // Reads all of `describe(visitor)`'s keys and refuses others.
  template <class Describe>
  void read(Describe describe_keys) {
    KeyNames known(path_);
    describe_keys(known);
    reject_unknown(known);
    describe_keys(*this);
  }

  template <class T>
  void scalar(const Key& key, T& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if constexpr (std::is_same_v<T, std::string>) {
      if (found->is_null() && !key.is_required) {  // "cut:", --set parallel.cut=
        value.clear();
        return;
      }
    }
    const std::optional<T> parsed = parse<T>(*found);
    if (!parsed) throw wrong_type(key, *found, describe_type<T>(key));
    value = *parsed;
  }

  void files(const Key& key, std::vector<DataFile>& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    value.clear();
    if (found->is_null()) return;
    if (found->is_string()) {
      value.push_back({found->get<std::string>(), 1.0});
      return;
    }
    if (!found->is_array()) throw wrong_type(key, *found, "a file or a list of files");
    for (std::size_t i = 0; i < found->size(); ++i) {
      const Json& entry = (*found)[i];
      DataFile file;
      if (entry.is_string()) {
        file.file = entry.get<std::string>();
      } else {
        const std::string path = join_path(join_path(path_, key.name), i);
        if (!entry.is_object()) {
          throw document_.error(path, fmt::format("is {}", quote(entry)), "it must be a file or {file, weight}",
                                "change it");
        }
        Reader(document_, entry, path, all_paths_).read([&](auto& v) { describe_file(v, file); });
      }
      value.push_back(file);
    }
  }

  template <class Inner>
  void group(const Key& key, Inner inner) {
    static const Json empty = Json::object();
    const Json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_object() && !found->is_null()) throw wrong_type(key, *found, "a section");
    Reader(document_, found->is_null() ? empty : *found, join_path(path_, key.name), all_paths_).read(inner);
  }

  template <class Item, class Inner>
  void list(const Key& key, std::vector<Item>& value, Inner inner) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_array()) throw wrong_type(key, *found, "a list");
    value.assign(found->size(), Item{});
    for (std::size_t i = 0; i < value.size(); ++i) {
      const std::string path = join_path(join_path(path_, key.name), i);
      if (!(*found)[i].is_object()) {
        throw document_.error(path, fmt::format("is {}", quote((*found)[i])), "it must be a section", "change it");
      }
      Reader(document_, (*found)[i], path, all_paths_).read([&](auto& v) { inner(v, value[i]); });
    }
  }

 private:
  template <class V, class File>
  static void describe_file(V& v, File& file) {
    v.scalar(Key("file", "", "").required(), file.file);
    v.scalar(Key("weight", "", "").above(0), file.weight);
  }

  const Json* find(const Key& key) const {
    const auto found = object_.find(key.name);
    if (found != object_.end()) return &*found;
    if (key.is_required) {
      throw document_.error(join_path(path_, key.name), "is missing", "it has no default", "add it");
    }
    return nullptr;
  }

  InputError wrong_type(const Key& key, const Json& found, const std::string& expected) const {
    return document_.error(join_path(path_, key.name), fmt::format("is {}", quote(found)),
                           fmt::format("it must be {}", expected), "change it");
  }

  template <class T>
  static std::optional<T> parse(const Json& value) {
    if constexpr (std::is_same_v<T, bool>) {
      if (value.is_boolean()) return value.get<bool>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (value.is_string()) return value.get<std::string>();
    } else if constexpr (std::is_enum_v<T>) {
      for (std::size_t i = 0; i < Words<T>::values.size(); ++i) {
        if (value == Words<T>::values[i]) return static_cast<T>(i);
      }
    } else if constexpr (std::is_floating_point_v<T>) {
      if (value.is_number()) return value.get<T>();
    } else if (value.is_number_unsigned()) {
      const auto number = value.get<std::uint64_t>();
      if (number <= static_cast<std::uint64_t>(std::numeric_limits<T>::max())) return static_cast<T>(number);
    } else if (value.is_number_integer()) {
      const auto number = value.get<std::int64_t>();
      if (std::is_signed_v<T> || number >= 0) return static_cast<T>(number);
    } else if (value.is_number_float()) {  // 1e4 steps
      const double number = value.get<double>();
      if (number >= (std::is_signed_v<T> ? -0x1p53 : 0) && number <= 0x1p53 && std::trunc(number) == number) {
        return static_cast<T>(number);
      }
    }
    return std::nullopt;
  }

  // The first path that ends in `word`: the right word in the wrong section.
  static std::string same_word(const std::string& word, const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      const auto dot = path.rfind('.');
      if (path.compare(dot == std::string::npos ? 0 : dot + 1, std::string::npos, word) == 0) return path;
    }
    return "";
  }

  void reject_unknown(const KeyNames& known) const {
    for (const auto& entry : object_.items()) {
      if (std::find(known.names.begin(), known.names.end(), entry.key()) != known.names.end()) continue;
      const std::string path = join_path(path_, entry.key());
      if (std::find(all_paths_.begin(), all_paths_.end(), path) != all_paths_.end()) {
        throw document_.error(path, "is out of place", "models of this model_type have no such key",
                              "remove it or change model_type");
      }
      std::string hint = same_word(entry.key(), known.paths);
      if (hint.empty()) hint = same_word(entry.key(), all_paths_);
      if (hint.empty()) {
        std::vector<std::string> candidates = known.names;
        if (document_.presets && (path_.empty() || path_ == "model")) candidates.emplace_back("preset");
        hint = join_path(path_, nearest(entry.key(), candidates));
      }
      throw InputError(
          fmt::format("unknown key {}", path),
          fmt::format("{}: {} has no such key", document_.origin(path), path_.empty() ? "the file" : path_),
          fmt::format("did you mean {}?", hint));
    }
  }

  const Document& document_;
  const Json& object_;
  std::string path_;
  const std::vector<std::string>& all_paths_;
};

// Writes every key.
class Writer {
 public:
  Json tree = Json::object();

  template <class T>
  void scalar(const Key& key, const T& value) {
    if constexpr (std::is_enum_v<T>)
      tree[key.name] = Words<T>::values[static_cast<std::size_t>(value)];
    else
      tree[key.name] = value;
  }
  void files(const Key& key, const std::vector<DataFile>& value) {
    Json list = Json::array();
    for (const DataFile& file : value) list.push_back({{"file", file.file}, {"weight", file.weight}});
    tree[key.name] = std::move(list);
  }
  template <class Inner>
  void group(const Key& key, Inner inner) {
    Writer nested;
    inner(nested);
    tree[key.name] = std::move(nested.tree);
  }
  template <class Item, class Inner>
  void list(const Key& key, const std::vector<Item>& value, Inner inner) {
    Json list = Json::array();
    for (const Item& item : value) {
      Writer nested;
      inner(nested, item);
      list.push_back(std::move(nested.tree));
    }
    tree[key.name] = std::move(list);
  }
};

// Checks every number against the range of its key.
class Checker {
 public:
  Checker(const Document& source, std::string path) : source_(source), path_(std::move(path)) {}

  template <class T>
  void scalar(const Key& key, const T& value) {
    if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
      const double x = static_cast<double>(value);
      const bool inside =
          (key.min_excluded ? x > key.min : x >= key.min) && (key.max_excluded ? x < key.max : x <= key.max);
      if (inside && std::isfinite(x)) return;
      throw source_.error(join_path(path_, key.name), fmt::format("is {}", value),
                          fmt::format("it must be {}", describe_type<T>(key, x > telling_bound)), "change it");
    }
  }
  void files(const Key& key, const std::vector<DataFile>& value) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      const std::string path = join_path(join_path(path_, key.name), i);
      if (value[i].file.empty()) throw source_.error(path, "names no file", "the name is empty", "name one");
      if (!(value[i].weight > 0) || !std::isfinite(value[i].weight)) {
        throw source_.error(join_path(path, "weight"), fmt::format("is {}", value[i].weight),
                            "it must be a number above 0", "change it");
      }
    }
  }
  template <class Inner>
  void group(const Key& key, Inner inner) {
    Checker nested(source_, join_path(path_, key.name));
    inner(nested);
  }
  template <class Item, class Inner>
  void list(const Key& key, const std::vector<Item>& value, Inner inner) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      Checker nested(source_, join_path(join_path(path_, key.name), i));
      inner(nested, value[i]);
    }
  }

 private:
  const Document& source_;
  std::string path_;
};

// Everything a model needs beyond the types of its keys; `path` is "model" in a YAML file and "" in config.json.
void resolve_and_check(ModelConfig& config, const Document& source, const std::string& path);

// Refuses a newer format_version by name; for files that must carry one, its absence too.
void check_format_version(const Document& document, const Json& object, const std::string& path);

// The keys of models of every type, as paths below `path`.
std::vector<std::string> model_key_paths(const std::string& path);

// Reads and checks the model at `object`: model_type first, as the keys depend on it.
void read_model(const Document& document, const Json& object, const std::string& path, ModelConfig& config,
                const std::vector<std::string>& all_paths);

}  // namespace photon::config
