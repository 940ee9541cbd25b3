#include "tokenizer/segments.hpp"

#include <algorithm>

#include "tokenizer/utf8.hpp"

namespace photon {

std::size_t first_segment(std::string_view text) {
  const std::size_t limit = std::min(text.size(), max_segment_bytes);
  std::size_t end = text.substr(0, limit).find('\n');
  if (end == std::string_view::npos) return text.size() <= limit ? text.size() : utf8_floor(text, limit);
  while (end < limit && text[end] == '\n') ++end;
  return end;
}

std::size_t last_segment_boundary(std::string_view text) {
  std::size_t boundary = 0;
  for (std::size_t end = text.size(); end > 1; --end) {
    const std::size_t feed = text.rfind('\n', end - 2);
    if (feed == std::string_view::npos) break;
    if (text[feed + 1] != '\n') {
      boundary = feed + 1;
      break;
    }
    end = feed + 2;  // inside a run of line feeds: go on from its earlier end
  }
  // What is left has no start of a line in it. It is cut as first_segment cuts it, as long as that needs no further
  // bytes.
  while (text.size() - boundary > max_segment_bytes) boundary += first_segment(text.substr(boundary));
  return boundary;
}

}  // namespace photon
