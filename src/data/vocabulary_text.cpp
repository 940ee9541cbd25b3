#include "data/vocabulary_text.hpp"

#include <algorithm>
#include <deque>

#include "data/progress.hpp"
#include "data/text_source.hpp"
#include "support/log.hpp"
#include "support/random.hpp"
#include "tokenizer/utf8.hpp"
#include "tokenizer/vocabulary.hpp"

namespace photon {
namespace {

class LineSource {
 public:
  LineSource(const std::vector<std::filesystem::path>& files, std::uint64_t max_bytes)
      : source_(files), max_bytes_(max_bytes), progress_("reading for the vocabulary", source_.total_bytes()) {}

  bool next(std::string& line) {
    if (given_ >= max_bytes_) return false;
    while (lines_.empty()) {
      if (!source_.next(batch_)) return false;
      progress_.update(source_.bytes_read());
      const double share = static_cast<double>(max_bytes_) / static_cast<double>(source_.total_bytes());
      // The first batch is always in the sample, so that there is one.
      const std::uint64_t index = batch_index_++;
      if (index > 0 && random_uniform(0, hash_name("vocabulary sample"), index) >= share) continue;
      batch_.for_each([this](const TextPiece& piece) { add_lines(piece.text); }, [](const BadLine&) {});
    }
    line.swap(lines_.front());
    lines_.pop_front();
    given_ += line.size();
    return true;
  }

 private:
  void add_lines(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      // The trainer passes over sentences with a NUL.
      if (!line.empty() && line.find('\0') == std::string_view::npos) lines_.push_back(utf8_sanitize(line));
    }
  }

  TextSource source_;
  TextBatch batch_;
  std::uint64_t max_bytes_;
  Progress progress_;
  std::deque<std::string> lines_;
  std::uint64_t given_ = 0;
  std::uint64_t batch_index_ = 0;
};

}  // namespace

std::string train_vocabulary_on(const std::vector<std::filesystem::path>& files, std::int64_t size,
                                std::uint64_t max_bytes) {
  log_info("training a vocabulary of {} ids", size);
  LineSource lines(files, max_bytes);
  return train_vocabulary(size, [&](std::string& line) { return lines.next(line); });
}

}  // namespace photon
