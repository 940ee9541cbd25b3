#include "decode/prompt_feed.hpp"

#include <chrono>
#include <utility>

namespace photon {
namespace {

// What is read ahead of a pipe at most: so many rows, and about so many bytes.
constexpr std::size_t most_rows = 4096;
constexpr std::int64_t most_bytes = std::int64_t{16} << 20;

}  // namespace

PromptFeed::PromptFeed(const std::filesystem::path& file, InputFormat format, Shard shard) {
  std::error_code ignored;
  if (file != "-" && !std::filesystem::is_fifo(file, ignored) && !std::filesystem::is_character_file(file, ignored)) {
    input_ = open_text(file);
    reader_ = std::make_unique<PromptReader>(*input_, format, shard);
    return;
  }
  thread_ = std::thread([this, file, format, shard] { read(file, format, shard); });
}

PromptFeed::~PromptFeed() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  stop_.stop();
  changed_.notify_all();
  thread_.join();
}

void PromptFeed::read(const std::filesystem::path& file, InputFormat format, Shard shard) {
  std::exception_ptr error;
  try {
    const std::unique_ptr<std::istream> input = open_text(file, &stop_);
    PromptReader reader(*input, format, shard);
    while (std::optional<PromptLine> row = reader.next()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || (rows_.size() < most_rows && bytes_ < most_bytes); });
      if (stopped_) break;
      bytes_ += static_cast<std::int64_t>(row->text.size());
      rows_.push_back(std::move(*row));
      changed_.notify_all();
    }
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  error_ = error;
  finished_ = true;
  changed_.notify_all();
}

std::optional<PromptLine> PromptFeed::next() {
  if (reader_) {
    std::optional<PromptLine> row = reader_->next();
    finished_ = !row;
    return row;
  }
  const std::lock_guard lock(mutex_);
  if (rows_.empty()) {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::nullopt;
  }
  PromptLine row = std::move(rows_.front());
  rows_.pop_front();
  bytes_ -= static_cast<std::int64_t>(row.text.size());
  changed_.notify_all();
  return row;
}

bool PromptFeed::ended() const {
  const std::lock_guard lock(mutex_);
  return finished_ && rows_.empty() && !error_;
}

void PromptFeed::wait(double seconds) const {
  if (reader_) return;
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return finished_ || !rows_.empty(); });
}

}  // namespace photon
