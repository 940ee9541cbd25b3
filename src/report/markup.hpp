// Text inside HTML and SVG.
#pragma once

#include <string>

namespace photon {

// `text` with what markup would read as its own (<, >, &, ") written as references.
std::string escaped(const std::string& text);

}  // namespace photon
