// The little that photon needs to know about UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace photon {

// The largest position <= `position` that is not inside a UTF-8 character; `position` itself where the bytes around it
// are not UTF-8 (more than three continuation bytes in a row). position < text.size().
std::size_t utf8_floor(std::string_view text, std::size_t position);

// Bytes at the end of `text` (0 to 3) that begin a UTF-8 character which further bytes could still complete.
std::size_t utf8_incomplete_suffix(std::string_view text);

// `text` with every byte that is not part of a valid UTF-8 character replaced by U+FFFD (one for each maximal invalid
// prefix, as the Unicode standard recommends), so that it can stand in JSON.
std::string utf8_sanitize(std::string_view text);

}  // namespace photon
