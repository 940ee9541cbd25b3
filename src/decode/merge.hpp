// Joins the parts of a job to its output.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "decode/output.hpp"

namespace photon {

struct MergeOptions {
  // Rows in the order of the prompts file; what the output holds already stays in front. Otherwise part by part.
  bool ordered = false;
  bool keep_parts = false;
  Compression compression = Compression::none;  // of the output
  std::int64_t expected_rows = -1;              // in the merged file; -1: not known
};

struct MergeSummary {
  std::int64_t num_rows = 0;    // in the output now, errors among them
  std::int64_t num_errors = 0;  // among them
  std::int64_t num_parts = 0;
};

// Writes the rows of the output, if there is one, and of its parts to a file beside it, which then takes its place;
// then the parts go. A row that stands in several of them is written once, so that a merge that was killed anywhere can
// be begun anew. Needs up to 32 bytes of memory a row, and 32 more where they are ordered. `go_on` is called now and
// then: when it gives false, nothing has changed and Preempted is thrown. Errors: Error when the disk is full, or when
// rows are missing; nothing has changed then either.
MergeSummary merge_parts(const std::filesystem::path& output, const MergeOptions& options,
                         const std::function<bool()>& go_on);

}  // namespace photon
