// What the commands that write weights folders share.
#pragma once

#include <string>

#include "checkpoint/weights.hpp"

namespace CLI {
class App;
}

namespace photon::cli {

struct WeightsOutput {
  std::string model;   // to read
  std::string output;  // to write
  std::string format = "photon";
  std::string dtype = "fp32";
  bool force = false;

  DType stored_dtype() const { return dtype == "bf16" ? DType::bf16 : DType::f32; }
  // Nothing that exists is replaced unasked. Errors: InputError.
  void check() const;
};

// Adds --output, --dtype and --force.
void add_output_options(CLI::App& command, WeightsOutput& options);

// Writes the model in photon's form and prints the summary.
void write_weights(const WeightsOutput& options, const LoadedModel& model);
void print_summary(const WeightsOutput& options, const LoadedModel& model);

}  // namespace photon::cli
