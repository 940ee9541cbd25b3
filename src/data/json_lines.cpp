#include "data/json_lines.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tokenizer/utf8.hpp"

namespace photon {
namespace {

using Json = nlohmann::json;

// Listens to the parser and keeps only the text, so that large other fields cost no memory.
class TextHandler : public nlohmann::json_sax<Json> {
 public:
  explicit TextHandler(std::string& text) : text_(text) {}
  bool found() const { return found_; }
  bool is_object() const { return is_object_; }
  const std::string& error() const { return error_; }

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t) override { return other(); }
  bool number_float(number_float_t, const string_t&) override { return other(); }
  bool binary(binary_t&) override { return other(); }
  bool string(string_t& value) override {
    if (depth_ == 1 && at_text_) {
      text_.swap(value);
      found_ = true;
    }
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) at_text_ = name == "text";
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ == 0) is_object_ = true;
    other();
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    other();
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string_view what = e.what();  // "[json.exception...] parse error at line 1, column 5: <what>"
    if (const auto at = what.find(": "); at != std::string_view::npos) what.remove_prefix(at + 2);
    // The parser quotes what it read last, which may be a whole document, and not UTF-8.
    error_ = fmt::format("byte {}: {}", position, utf8_sanitize(what.substr(0, 200)));
    if (what.size() > 200) error_ += "...";
    return false;
  }

 private:
  bool other() {
    if (depth_ == 1 && at_text_) found_ = false;
    return true;
  }

  std::string& text_;
  std::string error_;
  int depth_ = 0;
  bool is_object_ = false;
  bool at_text_ = false;
  bool found_ = false;
};

}  // namespace

bool parse_text_line(std::string_view line, std::string& text, std::string& why) {
  TextHandler handler(text);
  if (!Json::sax_parse(line.begin(), line.end(), &handler)) {
    why = "not valid JSON, " + handler.error();
  } else if (!handler.is_object()) {
    why = "not a JSON object";
  } else if (!handler.found()) {
    why = "no string under the key \"text\"";
  } else {
    return true;
  }
  return false;
}

}  // namespace photon
