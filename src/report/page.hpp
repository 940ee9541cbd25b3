// The page of one or several runs: self-contained HTML.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace photon {

struct ReportOptions {
  std::vector<std::filesystem::path> runs;
  std::filesystem::path trace;  // of the only run; RUN/trace.json by default, where there is one
  std::string cluster;          // a cluster file to predict on; empty: see layout_of
};

// The whole page. Nothing in it is loaded from elsewhere, and whatever comes from files is data in it, never markup.
// Errors: InputError naming the run or file that cannot be read.
std::string report_page(const ReportOptions& options);

}  // namespace photon
