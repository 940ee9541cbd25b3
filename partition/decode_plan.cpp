#include "partition/decode_plan.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr double worth_more_parts = 1.02;  // what a layout of several parts must be faster to be chosen

struct Part {
  const char* name;
  double seconds;
};

std::string largest_part(const DecodeSeconds& busy) {
  const Part parts[] = {{"matrix products", busy.arithmetic},
                        {"reading weights", busy.weights},
                        {"reading caches", busy.caches},
                        {"activations", busy.activations},
                        {"starting ops", busy.ops}};
  const Part* most = std::max_element(std::begin(parts), std::end(parts),
                                      [](const Part& a, const Part& b) { return a.seconds < b.seconds; });
  return fmt::format("{} ({:.0f} %)", most->name, busy.total() > 0 ? 100 * most->seconds / busy.total() : 0);
}

std::int64_t ceil_div(std::int64_t n, std::int64_t by) {
  return (n + by - 1) / by;
}

class Planner {
 public:
  Planner(const ModelConfig& config, const Cluster& cluster, const DecodeAsk& ask)
      : config_(config), cluster_(cluster), ask_(ask), cost_(config, cluster, ask.precision) {
    capacity_ = decode_capacity(config, ask.prompt_tokens + ask.new_tokens);
    context_ = static_cast<double>(ask.prompt_tokens) + static_cast<double>(ask.new_tokens) / 2;
  }

  DecodeForecast forecast(const DecodeLayout& layout) const {
    DecodeForecast empty;
    empty.layout = layout;
    empty.capacity = capacity_;
    empty.most_rows = most_rows(layout.shards);
    if (empty.most_rows == 0) {
      std::int64_t bytes = 0;
      for (const DecodeRole role : roles(layout.shards))
        bytes = std::max(bytes, memory(role, layout.shards, 1).total());
      empty.problem =
          fmt::format("one sequence of {} tokens needs {:.1f} GiB on {}, which has {:.1f}", capacity_,
                      static_cast<double>(bytes) / 0x1p30, layout.shards == 0 ? "a rank" : "its fullest rank",
                      static_cast<double>(cluster_.memory_bytes) / 0x1p30);
      return empty;
    }
    if (ask_.batch > 0) {
      const std::int64_t rows = ceil_div(ask_.batch, layout.num_groups());
      if (rows > empty.most_rows) {
        empty.problem = fmt::format("{} sequences do not fit, {} would", ask_.batch, empty.over_all(empty.most_rows));
        return empty;
      }
      return filled(empty, rows);
    }
    // Every power of two, and the most.
    std::set<std::int64_t> tries{empty.most_rows};
    for (std::int64_t rows = 1; rows < empty.most_rows; rows *= 2) tries.insert(rows);
    DecodeForecast best;
    for (const std::int64_t rows : tries) {
      const DecodeForecast one = filled(empty, rows);
      if (one.tokens_per_second > best.tokens_per_second) best = one;
    }
    return best;
  }

 private:
  static std::vector<DecodeRole> roles(std::int64_t shards) {
    if (shards == 0) return {DecodeRole::whole};
    return {DecodeRole::coarse, DecodeRole::shard};
  }

  DecodeMemory memory(DecodeRole role, std::int64_t shards, std::int64_t rows) const {
    const std::int64_t own = role == DecodeRole::shard ? ceil_div(rows, shards) : rows;
    return decode_memory(config_, ask_.precision, ask_.mode, role, own, capacity_, shards == 0 ? 1 : decode_cohorts,
                         cluster_.memory_bytes);
  }

  bool fits(std::int64_t shards, std::int64_t rows) const {
    const std::vector<DecodeRole> all = roles(shards);
    return std::all_of(all.begin(), all.end(), [&](DecodeRole role) {
      const DecodeMemory use = memory(role, shards, rows);
      // On a CPU the engine takes half of what is free for caches.
      if (ask_.precision == Precision::fp32)
        return use.weights + 2 * (use.total() - use.weights) <= cluster_.memory_bytes;
      return use.total() <= cluster_.memory_bytes;
    });
  }

  std::int64_t most_rows(std::int64_t shards) const {
    std::int64_t fit = 0;
    std::int64_t too_many = 1;
    while (fits(shards, too_many)) {
      fit = too_many;
      too_many *= 2;
      PHOTON_EXPECT(too_many < (std::int64_t{1} << 40), "rows without bytes");
    }
    while (too_many - fit > 1) {
      const std::int64_t middle = fit + (too_many - fit) / 2;
      (fits(shards, middle) ? fit : too_many) = middle;
    }
    return fit;
  }

  // RecGen's chunks in one call; where they are decoded is a rank with the whole model, or a shard.
  std::int64_t max_chunks(std::int64_t shards) const {
    if (ask_.precision == Precision::fp32) return host_max_chunks;
    if (shards > 0) return device_max_chunks;
    const DecodeMemory one = memory(DecodeRole::whole, 0, 1);
    return decode_reserve(config_, cost_.element(), true, cluster_.memory_bytes - one.weights - device_spare_bytes)
        .max_chunks;
  }
  // Groups that RecGen's coarse stream runs ahead, as the engine chooses them.
  std::int64_t look_ahead(std::int64_t rows, std::int64_t shards) const {
    const std::int64_t chunks = config_.group_tokens() / config_.cumulative_chunk(1);
    return std::clamp<std::int64_t>(max_chunks(shards) / (rows * chunks), 1,
                                    std::max<std::int64_t>(1, groups_of_an_answer()));
  }
  std::int64_t groups_of_an_answer() const { return ceil_div(ask_.new_tokens, config_.group_tokens()); }

  // Seconds of the level-1 chunks of `groups` groups of `rows` rows, in calls of so many chunks.
  DecodeSeconds chunks(std::int64_t rows, std::int64_t groups, std::int64_t most) const {
    const std::int64_t all = rows * groups * (config_.group_tokens() / config_.cumulative_chunk(1));
    DecodeSeconds sum = static_cast<double>(all / most) * cost_.chunk(most);
    if (all % most > 0) sum += cost_.chunk(all % most);
    return sum;
  }

  DecodeForecast filled(DecodeForecast forecast, std::int64_t rows) const {
    forecast.rows = rows;
    const int shards = forecast.layout.shards;
    for (const DecodeRole role : roles(shards)) {
      DecodeRank& rank = forecast.ranks.emplace_back();
      rank.role = role;
      rank.rows = role == DecodeRole::shard ? ceil_div(rows, shards) : rows;
      rank.memory = memory(role, shards, rows);
    }
    if (shards == 0) {
      whole(forecast, rows);
    } else {
      apart(forecast, rows);
    }
    const auto tokens = static_cast<double>(forecast.over_all(rows));
    const auto group = static_cast<double>(config_.group_tokens());
    const auto answer = static_cast<double>(ask_.new_tokens);
    forecast.tokens_per_second = tokens * group / forecast.step_seconds;
    const double prompts = static_cast<double>(rows) * cost_.prefill_seconds(ask_.prompt_tokens);
    forecast.end_to_end_tokens_per_second = tokens * answer / (forecast.step_seconds * answer / group + prompts);
    return forecast;
  }

  void whole(DecodeForecast& forecast, std::int64_t rows) const {
    DecodeRank& rank = forecast.ranks[0];
    if (ask_.mode == DecodeMode::hiergen) {
      rank.busy = cost_.whole_step(rows, context_);
    } else {
      const std::int64_t groups = look_ahead(rows, 0);
      rank.busy = cost_.roll_out(rows, groups, context_);
      rank.busy += chunks(rows, groups, max_chunks(0));
      rank.busy = 1.0 / static_cast<double>(groups) * rank.busy;
    }
    forecast.step_seconds = rank.busy.total();
    forecast.bound = largest_part(rank.busy);
  }

  void apart(DecodeForecast& forecast, std::int64_t rows) const {
    DecodeRank& coarse = forecast.ranks[0];
    DecodeRank& shard = forecast.ranks[1];
    const auto chunks_a_group = config_.group_tokens() / config_.cumulative_chunk(1);
    const std::int64_t cohorts = std::min(decode_cohorts, rows);
    const std::int64_t cohort_rows = ceil_div(rows, cohorts);
    const std::int64_t shard_rows = ceil_div(cohort_rows, forecast.layout.shards);
    const auto e = static_cast<double>(cost_.element());
    // c(1) of every chunk there, C_1 tokens back; sampling options and given tokens once a macro-step.
    const double there = e * static_cast<double>(config_.width(1));
    const double back = 4 * static_cast<double>(config_.cumulative_chunk(1));
    const double once = 88 + 4 * static_cast<double>(config_.group_tokens());
    // The ranks of a group lie behind each other: a group within a node talks within it.
    const Link& link =
        forecast.layout.ranks_per_group() <= cluster_.ranks_per_node ? cluster_.within_node : cluster_.between_nodes;
    const auto rows_sent = static_cast<double>(cohort_rows);
    const auto num = static_cast<double>(chunks_a_group);
    DecodeSeconds a;
    DecodeSeconds s;
    double latencies = 2 * num;
    if (ask_.mode == DecodeMode::hiergen) {
      a = cost_.coarse_step(cohort_rows, context_);
      s = num * cost_.chunk(shard_rows);
    } else {
      const std::int64_t groups = look_ahead(cohort_rows, forecast.layout.shards);
      const double share = 1.0 / static_cast<double>(groups);
      a = share * cost_.roll_out(cohort_rows, groups, context_);
      s = share * chunks(shard_rows, groups, max_chunks(forecast.layout.shards));
      latencies = 2 * share;
    }
    const double bytes = rows_sent * (num * (there + back) + once);
    const double messages = link.bandwidth > 0 ? latencies * link.latency + bytes / link.bandwidth
                                               : std::numeric_limits<double>::infinity();
    forecast.message_seconds = messages;
    const auto times = static_cast<double>(cohorts);
    coarse.busy = times * a;
    shard.busy = times * s;
    coarse.sent_bytes = times * rows_sent * (num * there + once);
    shard.sent_bytes = times * static_cast<double>(shard_rows) * num * back;
    const double path = a.total() + s.total() + messages;
    forecast.step_seconds = cohorts == 1 ? path : std::max({coarse.busy.total(), shard.busy.total(), path});
    if (forecast.step_seconds == path) {
      forecast.bound =
          fmt::format("one cohort's way through both sides ({:.0f} % of it messages)", 100 * messages / path);
    } else if (coarse.busy.total() > shard.busy.total()) {
      forecast.bound = "the coarse rank: " + largest_part(coarse.busy);
    } else {
      forecast.bound = "the shards: " + largest_part(shard.busy);
    }
  }

  const ModelConfig& config_;
  const Cluster& cluster_;
  const DecodeAsk& ask_;
  DecodeCost cost_;
  std::int64_t capacity_ = 0;
  double context_ = 0;  // tokens that rows hold on average
};

void check(const ModelConfig& config, const DecodeAsk& ask) {
  if (ask.prompt_tokens < 0 || ask.new_tokens < 1 || ask.batch < 0) {
    throw InputError(
        fmt::format("{} new tokens after prompts of {} in a batch of {}", ask.new_tokens, ask.prompt_tokens, ask.batch),
        "nothing would be decoded", "ask for one new token or more");
  }
  if (config.max_length > 0 && ask.prompt_tokens + ask.new_tokens > config.max_length) {
    throw InputError(fmt::format("{} prompt and {} new tokens", ask.prompt_tokens, ask.new_tokens),
                     fmt::format("the model's max_length is {}", config.max_length), "ask for fewer");
  }
  if (ask.mode == DecodeMode::recgen && (config.num_levels() < 2 || config.lookback > 0)) {
    throw InputError("RecGen cannot be planned", "it needs two levels or more, and no lookback", "use --mode hiergen");
  }
  if (ask.shards > 0) require_decoder_shards(config);
}

}  // namespace

DecodePlan plan_decode(const ModelConfig& config, const Cluster& cluster, const DecodeAsk& ask) {
  check(config, ask);
  const Planner planner(config, cluster, ask);
  const auto num_ranks = static_cast<int>(cluster.num_ranks);
  DecodePlan plan;
  if (ask.shards >= 0) {
    plan.layouts.push_back(planner.forecast(decode_layout(num_ranks, static_cast<int>(ask.shards))));
  } else {
    for (int shards = 0; shards < num_ranks; ++shards) {
      if (num_ranks % (1 + shards) != 0 || (shards > 0 && config.type == ModelType::vanilla)) continue;
      plan.layouts.push_back(planner.forecast(decode_layout(num_ranks, shards)));
    }
  }
  const DecodeForecast* best = nullptr;
  for (const DecodeForecast& one : plan.layouts) {
    if (!one.possible()) continue;
    if (best == nullptr || one.tokens_per_second > worth_more_parts * best->tokens_per_second) best = &one;
  }
  if (best == nullptr) {
    const DecodeForecast& roomiest = *std::max_element(plan.layouts.begin(), plan.layouts.end(),
                                                       [](const DecodeForecast& a, const DecodeForecast& b) {
                                                         return a.over_all(a.most_rows) < b.over_all(b.most_rows);
                                                       });
    const std::int64_t most = roomiest.over_all(roomiest.most_rows);
    throw InputError(
        "no layout of these ranks can decode that", roomiest.problem,
        most > 0 ? fmt::format("the nearest that fits is --batch {} with {}", most, layout_text(roomiest.layout))
                 : "use shorter sequences, a smaller model or ranks with more memory");
  }
  plan.chosen = static_cast<std::size_t>(best - plan.layouts.data());
  const DecodeForecast* second = nullptr;
  for (const DecodeForecast& one : plan.layouts) {
    if (&one != best && one.possible() && (second == nullptr || one.tokens_per_second > second->tokens_per_second))
      second = &one;
  }
  if (second == nullptr) {
    plan.reason = "the only one that fits";
  } else {
    plan.reason = fmt::format("{:.2f} times the tokens/s of {}", best->tokens_per_second / second->tokens_per_second,
                              layout_text(second->layout));
    if (best->tokens_per_second < second->tokens_per_second) plan.reason += ", which is not worth its messages";
  }
  return plan;
}

std::string layout_text(const DecodeLayout& layout) {
  const int groups = layout.num_groups();
  if (layout.shards == 0) return groups == 1 ? "one rank" : fmt::format("{} replicas", groups);
  const std::string group = fmt::format("coarse rank + {} shard{}", layout.shards, layout.shards == 1 ? "" : "s");
  return groups == 1 ? group : fmt::format("{} x ({})", groups, group);
}

const char* name_of(DecodeRole role) {
  switch (role) {
    case DecodeRole::whole:
      return "whole";
    case DecodeRole::coarse:
      return "coarse";
    case DecodeRole::shard:
      break;
  }
  return "shard";
}

}  // namespace photon
