// Documents out of input files, streamed: no more than a few blocks of text are in memory, whatever the files' sizes.
//
// A plain file is one document, or several separated by lines that are exactly `<|endoftext|>`. A file named .jsonl,
// .ndjson or .json (before .gz or .zst) holds one object {"text": ...} a line, a document each; other keys are ignored.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "storage/byte_stream.hpp"

namespace photon {

// A document may be longer than a block. It is then given in pieces, cut where a tokenizer may be cut
// (tokenizer/segments.hpp). Its first piece holds at least this many bytes.
inline constexpr std::size_t first_piece_bytes = 64 * 1024;

struct TextPiece {
  std::string_view text;
  bool starts_document = true;
  bool ends_document = true;
};

struct BadLine {
  std::uint64_t line = 0;  // from 1
  std::string why;
};

// Consecutive text of one file: pieces of documents, or whole JSONL lines that are yet to be parsed.
class TextBatch {
 public:
  const std::filesystem::path& file() const { return file_; }
  // Calls `on_piece` for each piece in order. Lines that hold no document are reported to `on_bad_line`.
  void for_each(const std::function<void(const TextPiece&)>& on_piece,
                const std::function<void(const BadLine&)>& on_bad_line) const;

 private:
  friend class TextSource;
  struct Span {
    std::size_t begin, size;
    bool starts, ends;
  };
  std::filesystem::path file_;
  std::string bytes_;
  std::vector<Span> spans_;       // plain text
  bool json_lines_ = false;       // bytes_ holds lines
  std::uint64_t first_line_ = 0;  // of bytes_ in its file
};

class TextSource {
 public:
  // Errors: InputError when one of the files is missing or not a regular file.
  explicit TextSource(std::vector<std::filesystem::path> files, std::size_t batch_bytes = 1 << 20);

  // The next batch; false after the last. Errors: InputError for unreadable or damaged files.
  bool next(TextBatch& batch);

  std::uint64_t bytes_read() const { return bytes_read_; }    // on disk, of total_bytes(); from any thread
  std::uint64_t total_bytes() const { return total_bytes_; }  // sizes of the files on disk
  // One a file, once next() has given false.
  const std::vector<SourceDigest>& digests() const { return digests_; }

 private:
  void open_next();
  void fill(std::size_t size);
  bool next_text(TextBatch& batch);
  std::size_t split_documents(TextBatch& batch);
  bool next_lines(TextBatch& batch);
  void close_file();

  std::vector<std::filesystem::path> files_;
  std::size_t batch_bytes_;
  std::uint64_t total_bytes_ = 0;
  std::atomic<std::uint64_t> bytes_read_ = 0;
  std::vector<SourceDigest> digests_;

  std::size_t next_file_ = 0;
  std::unique_ptr<ByteStream> stream_;
  bool json_lines_ = false;
  std::string buffer_;         // read and not yet given
  bool stream_ended_ = false;  // buffer_ holds all that is left of the file
  bool at_line_start_ = true;  // of buffer_
  bool text_ended_ = false;    // the file's last document was given
  bool had_separator_ = false;
  bool in_document_ = false;  // an earlier piece of the document in buffer_ was given
  std::uint64_t next_line_ = 1;
};

}  // namespace photon
