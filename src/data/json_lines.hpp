// One line of a JSONL file.
#pragma once

#include <string>
#include <string_view>

namespace photon {

// Puts the string under the top-level key "text" into `text` (the last one, if there are several). False, with the
// reason in `why`, when the line is not a JSON object in valid UTF-8 or holds no such string.
bool parse_text_line(std::string_view line, std::string& text, std::string& why);

}  // namespace photon
