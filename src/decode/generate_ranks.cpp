#include "decode/generate_ranks.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "decode/job_files.hpp"
#include "decode/mailbox.hpp"
#include "decode/part.hpp"
#include "decode/progress.hpp"
#include "decode/prompt_feed.hpp"
#include "decode/rank_work.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

// Messages. To rank 0:
enum ToOwner : std::int64_t {
  news,      // News
  returned,  // rows, the answer to give_back
  bye,       // News, the last one: everything is written
};
// From rank 0:
enum ToRank : std::int64_t {
  rows,       // for this rank
  give_back,  // int64: how many at most
  end,        // no more rows will come
  stop,       // drop what is in flight
  alive,      // a sign of life
  over,       // int64, the last message: 0 the output is complete, 1 the job was stopped, 2 too many rows failed
};

// How a rank stands, as it travels.
struct News {
  RankReport report;
  EngineStatistics statistics;
  std::int64_t stop = 0;  // it was asked to stop
};

template <class T>
std::string pack(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::string content(sizeof value, '\0');
  std::memcpy(content.data(), &value, sizeof value);
  return content;
}

template <class T>
T unpack(const std::string& content) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  PHOTON_EXPECT(content.size() == sizeof value, "a message of {} bytes, not {}", content.size(), sizeof value);
  std::memcpy(&value, content.data(), sizeof value);
  return value;
}

constexpr double look_seconds = 0.1;      // between two looks whether the others live
constexpr double news_seconds = 0.01;     // between two reports, at least
constexpr double alive_seconds = 1.0;     // between two signs of life, at most
constexpr double stop_seconds = 60;       // a rank that was asked to stop waits so long for rank 0
constexpr std::int64_t skip_rows = 4096;  // finished rows of the prompts that are passed over between two signs of life

void pause() {
  std::this_thread::sleep_for(std::chrono::microseconds(500));
}

std::vector<int> peers_of(const Communicator& comm) {
  std::vector<int> peers;
  if (comm.rank() > 0) peers.push_back(0);
  for (int r = 1; comm.rank() == 0 && r < comm.size(); ++r) peers.push_back(r);
  return peers;
}

class RankJob {
 public:
  RankJob(World& world, DecodeGroup& group, const GenerateOptions& options, const std::function<bool()>& stop_requested)
      : world_(world),
        comm_(group.peers()),
        layout_(group.layout()),
        options_(options),
        stop_requested_(stop_requested),
        parser_(group.model().tokenizer.get(), options.defaults,
                {group.model().config().vocab_size, group.model().config().max_length, options.input_format,
                 options.engine.logprobs, options.engine.top_logprobs, options.model_name}),
        engine_(group.source(), group.model().tokenizer.get(), group.model().eos(), options.engine),
        owner_(comm_.rank() == 0),
        heard_(static_cast<std::size_t>(comm_.size()), Clock::now()),
        told_(static_cast<std::size_t>(comm_.size()), Clock::now()),
        news_(static_cast<std::size_t>(comm_.size())),
        gone_(static_cast<std::size_t>(comm_.size()), false) {}

  GenerateSummary run() {
    const auto begin = Clock::now();
    open();
    part_ = std::make_unique<PartWriter>(part_file(parts_folder(options_.output), comm_.rank()));
    work_ = std::make_unique<RankWork>(parser_, *part_, options_.engine.max_batch);
    mailbox_ = std::make_unique<Mailbox>(comm_, peers_of(comm_));
    world_.enter("decoding", options_.deadline_seconds);
    engine_.run(*work_, *work_, [this](const EngineStatistics& statistics) {
      part_->poll();
      exchange();
      if (statistics.num_active == 0 && statistics.num_waiting == 0 && work_->empty()) pause();
      return !stopping_;
    });
    part_->sync();
    part_.reset();
    finish();
    if (failed_) throw_too_many_errors(options_, owner_ ? num_errors() : engine_.statistics().errors);
    if (stopped_) {
      throw Preempted(
          fmt::format("stopped early ({} rows are written) start the same command again, on any number of ranks, "
                      "to go on",
                      owner_ ? files_->num_done() + num_new() : work_->num_finished()));
    }
    GenerateSummary summary;
    summary.engine = owner_ ? total() : engine_.statistics();
    summary.num_resumed = num_resumed_;
    summary.seconds = seconds_since(begin);
    return summary;
  }

 private:
  // Rank 0 prepares everything before the others touch a file.
  void open() {
    world_.enter("set-up", options_.deadline_seconds);
    if (owner_) {
      prompts_ = std::make_unique<PromptFeed>(options_.prompts, options_.input_format, options_.shard);
      const std::int64_t num_rows = count_rows(options_.prompts, options_.shard);
      progress_ = std::make_unique<DecodeProgress>(options_.progress, num_rows);
      files_ = std::make_unique<JobFiles>(options_);
      queue_ = std::make_unique<WorkQueue>(
          comm_.size(), [this] { return next_line(); }, [this] { return prompts_->ended(); },
          2 * comm_.size() * engine_.window_rows());
    }
    comm_.barrier();
    const std::filesystem::path folder = parts_folder(options_.output);
    if (!std::filesystem::is_directory(folder)) {
      throw InputError(fmt::format("{} does not see {}", name_of_rank(comm_.rank()), folder.string()),
                       "rank 0 made it on another file system", "put the output where all hosts can write");
    }
    log_to_file((folder / fmt::format("rank-{}.log", world_.rank())).string());
    world_.keep_operations((folder / fmt::format("operations-rank-{}.jsonl", world_.rank())).string());
    std::fill(heard_.begin(), heard_.end(), Clock::now());
  }

  std::optional<PromptLine> next_line() {
    while (std::optional<PromptLine> line = prompts_->next()) {
      if (!files_->has(line->key)) return line;
      if (++num_resumed_ % skip_rows == 0) show_life();
    }
    return std::nullopt;
  }

  News own_news() {
    News own;
    own.report = work_->report(engine_);
    own.statistics = engine_.statistics();
    own.stop = stop_requested_() ? 1 : 0;
    return own;
  }

  // Takes what has arrived, tells what is new, and looks whether the others live. Never waits.
  void exchange() {
    while (std::optional<Message> message = mailbox_->poll()) {
      heard_[static_cast<std::size_t>(message->from)] = Clock::now();
      if (owner_) {
        from_rank(*message);
      } else {
        from_owner(*message);
      }
    }
    if (owner_) {
      deal();
    } else if (!said_bye_) {
      report();
    }
    look_around();
  }

  // ---- every rank but 0

  void report() {
    const News own = own_news();
    const double age = seconds_since(told_[0]);
    const bool hungry = 2 * own.report.waiting < own.report.capacity && !mailbox_->sending();
    const bool changed = std::memcmp(&own.report, &last_report_, sizeof last_report_) != 0 || own.stop != 0;
    if (!(changed && (age > news_seconds || hungry)) && age < alive_seconds) return;
    last_report_ = own.report;
    tell(0, news, pack(own));
  }

  void from_owner(const Message& message) {
    switch (message.kind) {
      case rows:
        work_->add(unpack_rows(message.content));
        break;
      case give_back: {
        const std::vector<PromptLine> spare = work_->give_back(engine_, unpack<std::int64_t>(message.content));
        tell(0, news, pack(own_news()));
        tell(0, returned, pack_rows(spare));
        break;
      }
      case end:
        work_->end();
        break;
      case stop:
        stopping_ = true;
        break;
      case over:
        over_ = true;
        stopped_ = unpack<std::int64_t>(message.content) == 1;
        failed_ = unpack<std::int64_t>(message.content) == 2;
        break;
      default:
        break;
    }
  }

  // ---- rank 0

  void from_rank(Message& message) {
    const auto rank = static_cast<std::size_t>(message.from);
    if (message.kind == returned) {
      queue_->give_back(message.from, unpack_rows(message.content));
      return;
    }
    news_[rank] = unpack<News>(message.content);
    queue_->report(message.from, news_[rank].report);
    if (news_[rank].stop != 0) stop_wanted_ = true;
    if (message.kind == bye) gone_[rank] = true;
  }

  void deal() {
    news_[0] = own_news();
    if (news_[0].stop != 0 || too_many_errors()) stop_wanted_ = true;
    if (stop_wanted_ && !stopping_ && !ended_) {
      stopping_ = true;
      for (int r = 1; r < comm_.size(); ++r) tell(r, stop, {});
    }
    if (!stopping_ && !ended_) {
      queue_->report(0, news_[0].report);
      for (WorkQueue::Order& order : queue_->orders()) carry_out(order);
    }
    show_life();
    progress_->update(progress_figures(total(), num_resumed_));
  }

  void carry_out(WorkQueue::Order& order) {
    using Kind = WorkQueue::Order::Kind;
    if (order.kind == Kind::end) ended_ = true;
    if (order.rank > 0) {
      if (order.kind == Kind::rows) tell(order.rank, rows, pack_rows(order.rows));
      if (order.kind == Kind::give_back) tell(order.rank, give_back, pack(order.count));
      if (order.kind == Kind::end) tell(order.rank, end, {});
      return;
    }
    if (order.kind == Kind::rows) work_->add(std::move(order.rows));
    if (order.kind == Kind::give_back) {
      std::vector<PromptLine> spare = work_->give_back(engine_, order.count);
      queue_->report(0, work_->report(engine_));
      queue_->give_back(0, std::move(spare));
    }
    if (order.kind == Kind::end) work_->end();
  }

  void show_life() {
    if (!mailbox_) return;
    for (int r = 1; r < comm_.size(); ++r) {
      if (seconds_since(told_[static_cast<std::size_t>(r)]) > alive_seconds) tell(r, alive, {});
    }
  }

  EngineStatistics total() const {
    EngineStatistics sum;
    for (const News& news : news_) add(news.statistics, sum);
    return sum;
  }

  std::int64_t num_errors() const { return files_->num_errors() + total().errors; }
  bool too_many_errors() const { return options_.max_errors >= 0 && num_errors() > options_.max_errors; }

  std::int64_t num_new() const {
    std::int64_t count = 0;
    for (const News& news : news_) count += news.report.finished;
    return count;
  }

  // ---- both

  void tell(int rank, std::int64_t kind, std::string content, bool last = false) {
    mailbox_->send(rank, kind, std::move(content), last);
    told_[static_cast<std::size_t>(rank)] = Clock::now();
  }

  void look_around() {
    if (seconds_since(looked_) < look_seconds) return;
    looked_ = Clock::now();
    if (!over_) world_.check_ranks();
    for (int r = owner_ ? 1 : 0; r < (owner_ ? comm_.size() : 1); ++r) {
      const auto rank = static_cast<std::size_t>(r);
      const double silence = seconds_since(heard_[rank]);
      if (gone_[rank] || over_ || silence < options_.deadline_seconds) continue;
      throw RankError(fmt::format("rank {} heard nothing of {}", world_.rank(), name_of_rank(r)),
                      fmt::format("for {:.1f} s, the limit is {:g} s", silence, options_.deadline_seconds),
                      "look for a rank that stopped, hangs or needs longer for one group of tokens");
    }
    // A launcher asks ranks to stop also when it has lost one that this process cannot see.
    if (owner_ || over_ || !stop_requested_()) return;
    if (!asked_) asked_ = Clock::now();
    if (seconds_since(*asked_) < stop_seconds) return;
    throw RankError(fmt::format("rank {} was asked to stop, and waited {:g} s for rank 0", world_.rank(), stop_seconds),
                    "it has died or hangs", "start the same command again: finished rows are written");
  }

  // The way out: everybody has written everything, then rank 0 joins the parts, then all may go.
  void finish() {
    if (!owner_) {
      tell(0, bye, pack(own_news()), true);
      said_bye_ = true;
      while (!over_) {
        exchange();
        pause();
      }
      return;
    }
    gone_[0] = true;
    while (std::any_of(gone_.begin(), gone_.end(), [](bool gone) { return !gone; })) {
      exchange();
      pause();
    }
    news_[0] = own_news();
    progress_->finish(progress_figures(total(), num_resumed_));
    failed_ = too_many_errors();
    stopped_ = stopping_;
    if (!stopped_ && !failed_) join();
    over_ = true;
    const std::int64_t outcome = failed_ ? 2 : stopped_ ? 1 : 0;
    for (int r = 1; r < comm_.size(); ++r) tell(r, over, pack(outcome), true);
    while (mailbox_->sending()) pause();
  }

  void join() {
    world_.enter("joining the parts", options_.deadline_seconds);
    try {
      files_->complete(num_new(), [this] {
        show_life();
        mailbox_->poll();
        return !stop_requested_();
      });
    } catch (const Preempted& stopped) {
      log_info("generate: {}", stopped.what());
      stopped_ = true;
    }
  }

  // Of a rank of comm_; the world's numbers count shards too.
  std::string name_of_rank(int rank) const { return world_.name_of_rank(rank * layout_.ranks_per_group()); }

  World& world_;
  Communicator& comm_;
  DecodeLayout layout_;
  const GenerateOptions& options_;
  const std::function<bool()>& stop_requested_;
  RequestParser parser_;
  Engine engine_;
  bool owner_;
  std::unique_ptr<PartWriter> part_;
  std::unique_ptr<RankWork> work_;
  std::unique_ptr<Mailbox> mailbox_;
  std::vector<Clock::time_point> heard_;  // by rank: when something came from it, and when something went there
  std::vector<Clock::time_point> told_;
  Clock::time_point looked_ = Clock::now();
  std::optional<Clock::time_point> asked_;  // to stop
  RankReport last_report_{-1, 0, 0, 0, 0};
  bool said_bye_ = false;
  bool stopping_ = false;  // rows in flight are dropped
  bool over_ = false;      // all is done, or stopped_
  bool stopped_ = false;
  bool failed_ = false;  // more rows than max_errors

  // Rank 0 alone:
  std::unique_ptr<PromptFeed> prompts_;
  std::unique_ptr<JobFiles> files_;
  std::unique_ptr<WorkQueue> queue_;
  std::unique_ptr<DecodeProgress> progress_;
  std::vector<News> news_;
  std::vector<bool> gone_;  // said bye
  std::int64_t num_resumed_ = 0;
  bool stop_wanted_ = false;
  bool ended_ = false;  // every row is finished
};

}  // namespace

bool needs_parts(const GenerateOptions& options) {
  return options.ordered || (options.output != "-" && std::filesystem::exists(parts_folder(options.output)));
}

GenerateSummary generate_on_ranks(World& world, DecodeGroup& group, const GenerateOptions& options,
                                  const std::function<bool()>& stop_requested) {
  if (options.engine.mode == GenerationMode::recgen) require_recgen(group.model().config());
  if (options.output == "-") {
    throw InputError(options.ordered ? "--ordered cannot write to --output -"
                                     : fmt::format("{} ranks cannot write to --output -", world.size()),
                     "rows are kept in parts beside the output until all are there", "name a file");
  }
  return RankJob(world, group, options, stop_requested).run();
}

}  // namespace photon
