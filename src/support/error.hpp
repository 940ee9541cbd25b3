// Errors that photon throws, and what each one means for the exit code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace photon {

// What a photon process returns to whoever started it (docs/cli.md).
enum class ExitCode : int { done = 0, failed = 1, bad_input = 2, preempted = 75 };

// The grammar of every message a user may meet: "<problem> (<why it is one>) <what to do>".
std::string error_message(std::string_view problem, std::string_view why, std::string_view remedy);

// Something went wrong that the input alone does not explain (exit code 1).
class Error : public std::runtime_error {
 public:
  Error(std::string_view problem, std::string_view why, std::string_view remedy)
      : std::runtime_error(error_message(problem, why, remedy)) {}
};

// The user's options, files or configuration are at fault (exit code 2).
class InputError : public Error {
 public:
  using Error::Error;
};

// A backend that this build was configured without, e.g. CUDA (exit code 2).
class NotConfigured : public InputError {
 public:
  NotConfigured(std::string_view what, std::string_view backend)
      : InputError(fmt::format("{} is not available", what), fmt::format("this photon was built without {}", backend),
                   fmt::format("build with {} or run on the CPU", backend)) {}
};

// The caller broke a function's contract: a defect in photon, never the user's fault (exit code 1).
class ContractError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// Thrown after a preempted job has saved its state; the caller should requeue it (exit code 75).
class Preempted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void contract_failed(const char* condition, const char* file, int line, const std::string& message);

}  // namespace photon

// Checks a precondition in every build type; throws ContractError. The message arguments are only formatted on failure.
#define PHOTON_EXPECT(condition, ...)                                                                      \
  do {                                                                                                     \
    if (!(condition)) ::photon::contract_failed(#condition, __FILE__, __LINE__, fmt::format(__VA_ARGS__)); \
  } while (false)
