#include "decode/rank_work.hpp"

#include <algorithm>
#include <cstring>

#include "support/error.hpp"

namespace photon {
namespace {

// Before each row's text.
struct PackedRow {
  std::int64_t line = 0;
  std::int64_t bytes = 0;
  RowKey key;
  std::int64_t duplicate = 0;
};

}  // namespace

void RankWork::add(std::vector<PromptLine> rows) {
  received_ += static_cast<std::int64_t>(rows.size());
  for (PromptLine& row : rows) rows_.push_back(std::move(row));
}

std::int64_t RankWork::free(const Engine& engine) const {
  const EngineStatistics& statistics = engine.statistics();
  const std::int64_t slots = statistics.num_slots > 0 ? statistics.num_slots : max_batch_;
  return std::max<std::int64_t>(slots - statistics.num_active, 0);
}

RankReport RankWork::report(const Engine& engine) const {
  RankReport report;
  report.received = received_;
  report.finished = finished_;
  report.waiting = static_cast<std::int64_t>(rows_.size()) + engine.statistics().num_waiting;
  report.free = free(engine);
  report.capacity = engine.window_rows();
  return report;
}

std::vector<PromptLine> RankWork::give_back(Engine& engine, std::int64_t count) {
  const RankReport now = report(engine);
  count = std::min(count, now.waiting - now.free);
  std::vector<PromptLine> rows;
  for (; count > 0 && !rows_.empty(); --count) {
    rows.push_back(std::move(rows_.back()));
    rows_.pop_back();
  }
  for (const std::int64_t line : engine.give_back(count)) {
    const auto row = with_engine_.find(line);
    PHOTON_EXPECT(row != with_engine_.end(), "the engine gives back line {}, which it does not have", line);
    rows.push_back(std::move(row->second));
    with_engine_.erase(row);
  }
  return rows;
}

std::optional<Row> RankWork::next() {
  if (rows_.empty()) return std::nullopt;
  PromptLine line = std::move(rows_.front());
  rows_.pop_front();
  Row row = parser_.parse(line);
  with_engine_.emplace(line.line, std::move(line));
  return row;
}

void RankWork::result(const Result& result) {
  part_.result(result);
  finish(result.line);
}

void RankWork::error(const RowError& error) {
  part_.error(error);
  finish(error.line);
}

void RankWork::finish(std::int64_t line) {
  with_engine_.erase(line);
  ++finished_;
}

std::string pack_rows(const std::vector<PromptLine>& rows) {
  std::string content;
  for (const PromptLine& row : rows) {
    const PackedRow packed{row.line, static_cast<std::int64_t>(row.text.size()), row.key, row.duplicate ? 1 : 0};
    content.append(reinterpret_cast<const char*>(&packed), sizeof packed);
    content += row.text;
  }
  return content;
}

std::vector<PromptLine> unpack_rows(const std::string& content) {
  std::vector<PromptLine> rows;
  for (std::size_t at = 0; at < content.size();) {
    PackedRow packed;
    const std::size_t left = content.size() - at;
    if (left >= sizeof packed) std::memcpy(&packed, content.data() + at, sizeof packed);
    if (left < sizeof packed || packed.bytes < 0 || static_cast<std::size_t>(packed.bytes) > left - sizeof packed) {
      throw Error("rows arrived damaged from another rank", "their lengths do not add up",
                  "this is a defect in photon");
    }
    at += sizeof packed;
    PromptLine& row = rows.emplace_back();
    row.line = packed.line;
    row.key = packed.key;
    row.duplicate = packed.duplicate != 0;
    row.text = content.substr(at, static_cast<std::size_t>(packed.bytes));
    at += static_cast<std::size_t>(packed.bytes);
  }
  return rows;
}

}  // namespace photon
