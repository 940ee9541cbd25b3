#include "config/document.hpp"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

namespace photon::config {
namespace {

// An alias may refer to the list that holds it; no sensible file nests this deep.
constexpr int max_depth = 32;

// A plain YAML scalar by the rules of YAML 1.2: null, booleans, decimal numbers, else a string.
Json plain_scalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null") return nullptr;
  if (text == "true") return true;
  if (text == "false") return false;
  if (text.find_first_not_of("0123456789+-.eE") == std::string::npos) {
    const char* begin = text.data() + (text[0] == '+' ? 1 : 0);
    const char* end = text.data() + text.size();
    const auto parses = [&](auto& value) {
      const auto result = std::from_chars(begin, end, value);
      return result.ec == std::errc() && result.ptr == end;
    };
    std::int64_t integer = 0;
    if (parses(integer)) return integer;
    std::uint64_t large = 0;
    if (parses(large)) return large;
    double real = 0;
    if (parses(real)) return real;
  }
  return text;
}

class YamlConverter {
 public:
  explicit YamlConverter(Document& document) : document_(document) {}

  Json convert(const YAML::Node& node, const std::string& path, int depth) {
    if (depth > max_depth) {
      throw document_.error(path, "is nested too deeply", fmt::format("more than {} levels", max_depth), "simplify it");
    }
    switch (node.Type()) {
      case YAML::NodeType::Scalar:
        return node.Tag() == "?" || node.Tag().empty() ? plain_scalar(node.Scalar()) : Json(node.Scalar());
      case YAML::NodeType::Sequence: {
        Json list = Json::array();
        for (const YAML::Node& item : node) {
          const std::string item_path = join_path(path, list.size());
          note_line(item_path, item);
          list.push_back(convert(item, item_path, depth + 1));
        }
        return list;
      }
      case YAML::NodeType::Map: {
        Json map = Json::object();
        for (const auto& entry : node) {
          if (!entry.first.IsScalar()) {
            throw document_.error(path, "has a key that is no word", "keys are plain words", "write key: value");
          }
          const std::string key = entry.first.Scalar();
          const std::string key_path = join_path(path, key);
          if (map.contains(key)) {
            throw InputError(fmt::format("{} is given twice", key_path),
                             fmt::format("{} and {}", document_.origin(key_path), line(entry.first)),
                             "keep one of them");
          }
          note_line(key_path, entry.first);
          map[key] = convert(entry.second, key_path, depth + 1);
        }
        return map;
      }
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
    }
    return nullptr;
  }

 private:
  std::string line(const YAML::Node& node) const { return fmt::format("{}:{}", document_.where, node.Mark().line + 1); }
  void note_line(const std::string& path, const YAML::Node& node) {
    if (node.Mark().line >= 0) document_.origins[path] = line(node);
  }

  Document& document_;
};

std::vector<YAML::Node> load_yaml(const std::string& text, const std::string& where) {
  try {
    return YAML::LoadAll(text);
  } catch (const YAML::Exception& e) {
    throw InputError(fmt::format("{} is not valid YAML", where),
                     fmt::format("line {}, column {}: {}", e.mark.line + 1, e.mark.column + 1, e.msg),
                     "correct it there");
  }
}

void expect_section(const Document& document, const std::string& what) {
  if (document.tree.is_object()) return;
  throw InputError(fmt::format("{} is not {}", document.where, what), fmt::format("it holds {}", quote(document.tree)),
                   "see docs/configuration.md for the keys it may hold");
}

bool is_index(const std::string& word) {
  return !word.empty() && word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos;
}

void write_yaml(const Json& value, int indent, std::string& out);

std::string yaml_scalar(const Json& value) {
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    const bool plain = !text.empty() && plain_scalar(text).is_string() &&
                       std::isalnum(static_cast<unsigned char>(text[0])) != 0 &&
                       std::all_of(text.begin(), text.end(), [](char c) {
                         return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("_-./", c) != nullptr;
                       });
    // YAML 1.1 readers take these words for booleans.
    static const std::set<std::string> booleans = {"yes", "no", "on", "off", "y", "n"};
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    return plain && booleans.count(lower) == 0 && lower != "true" && lower != "false" && lower != "null"
               ? text
               : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  std::string text = value.dump();
  // YAML 1.1 readers take 1e-05 for a string; 1.0e-05 is a number to all.
  const auto exponent = text.find('e');
  if (value.is_number_float() && exponent != std::string::npos && text.find('.') == std::string::npos) {
    text.insert(exponent, ".0");
  }
  return text;
}

bool is_inline(const Json& value) {
  return !value.is_structured() || value.empty();
}

void write_entries(const Json& map, int indent, bool first_indented, std::string& out) {
  bool indented = first_indented;
  for (const auto& entry : map.items()) {
    if (!indented) out.append(static_cast<std::size_t>(indent), ' ');
    indented = false;
    out += fmt::format("{}:", yaml_scalar(entry.key()));
    if (is_inline(entry.value())) {
      out += fmt::format(" {}\n", yaml_scalar(entry.value()));
    } else {
      out += "\n";
      write_yaml(entry.value(), indent + 2, out);
    }
  }
}

void write_yaml(const Json& value, int indent, std::string& out) {
  if (value.is_object()) {
    write_entries(value, indent, false, out);
    return;
  }
  for (const Json& item : value) {
    out += fmt::format("{:{}}- ", "", indent);
    if (is_inline(item)) {
      out += fmt::format("{}\n", yaml_scalar(item));
    } else if (item.is_object()) {
      write_entries(item, indent + 2, true, out);
    } else {
      PHOTON_EXPECT(false, "a list of lists has no place in a configuration");
    }
  }
}

}  // namespace

std::string join_path(const std::string& parent, const std::string& key) {
  return parent.empty() ? key : parent + "." + key;
}
std::string join_path(const std::string& parent, std::size_t index) {
  return fmt::format("{}[{}]", parent, index);
}

std::string quote(const Json& value) {
  if (value.is_null()) return "nothing";
  if (value.is_object()) return "a section";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string Document::origin(const std::string& path) const {
  for (std::string p = path;;) {
    const auto found = origins.find(p);
    if (found != origins.end()) return found->second;
    const auto cut = p.find_last_of(".[");
    if (cut == std::string::npos) return where;
    p.resize(cut);
  }
}

InputError Document::error(const std::string& path, const std::string& problem, const std::string& why,
                           const std::string& remedy) const {
  const std::string place = origin(path);
  return InputError(fmt::format("{} {}", path.empty() ? where : path, problem),
                    place.empty() ? why : fmt::format("{}: {}", place, why), remedy);
}

Document parse_yaml(const std::string& text, const std::string& where) {
  Document document;
  document.where = where;
  const std::vector<YAML::Node> nodes = load_yaml(text, where);
  if (nodes.size() > 1) {
    throw InputError(fmt::format("{} holds {} YAML documents", where, nodes.size()), "a configuration is one",
                     "remove the lines '---' between them");
  }
  if (!nodes.empty() && !nodes[0].IsNull()) document.tree = YamlConverter(document).convert(nodes[0], "", 0);
  expect_section(document, "a configuration");
  return document;
}

Document parse_json(const std::string& text, const std::string& where) {
  Document document;
  document.where = where;
  std::vector<std::set<std::string>> open;  // keys seen so far in each open object
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second) {
      throw InputError(fmt::format("{} is given twice", parsed.get<std::string>()),
                       fmt::format("in one object of {}", where), "keep one of them");
    }
    return true;
  };
  try {
    document.tree = Json::parse(text, watch);
  } catch (const Json::exception& e) {
    const std::string message = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const auto start = message.find("] ");
    throw InputError(fmt::format("{} is not valid JSON", where),
                     start == std::string::npos ? message : message.substr(start + 2), "correct it there");
  }
  expect_section(document, "a JSON object");
  return document;
}

Override parse_override(const std::string& text) {
  const auto equals = text.find('=');
  Override change;
  change.text = text;
  std::string path = text.substr(0, equals);
  std::replace(path.begin(), path.end(), '[', '.');
  path.erase(std::remove(path.begin(), path.end(), ']'), path.end());
  std::istringstream words(path);
  for (std::string word; std::getline(words, word, '.');) change.path.push_back(word);
  const bool has_empty =
      std::any_of(change.path.begin(), change.path.end(), [](const auto& word) { return word.empty(); });
  if (equals == std::string::npos || change.path.empty() || has_empty || path.back() == '.') {
    throw InputError(fmt::format("--set {} names no key and value", text), "it has the form key=value",
                     "write for example --set train.steps=100");
  }
  const std::string where = fmt::format("--set {}", text);
  const std::vector<YAML::Node> nodes = load_yaml(text.substr(equals + 1), where);
  Document scratch;
  scratch.where = where;
  if (!nodes.empty()) change.value = YamlConverter(scratch).convert(nodes[0], "", 0);
  return change;
}

void apply(Document& document, const Override& change) {
  Json* node = &document.tree;
  std::string path;
  for (const std::string& word : change.path) {
    if (node->is_array()) {
      if (!is_index(word) || std::stoul(word) >= node->size()) {
        throw InputError(fmt::format("--set {} names no entry of {}", change.text, path),
                         fmt::format("the list has {} entries, counted from 0", node->size()), "name one of them");
      }
      path = join_path(path, std::stoul(word));
      node = &(*node)[std::stoul(word)];
      continue;
    }
    if (node->is_null()) *node = Json::object();
    if (!node->is_object()) {
      throw InputError(fmt::format("--set {} names no key", change.text),
                       fmt::format("{} is {}, not a section", path, quote(*node)), fmt::format("set {} itself", path));
    }
    path = join_path(path, word);
    if (!node->contains(word)) document.origins[path] = fmt::format("--set {}", change.text);
    node = &(*node)[word];
  }
  *node = change.value;
  for (auto it = document.origins.lower_bound(path); it != document.origins.end() && it->first.rfind(path, 0) == 0;) {
    const bool inside =
        it->first.size() == path.size() || it->first[path.size()] == '.' || it->first[path.size()] == '[';
    it = inside ? document.origins.erase(it) : std::next(it);
  }
  document.origins[path] = fmt::format("--set {}", change.text);
}

std::string read_text_file(const std::string& file) {
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (in && in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  if (!in.is_open() || in.bad() || errno == EISDIR) {
    throw InputError(fmt::format("cannot read {}", file), errno != 0 ? std::strerror(errno) : "unknown reason",
                     "check the path");
  }
  return text.str();
}

std::string to_yaml_text(const Json& tree) {
  std::string out;
  write_yaml(tree, 0, out);
  return out;
}

}  // namespace photon::config
