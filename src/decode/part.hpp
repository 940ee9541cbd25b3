// What one rank has finished, beside the output until the job is done: OUT.parts/rank-K.part. A part is lines; the
// first names the format, every other one is a record
//
//   <checksum, 16 hexadecimal digits> <key, 32> <r|e> <line of the prompts file> <line of the result file>
//
// (r: a result, e: an error), whose checksum is that of all behind the first space. So a record is whole or is known
// not to be, wherever a process or a machine stopped; what is not whole is decoded again.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "decode/output.hpp"
#include "decode/row_key.hpp"

namespace photon {

std::filesystem::path parts_folder(const std::filesystem::path& output);             // "<output>.parts"
std::filesystem::path part_file(const std::filesystem::path& folder, int rank);      // "rank-3.part" in it
std::vector<std::filesystem::path> find_parts(const std::filesystem::path& folder);  // by rank; none: no such folder

struct PartRecord {
  RowKey key;
  bool error = false;
  std::int64_t line = 0;        // of the prompts file, from 0
  std::string_view text;        // of the result file, without the line end; lives as long as the visit
  std::int64_t text_begin = 0;  // where it stands in the part, bytes
};

struct PartSummary {
  std::int64_t num_records = 0;
  std::int64_t num_damaged = 0;  // lines that are no whole records, a torn end among them
  std::int64_t whole_bytes = 0;  // up to the end of the last whole line
};

// Calls `visit` for every whole record, in order. Errors: InputError when the file is no part, or one of a newer
// photon.
PartSummary read_part(const std::filesystem::path& path, const std::function<void(const PartRecord&)>& visit);

// Makes a part that a job left fit to be continued: cuts what is not whole off its end and, with drop_errors, takes its
// errors out (in a new file that replaces it). Nobody may write to it meanwhile.
void recover_part(const std::filesystem::path& path, bool drop_errors);

// Appends to a part, one write() a record.
class PartWriter : public ResultSink {
 public:
  // Errors: InputError when it cannot be opened, or another photon writes to it.
  explicit PartWriter(const std::filesystem::path& path);

  void result(const Result& result) override;
  void error(const RowError& error) override;
  void poll();  // has what was written on disk every ten seconds
  void sync();

 private:
  void append(const RowKey& key, bool error, std::int64_t line, std::string_view text);
  LineWriter writer_;
  std::chrono::steady_clock::time_point synced_ = std::chrono::steady_clock::now();
};

}  // namespace photon
