#pragma once

namespace photon {

// As in CMakeLists.txt's project().
inline constexpr const char* version = "0.1.0";

}  // namespace photon
