#include "decode/work_queue.hpp"

#include <algorithm>
#include <utility>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t grant_bytes = std::int64_t{4} << 20;  // of one message, about

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

WorkQueue::WorkQueue(int num_ranks, std::function<std::optional<PromptLine>()> read, std::function<bool()> at_end,
                     std::int64_t look_ahead, std::int64_t look_ahead_bytes)
    : ranks_(static_cast<std::size_t>(num_ranks)),
      read_(std::move(read)),
      at_end_(std::move(at_end)),
      look_ahead_(look_ahead),
      look_ahead_bytes_(look_ahead_bytes) {
  PHOTON_EXPECT(num_ranks >= 1 && look_ahead >= 1, "a queue for {} ranks with {} rows", num_ranks, look_ahead);
}

void WorkQueue::report(int rank, const RankReport& report) {
  Rank& of = ranks_[static_cast<std::size_t>(rank)];
  of.report = report;
  of.reported = true;
  PHOTON_EXPECT(of.on_the_way() >= 0 && of.held() >= 0, "rank {} has more rows than it was given", rank);
}

void WorkQueue::give_back(int rank, std::vector<PromptLine> rows) {
  Rank& of = ranks_[static_cast<std::size_t>(rank)];
  PHOTON_EXPECT(of.asked_back, "rank {} gives rows back unasked", rank);
  of.asked_back = false;
  of.returned += static_cast<std::int64_t>(rows.size());
  for (PromptLine& row : rows) {
    bytes_ += static_cast<std::int64_t>(row.text.size());
    rows_.push_front(std::move(row));
  }
}

void WorkQueue::read_ahead() {
  while (!exhausted_ && static_cast<std::int64_t>(rows_.size()) < look_ahead_ && bytes_ < look_ahead_bytes_) {
    std::optional<PromptLine> row = read_();
    dry_ = !row;
    if (!row) {
      exhausted_ = at_end_();
      return;
    }
    bytes_ += static_cast<std::int64_t>(row->text.size());
    rows_.push_back(std::move(*row));
  }
}

std::vector<PromptLine> WorkQueue::take(std::int64_t count) {
  std::vector<PromptLine> taken;
  std::int64_t size = 0;
  while (static_cast<std::int64_t>(taken.size()) < count && !rows_.empty() && (taken.empty() || size < grant_bytes)) {
    size += static_cast<std::int64_t>(rows_.front().text.size());
    taken.push_back(std::move(rows_.front()));
    rows_.pop_front();
  }
  bytes_ -= size;
  return taken;
}

void WorkQueue::give(int rank, std::int64_t count, std::vector<Order>& orders) {
  if (count <= 0) return;
  Order order{Order::Kind::rows, rank, take(count), 0};
  ranks_[static_cast<std::size_t>(rank)].granted += static_cast<std::int64_t>(order.rows.size());
  orders.push_back(std::move(order));
}

void WorkQueue::grant(std::vector<Order>& orders) {
  const int num_ranks = static_cast<int>(ranks_.size());
  std::vector<int> idle;
  std::vector<int> busy;
  for (int i = 0; i < num_ranks; ++i) {
    const int rank = (first_ + i) % num_ranks;
    (ranks_[static_cast<std::size_t>(rank)].idle() ? idle : busy).push_back(rank);
  }
  // Idle ranks come first and divide what is here; it is much unless the end is near.
  read_ahead();
  for (std::size_t i = 0; i < idle.size(); ++i) {
    const auto others = static_cast<std::int64_t>(idle.size() - i);
    const std::int64_t part = divide_up(static_cast<std::int64_t>(rows_.size()), dry_ ? others : 1);
    give(idle[i], std::min(part, ranks_[static_cast<std::size_t>(idle[i])].report.capacity), orders);
    read_ahead();
  }
  for (const int rank : busy) {
    const Rank& to = ranks_[static_cast<std::size_t>(rank)];
    const std::int64_t room = to.report.capacity - to.has();
    if (to.has() > 0 && 2 * room < to.report.capacity) continue;
    // No more than an equal share of the rows that are known to be left: what it has not started others may need.
    std::int64_t left = static_cast<std::int64_t>(rows_.size());
    for (const Rank& each : ranks_) left += each.held();
    give(rank, std::min({room, divide_up(left, num_ranks) - to.held(), static_cast<std::int64_t>(rows_.size())}),
         orders);
    read_ahead();
  }
}

void WorkQueue::ask_back(std::vector<Order>& orders) {
  if (!dry_ || !rows_.empty()) return;
  std::int64_t num_idle = 0;
  std::int64_t num_asked = 0;
  for (const Rank& rank : ranks_) {
    num_idle += rank.idle() ? 1 : 0;
    num_asked += rank.asked_back ? 1 : 0;
  }
  for (; num_asked < num_idle; ++num_asked) {
    Rank* fullest = nullptr;
    for (Rank& rank : ranks_) {
      if (!rank.asked_back && rank.spare() > 0 && (fullest == nullptr || rank.spare() > fullest->spare())) {
        fullest = &rank;
      }
    }
    if (fullest == nullptr) return;
    fullest->asked_back = true;
    // It keeps as many as each of the idle ones gets.
    orders.push_back({Order::Kind::give_back,
                      static_cast<int>(fullest - ranks_.data()),
                      {},
                      divide_up(fullest->spare() * num_idle, num_idle + 1)});
  }
}

std::vector<WorkQueue::Order> WorkQueue::orders() {
  std::vector<Order> orders;
  if (ended_ || std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return !rank.reported; })) {
    return orders;
  }
  grant(orders);
  ask_back(orders);
  first_ = (first_ + 1) % static_cast<int>(ranks_.size());
  ended_ = exhausted_ && rows_.empty() && std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
             return rank.held() == 0 && !rank.asked_back;
           });
  if (ended_) {
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
      orders.push_back({Order::Kind::end, rank, {}, 0});
    }
  }
  return orders;
}

}  // namespace photon
