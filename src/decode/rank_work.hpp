// The rows one rank has of a job that it shares with others: what its engine reads, and what it gives back.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "decode/engine.hpp"
#include "decode/part.hpp"
#include "decode/work_queue.hpp"

namespace photon {

class RankWork : public RowSource, public ResultSink {
 public:
  // Results go to `part`. Both must outlive this.
  RankWork(const RequestParser& parser, PartWriter& part, std::int64_t max_batch)
      : parser_(parser), part_(part), max_batch_(max_batch) {}

  void add(std::vector<PromptLine> rows);
  // Up to `count` rows that neither have been started nor could be at once.
  std::vector<PromptLine> give_back(Engine& engine, std::int64_t count);
  void end() { ended_ = true; }  // no more rows will come
  RankReport report(const Engine& engine) const;
  bool empty() const { return rows_.empty(); }
  std::int64_t num_finished() const { return finished_; }

  std::optional<Row> next() override;
  bool ended() const override { return ended_ && rows_.empty(); }
  void result(const Result& result) override;
  void error(const RowError& error) override;

 private:
  std::int64_t free(const Engine& engine) const;
  void finish(std::int64_t line);

  const RequestParser& parser_;
  PartWriter& part_;
  std::int64_t max_batch_;
  std::deque<PromptLine> rows_;                               // that the engine has not read
  std::unordered_map<std::int64_t, PromptLine> with_engine_;  // by line
  std::int64_t received_ = 0;
  std::int64_t finished_ = 0;
  bool ended_ = false;
};

// Rows as the content of a message, and back. Errors: Error when the content is no such thing.
std::string pack_rows(const std::vector<PromptLine>& rows);
std::vector<PromptLine> unpack_rows(const std::string& content);

}  // namespace photon
