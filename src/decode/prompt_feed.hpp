// The rows of a prompts file as a job wants them: those that are there now, without ever waiting for whoever writes a
// pipe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "decode/request.hpp"
#include "storage/byte_stream.hpp"

namespace photon {

// A regular file is read as rows are asked for. Anything else is read by a thread of its own, ahead by a bounded number
// of rows.
class PromptFeed {
 public:
  // Errors: InputError when a regular file cannot be read.
  PromptFeed(const std::filesystem::path& file, InputFormat format, Shard shard);
  // Waits for nobody: the thread leaves a pipe that is silent.
  ~PromptFeed();
  PromptFeed(const PromptFeed&) = delete;
  PromptFeed& operator=(const PromptFeed&) = delete;

  // The next row; none where a pipe holds no whole one now, or at the end. Errors: those of PromptReader, wherever it
  // runs.
  std::optional<PromptLine> next();
  // Whether there will be no more.
  bool ended() const;
  // Until there is a row, the end or an error, at most so long; at once for a regular file.
  void wait(double seconds) const;

 private:
  void read(const std::filesystem::path& file, InputFormat format, Shard shard);

  // Of a regular file:
  std::unique_ptr<std::istream> input_;
  std::unique_ptr<PromptReader> reader_;
  // Of the thread:
  ReadStop stop_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<PromptLine> rows_;
  std::int64_t bytes_ = 0;  // of rows_
  std::exception_ptr error_;
  bool finished_ = false;  // nothing more is read
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace photon
