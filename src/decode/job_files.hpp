// What rank 0 keeps of a job that is shared by ranks: the folder of its parts, and what is done already.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "decode/generate.hpp"
#include "decode/merge.hpp"
#include "decode/output.hpp"
#include "decode/row_key.hpp"

namespace photon {

class JobFiles {
 public:
  // Makes the folder, makes every part fit to be continued, and reads what the output and the parts hold. Errors:
  // InputError when another job writes to one of them (parts of ranks that are just ending are waited for), or when
  // they are not what they should be.
  explicit JobFiles(const GenerateOptions& options);

  bool has(const RowKey& key) const { return done_.contains(key); }
  std::int64_t num_errors() const { return num_errors_; }  // rows done with an error
  std::int64_t num_done() const { return static_cast<std::int64_t>(done_.size()); }

  // Joins the parts to the output, `num_new` of whose rows were written since the start (merge_parts).
  MergeSummary complete(std::int64_t num_new, const std::function<bool()>& go_on);

 private:
  const GenerateOptions& options_;
  std::filesystem::path folder_;
  LineWriter lock_;
  std::unique_ptr<ResultFile> output_;  // null: there was none
  KeySet done_;
  std::int64_t num_in_parts_ = 0;
  std::int64_t num_errors_ = 0;
};

}  // namespace photon
