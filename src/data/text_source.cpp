#include "data/text_source.hpp"

#include <algorithm>

#include "data/json_lines.hpp"
#include "support/error.hpp"
#include "tokenizer/segments.hpp"

namespace photon {
namespace {

constexpr std::string_view separator = "<|endoftext|>";
constexpr std::size_t max_json_line_bytes = std::size_t{1} << 30;

bool holds_json_lines(std::filesystem::path file) {
  if (file.extension() == ".gz" || file.extension() == ".zst") file.replace_extension();
  const auto extension = file.extension();
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
}

// The length of the separator line at the front of `text`, with its line end; 0 when there is none.
std::size_t separator_line(std::string_view text) {
  if (!text.starts_with(separator)) return 0;
  const std::string_view rest = text.substr(separator.size());
  if (rest.empty() || rest == "\r") return text.size();
  if (rest.starts_with('\n')) return separator.size() + 1;
  if (rest.starts_with("\r\n")) return separator.size() + 2;
  return 0;
}

}  // namespace

void TextBatch::for_each(const std::function<void(const TextPiece&)>& on_piece,
                         const std::function<void(const BadLine&)>& on_bad_line) const {
  const std::string_view bytes(bytes_);
  for (const Span& span : spans_) on_piece({bytes.substr(span.begin, span.size), span.starts, span.ends});
  if (!json_lines_) return;
  std::string text;
  std::string why;
  std::uint64_t number = first_line_;
  for (std::size_t begin = 0; begin < bytes.size(); ++number) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = bytes.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (parse_text_line(line, text, why)) {
      on_piece({text, true, true});
    } else {
      on_bad_line({number, why});
    }
  }
}

TextSource::TextSource(std::vector<std::filesystem::path> files, std::size_t batch_bytes)
    : files_(std::move(files)), batch_bytes_(batch_bytes) {
  for (const auto& file : files_) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (!std::filesystem::exists(status)) {
      throw InputError(fmt::format("cannot read {}", file.string()), "no such file", "check the name");
    }
    if (!std::filesystem::is_regular_file(status)) {
      throw InputError(fmt::format("cannot read {}", file.string()),
                       std::filesystem::is_directory(status) ? "it is a folder" : "it is not a regular file",
                       "name the text files themselves");
    }
    total_bytes_ += std::filesystem::file_size(file, error);
  }
}

void TextSource::open_next() {
  stream_ = ByteStream::open(files_[next_file_], bytes_read_);
  json_lines_ = holds_json_lines(files_[next_file_]);
  ++next_file_;
  buffer_.clear();
  stream_ended_ = false;
  text_ended_ = false;
  at_line_start_ = true;
  in_document_ = false;
  had_separator_ = false;
  next_line_ = 1;
}

void TextSource::close_file() {
  digests_.push_back(stream_->digest());
  stream_.reset();
}

// Reads until the buffer holds `size` bytes or the file ends.
void TextSource::fill(std::size_t size) {
  if (stream_ended_ || buffer_.size() >= size) return;
  const std::size_t before = buffer_.size();
  buffer_.resize(size);
  const std::size_t got = stream_->read({buffer_.data() + before, size - before});
  buffer_.resize(before + got);
  stream_ended_ = got < size - before;
}

bool TextSource::next(TextBatch& batch) {
  for (;;) {
    if (!stream_) {
      if (next_file_ == files_.size()) return false;
      open_next();
    }
    batch.file_ = files_[next_file_ - 1];
    batch.bytes_.clear();
    batch.spans_.clear();
    batch.json_lines_ = json_lines_;
    batch.first_line_ = next_line_;
    if (json_lines_ ? next_lines(batch) : next_text(batch)) return true;
    close_file();
  }
}

bool TextSource::next_lines(TextBatch& batch) {
  std::size_t end = 0;
  for (std::size_t wanted = batch_bytes_; end == 0; wanted = 2 * buffer_.size()) {
    fill(wanted);
    end = stream_ended_ ? buffer_.size() : buffer_.rfind('\n') + 1;  // 0 when there is none
    if (stream_ended_ && end == 0) return false;
    if (end == 0 && buffer_.size() > max_json_line_bytes) {
      throw InputError(fmt::format("cannot read {}:{}", batch.file_.string(), next_line_),
                       "the line is longer than 1 GiB", "split the document, or give it as plain text");
    }
  }
  batch.bytes_.assign(buffer_, 0, end);
  buffer_.erase(0, end);
  next_line_ += static_cast<std::uint64_t>(std::count(batch.bytes_.begin(), batch.bytes_.end(), '\n'));
  return true;
}

bool TextSource::next_text(TextBatch& batch) {
  if (text_ended_) return false;
  std::size_t given = 0;  // bytes of the buffer that are in the batch
  for (std::size_t wanted = batch_bytes_; given == 0; wanted = 2 * buffer_.size()) {
    fill(wanted);
    given = split_documents(batch);
    if (stream_ended_) {
      const bool rest_is_document = given < buffer_.size() || in_document_ || !had_separator_;
      if (rest_is_document) batch.spans_.push_back({given, buffer_.size() - given, !in_document_, true});
      given = buffer_.size();
      text_ended_ = true;
      break;
    }
    if (given > 0) break;
    // A piece of a document that is longer than the buffer. A separator that is only partly in the buffer starts a
    // line, so it is never cut.
    const std::size_t boundary = last_segment_boundary(buffer_);
    if (boundary == 0 || (!in_document_ && boundary < first_piece_bytes)) continue;
    batch.spans_.push_back({0, boundary, !in_document_, false});
    in_document_ = true;
    at_line_start_ = buffer_[boundary - 1] == '\n';
    given = boundary;
  }
  batch.bytes_.assign(buffer_, 0, given);
  buffer_.erase(0, given);
  return !batch.spans_.empty();
}

// Gives the documents that a separator in the buffer ends; returns the bytes they and their separators take.
std::size_t TextSource::split_documents(TextBatch& batch) {
  const std::string_view text(buffer_);
  std::size_t given = 0;
  std::size_t at = text.find(separator);
  while (at != std::string_view::npos) {
    // A separator's own line end has to be in sight.
    if (!stream_ended_ && text.size() - at < separator.size() + 2) break;
    const bool starts_line = at == 0 ? at_line_start_ : text[at - 1] == '\n';
    const std::size_t length = starts_line ? separator_line(text.substr(at)) : 0;
    if (length > 0) {
      batch.spans_.push_back({given, at - given, !in_document_, true});
      in_document_ = false;
      had_separator_ = true;
      at_line_start_ = true;
      given = at + length;
    }
    at = text.find(separator, at + std::max<std::size_t>(length, 1));
  }
  return given;
}

}  // namespace photon
