#include "support/error.hpp"

namespace photon {

std::string error_message(std::string_view problem, std::string_view why, std::string_view remedy) {
  std::string text(problem);
  if (!why.empty()) text += fmt::format(" ({})", why);
  if (!remedy.empty()) text += fmt::format(" {}", remedy);
  return text;
}

void contract_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw ContractError(fmt::format("{} ({} does not hold at {}:{}) please report this as a defect in photon", message,
                                  condition, file, line));
}

}  // namespace photon
