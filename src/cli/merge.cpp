// photon merge: joins the parts that the ranks of a generate job left.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.hpp"
#include "cli/one_process.hpp"
#include "comm/stop_signal.hpp"
#include "decode/job_files.hpp"
#include "decode/part.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Joins what the ranks of a photon generate have finished, OUTPUT.parts, to OUTPUT. A job that comes to its end "
    "does so "
    "by\n"
    "itself; this is for the rows of one that did not. The job can be continued afterwards.";

void merge(GenerateOptions options) {
  const StopSignal signals;
  if (!std::filesystem::is_directory(parts_folder(options.output))) {
    throw InputError(fmt::format("{} has no parts", options.output.string()),
                     fmt::format("there is no folder {}", parts_folder(options.output).string()),
                     "name the --output of photon generate");
  }
  options.compression = compression_of(options.output);
  JobFiles files(options);
  const MergeSummary summary = files.complete(0, [] { return StopSignal::received() == 0; });
  const nlohmann::ordered_json line = {
      {"rows", summary.num_rows}, {"errors", summary.num_errors}, {"parts", summary.num_parts}};
  std::cout << line.dump() << std::endl;
}

}  // namespace

void add_merge(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("merge", description);
  command->add_option("--output", options->output, "the output of the job")->type_name("FILE")->required();
  command->add_flag("--ordered", options->ordered,
                    "in the order of the prompts; rows that are in the output already stay in front");
  command->add_flag("--keep-parts", options->keep_parts, "leaves the parts where they are");
  command->callback([options] { run_in_one_process("merge", [&] { merge(*options); }); });
}

}  // namespace photon::cli
