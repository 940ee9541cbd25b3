// Where results go: JSON lines, appended one row at a time, so that a job killed anywhere goes on where it was.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "decode/engine.hpp"
#include "decode/row_key.hpp"
#include "storage/line_writer.hpp"

namespace photon {

// One line of a result file, without the line end (docs/decoding.md). Bytes of a text that are no UTF-8 become U+FFFD.
std::string result_line(const Result& result);
std::string error_line(const RowError& error);

// What a line of a result file tells about its row; nothing when it is no such line.
struct EarlierResult {
  RowKey key;
  bool error = false;
};
std::optional<EarlierResult> read_result_line(const std::string& line);
// The key of an error's row.
RowKey key_of(const RowError& error);

class ResultFile : public ResultSink {
 public:
  // Reads what an earlier run of the job left in `path`: complete rows are remembered, a torn last line is dropped.
  // With retry_errors, error records are removed first. Errors: InputError when the file holds something that is no
  // result, or is not compressed as asked.
  ResultFile(const std::filesystem::path& path, bool retry_errors)
      : ResultFile(path, retry_errors, compression_of(path)) {}
  ResultFile(const std::filesystem::path& path, bool retry_errors, Compression compression);

  // Whether the row of that key needs no work: the file has its result (or its error).
  bool has(const RowKey& key) const { return done_.contains(key); }
  const KeySet& keys() const { return done_; }
  std::int64_t num_resumed() const { return num_resumed_; }  // rows that were there at the start
  std::int64_t num_errors() const { return num_errors_; }    // in the file now, earlier ones among them

  // Fault points before and after a row is written: "results.row", "results.done".
  void result(const Result& result) override;
  void error(const RowError& error) override;
  void poll() { writer_.poll(); }  // call it now and then: flushes compressed rows in time
  void sync();

 private:
  void read_earlier(bool retry_errors);
  void append(const std::string& line);

  LineWriter writer_;
  KeySet done_;
  std::int64_t num_resumed_ = 0;
  std::int64_t num_errors_ = 0;
  std::chrono::steady_clock::time_point synced_ = std::chrono::steady_clock::now();
};

}  // namespace photon
