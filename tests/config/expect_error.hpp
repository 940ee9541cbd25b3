// Runs a statement that must throw an InputError whose message holds every given part.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/error.hpp"

namespace photon::testing {

template <class Statement>
void expect_input_error(Statement statement, const std::vector<std::string>& parts) {
  try {
    statement();
  } catch (const InputError& e) {
    const std::string message = e.what();
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "no InputError; expected one with '" << (parts.empty() ? "" : parts[0]) << "'";
}

}  // namespace photon::testing
