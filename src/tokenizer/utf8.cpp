#include "tokenizer/utf8.hpp"

#include <algorithm>

namespace photon {
namespace {

bool is_continuation(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}

// One step through UTF-8 (Unicode 15, table 3-7): the bytes from the front of `text` that belong together, and whether
// they are a character, the beginning of one cut off by the end of `text`, or neither.
enum class Utf8State { complete, cut_off, invalid };
struct Utf8Step {
  std::size_t size;
  Utf8State state;
};

Utf8Step utf8_step(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  std::size_t size = 1;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead < 0x80) return {1, Utf8State::complete};
  if (lead < 0xC2 || lead > 0xF4) return {1, Utf8State::invalid};
  if (lead < 0xE0) {
    size = 2;
  } else if (lead < 0xF0) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;   // no overlong forms
    if (lead == 0xED) high = 0x9F;  // no surrogates
  } else {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;  // nothing beyond U+10FFFF
  }
  for (std::size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {i, Utf8State::cut_off};
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < low || byte > high) return {i, Utf8State::invalid};
    low = 0x80;
    high = 0xBF;
  }
  return {size, Utf8State::complete};
}

}  // namespace

std::size_t utf8_floor(std::string_view text, std::size_t position) {
  std::size_t p = position;
  for (int steps = 0; steps < 4; ++steps) {
    if (!is_continuation(text[p])) return p;
    if (p == 0) break;
    --p;
  }
  return position;
}

std::size_t utf8_incomplete_suffix(std::string_view text) {
  for (std::size_t length = std::min<std::size_t>(3, text.size()); length > 0; --length) {
    const Utf8Step step = utf8_step(text.substr(text.size() - length));
    if (step.state == Utf8State::cut_off && step.size == length) return length;
  }
  return 0;
}

std::string utf8_sanitize(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.state == Utf8State::complete) {
      result.append(text.substr(0, step.size));
    } else {
      result.append("\xEF\xBF\xBD");
    }
    text.remove_prefix(step.size);
  }
  return result;
}

}  // namespace photon
