// photon report: a run as one HTML page.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.hpp"
#include "report/page.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Makes one HTML page of a run, or of several to compare: curves of losses, bits per byte, learning rate, gradient\n"
    "norm and throughput, skipped steps and restarts, which rank hosts what with its predicted and measured timeline,\n"
    "checkpoints and configuration. The page holds everything it needs and opens without a network. A run may go on\n"
    "meanwhile; nothing in its folder is changed but the page.";

constexpr const char* examples =
    "Examples:\n"
    "  photon report runs/first\n"
    "  photon report runs/first runs/second --output compare.html\n"
    "  photon report runs/first --trace trace.json --cluster configs/cluster/four-h100.yaml";

struct Options {
  ReportOptions report;
  std::filesystem::path output;
};

void report(Options options) {
  const bool several = options.report.runs.size() > 1;
  if (several && !options.report.trace.empty()) {
    throw InputError("--trace cannot be given with several runs", "it belongs to one of them",
                     "name each run's trace RUN/trace.json, where it is found");
  }
  const std::string page = report_page(options.report);
  if (options.output == "-") {
    std::cout << page;
    return;
  }
  if (options.output.empty())
    options.output = several ? std::filesystem::path("report.html") : options.report.runs[0] / "report.html";
  publish_file(options.output, page, "report");
  std::cout << options.output.string() << std::endl;
}

}  // namespace

void add_report(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", description);
  command->footer(examples);
  command->add_option("runs", options->report.runs, "run folders")->type_name("RUN")->required();
  command
      ->add_option("--output", options->output,
                   "the page; RUN/report.html by default, report.html for several runs, - for stdout")
      ->type_name("FILE");
  command
      ->add_option("--trace", options->report.trace,
                   "a trace that photon train --trace wrote; RUN/trace.json by default, where there is one")
      ->type_name("FILE");
  command
      ->add_option("--cluster", options->report.cluster,
                   "predict the timeline on these machines, as in configs/cluster, instead of from the run's own rates")
      ->type_name("FILE");
  command->callback([options] { report(*options); });
}

}  // namespace photon::cli
