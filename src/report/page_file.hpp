// The files of page/, compiled in.
#pragma once

#include <string_view>

namespace photon {

// The bytes of a file of src/report/page by its name, e.g. "style.css".
std::string_view page_file(std::string_view file);

}  // namespace photon
