#include "decode/chunk_messages.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <type_traits>
#include <utility>

#include "model/step_queue.hpp"
#include "storage/publish.hpp"
#include "tensor/buffer.hpp"

namespace photon {
namespace {

constexpr int command_tag = 1;
constexpr int rows_tag = 2;
constexpr int latents_tag = 3;
constexpr int call_tag = 4;
constexpr int first_answer_tag = 16;  // and the cohort

// Commands: what comes next from the coarse rank.
enum Kind : std::int64_t { lives, opens, sends, ends };
// Calls of a shard.
enum CallKind : std::int64_t { wants_to_stop, has_ended };

// A shard that hears nothing for this long is told that the coarse rank lives.
constexpr double silence_seconds = 10;

struct Command {
  std::int64_t kind = 0;
  std::int64_t cohort = 0;
  std::int64_t a = 0;
  std::int64_t b = 0;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
TensorView bytes_of(T* data, std::size_t count) {
  return host_view(reinterpret_cast<std::uint8_t*>(data), {static_cast<std::int64_t>(count * sizeof(T))});
}
template <class T>
ConstTensorView bytes_of(const T* data, std::size_t count) {
  return host_view(reinterpret_cast<const std::uint8_t*>(data), {static_cast<std::int64_t>(count * sizeof(T))});
}

// Rows as bytes: the numbers, then the vectors behind each other. Both ends run the same program on like machines.
struct RowsHeader {
  std::int64_t num_tokens = 0;
  std::int64_t capacity = 0;
  std::int64_t logprobs = 0;
  std::int64_t direct = 0;
  std::int64_t top_logprobs = 0;
  std::int64_t rows = 0;
  std::int64_t before = 0;
};

template <class T>
void append(std::vector<std::byte>& to, const T* data, std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t at = to.size();
  to.resize(at + count * sizeof(T));
  if (count > 0) std::memcpy(to.data() + at, data, count * sizeof(T));
}

std::vector<std::byte> pack(const ChunkRows& rows) {
  const RowsHeader header{rows.num_tokens,
                          rows.capacity,
                          rows.logprobs ? 1 : 0,
                          rows.direct ? 1 : 0,
                          rows.top_logprobs,
                          rows.size(),
                          static_cast<std::int64_t>(rows.before.size())};
  std::vector<std::byte> data;
  append(data, &header, 1);
  append(data, rows.draws.data(), rows.draws.size());
  append(data, rows.before_begin.data(), rows.before_begin.size());
  append(data, rows.forced.data(), rows.forced.size());
  append(data, rows.before.data(), rows.before.size());
  return data;
}

ChunkRows unpack(const std::vector<std::byte>& data) {
  std::size_t at = 0;
  const auto take = [&](auto* to, std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(*to);
    PHOTON_EXPECT(count >= 0 && bytes <= data.size() - at, "a message of {} bytes ends within its rows", data.size());
    if (bytes > 0) std::memcpy(to, data.data() + at, bytes);
    at += bytes;
  };
  const auto resized = [](auto& values, std::int64_t count) {
    values.resize(static_cast<std::size_t>(count));
    return values.data();
  };
  RowsHeader header;
  take(&header, 1);
  ChunkRows rows;
  rows.num_tokens = header.num_tokens;
  rows.capacity = header.capacity;
  rows.logprobs = header.logprobs != 0;
  rows.direct = header.direct != 0;
  rows.top_logprobs = header.top_logprobs;
  take(resized(rows.draws, header.rows), header.rows);
  take(resized(rows.before_begin, header.rows + 1), header.rows + 1);
  take(resized(rows.forced, header.rows * header.num_tokens), header.rows * header.num_tokens);
  take(resized(rows.before, header.before), header.before);
  PHOTON_EXPECT(at == data.size(), "a message of {} bytes holds {} of rows", data.size(), at);
  return rows;
}

// An answer travels as 32-bit words: tokens, then what there is of log-probabilities, likeliest tokens and theirs, each
// for all rows.
std::size_t num_words(std::int64_t num_tokens, bool logprobs, std::int64_t top) {
  return static_cast<std::size_t>(num_tokens * ((logprobs ? 2 : 1) + 2 * top));
}

std::vector<std::int32_t> pack(const StepResult& result) {
  std::vector<std::int32_t> words(result.tokens);
  const auto add = [&](const auto& values) {
    const std::size_t at = words.size();
    words.resize(at + values.size());
    if (!values.empty()) std::memcpy(words.data() + at, values.data(), values.size() * sizeof(std::int32_t));
  };
  add(result.logprobs);
  add(result.top_tokens);
  add(result.top_logprobs);
  return words;
}

// Of so many tokens in all rows, `chunk` of a row.
StepResult unpack(const std::vector<std::int32_t>& words, std::int64_t num_tokens, std::int64_t chunk, bool logprobs,
                  std::int64_t top) {
  StepResult result;
  result.num_tokens = chunk;
  result.num_top = top;
  const std::int32_t* from = words.data();
  const auto take = [&](auto& values, std::int64_t count) {
    values.resize(static_cast<std::size_t>(count));
    if (count > 0) std::memcpy(values.data(), from, values.size() * sizeof(std::int32_t));
    from += count;
  };
  take(result.tokens, num_tokens);
  take(result.logprobs, logprobs ? num_tokens : 0);
  take(result.top_tokens, num_tokens * top);
  take(result.top_logprobs, num_tokens * top);
  return result;
}

}  // namespace

void use_device_for_chunks(Communicator& group, const Context& ctx) {
  if (ctx.space != Space::device) return;
  std::vector<Route> routes;
  for (int shard = 1; shard < group.size(); ++shard) {
    routes.push_back({0, shard});
    routes.push_back({shard, 0});
  }
  group.use_device(ctx.stream, routes);
}

ChunkMessages::ChunkMessages(Communicator& group, std::int64_t chunk_tokens, std::int64_t num_cohorts,
                             std::optional<Space> direct)
    : group_(group),
      chunk_tokens_(chunk_tokens),
      direct_(direct),
      calls_(static_cast<std::size_t>(num_shards())),
      told_(now()) {
  PHOTON_EXPECT(group.rank() == 0 && group.size() > 1 && num_cohorts >= 1, "{} cohorts on rank {} of {}", num_cohorts,
                group.rank(), group.size());
  cohorts_.resize(static_cast<std::size_t>(num_cohorts));
  for (Cohort& cohort : cohorts_) cohort.answers.resize(calls_.size());
  for (int shard = 1; shard <= num_shards(); ++shard) listen(shard);
}

void ChunkMessages::listen(int shard) {
  Call& call = calls_[static_cast<std::size_t>(shard - 1)];
  call.pending = group_.start_receive(host_view(&call.kind, {1}), shard, call_tag);
}

void ChunkMessages::send_bytes(int shard, int tag, const void* data, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  Outgoing& message = outgoing_.emplace_back();
  message.data.assign(begin, begin + bytes);
  message.pending = group_.send(bytes_of(message.data.data(), bytes), shard, tag);
}

void ChunkMessages::send_command(int shard, std::int64_t kind, std::int64_t cohort, std::int64_t a, std::int64_t b) {
  const Command command{kind, cohort, a, b};
  send_bytes(shard, command_tag, &command, sizeof command);
}

void ChunkMessages::advance() {
  for (Outgoing& message : outgoing_) message.pending.done();
  while (!outgoing_.empty() && outgoing_.front().pending.done()) outgoing_.pop_front();
}

void ChunkMessages::open(std::int64_t number, const ChunkRows& rows) {
  advance();
  told_ = now();
  Cohort& cohort = cohorts_.at(static_cast<std::size_t>(number));
  cohort.num_rows = rows.size();
  cohort.logprobs = rows.logprobs;
  cohort.direct = rows.direct;
  PHOTON_EXPECT(!rows.direct || direct_, "a step of tokens that go from device to device where they do not");
  cohort.top_logprobs = rows.top_logprobs;
  for (int shard = 1; shard <= num_shards(); ++shard) {
    Answer& answer = cohort.answers[static_cast<std::size_t>(shard - 1)];
    answer.begin = rows.size() * (shard - 1) / num_shards();
    answer.end = rows.size() * shard / num_shards();
    if (answer.begin == answer.end) continue;
    const std::vector<std::byte> data = pack(rows.part(answer.begin, answer.end));
    send_command(shard, opens, number, static_cast<std::int64_t>(data.size()), 0);
    send_bytes(shard, rows_tag, data.data(), data.size());
  }
}

void ChunkMessages::send(std::int64_t number, std::int64_t offset, const ConstTensorView& c) {
  Cohort& cohort = cohorts_.at(static_cast<std::size_t>(number));
  PHOTON_EXPECT(c.size(0) == cohort.num_rows, "{} latents for {} rows", c.size(0), cohort.num_rows);
  for (int shard = 1; shard <= num_shards(); ++shard) {
    Answer& answer = cohort.answers[static_cast<std::size_t>(shard - 1)];
    const std::int64_t count = answer.end - answer.begin;
    if (count == 0) continue;
    send_command(shard, sends, number, offset, 0);
    Outgoing& message = outgoing_.emplace_back();
    message.pending = group_.send(c.slice(0, answer.begin, count), shard, latents_tag);
    if (cohort.direct) continue;
    answer.words.resize(num_words(count * chunk_tokens_, cohort.logprobs, cohort.top_logprobs));
    answer.pending =
        group_.start_receive(host_view(answer.words.data(), {static_cast<std::int64_t>(answer.words.size())}), shard,
                             first_answer_tag + static_cast<int>(number));
  }
  advance();
}

StepResult ChunkMessages::receive(std::int64_t number) {
  Cohort& cohort = cohorts_.at(static_cast<std::size_t>(number));
  StepResult result;
  result.num_tokens = chunk_tokens_;
  result.num_top = cohort.top_logprobs;
  for (Answer& answer : cohort.answers) {
    if (answer.begin == answer.end) continue;
    answer.pending.wait();
    const std::int64_t count = (answer.end - answer.begin) * chunk_tokens_;
    result.append(unpack(answer.words, count, chunk_tokens_, cohort.logprobs, cohort.top_logprobs));
  }
  return result;
}

std::int64_t ChunkMessages::padded_rows_of(const Answer& answer) const {
  return padded_rows(*direct_, answer.end - answer.begin);
}

std::int64_t ChunkMessages::direct_bytes(const Cohort& cohort, const Answer& answer) const {
  return padded_rows_of(answer) * chunk_tokens_ * (cohort.logprobs ? 2 : 1) * 4;
}

std::int64_t ChunkMessages::answer_bytes(std::int64_t number) const {
  const Cohort& cohort = cohorts_.at(static_cast<std::size_t>(number));
  std::int64_t bytes = 0;
  for (const Answer& answer : cohort.answers) bytes += Arena::footprint(DType::u8, direct_bytes(cohort, answer));
  return bytes;
}

std::vector<ChunkPart> ChunkMessages::receive_into(std::int64_t number, const TensorView& memory) {
  Cohort& cohort = cohorts_.at(static_cast<std::size_t>(number));
  PHOTON_EXPECT(cohort.direct && memory.bytes() == answer_bytes(number), "{} bytes for tokens of {}", memory.bytes(),
                cohort.direct ? answer_bytes(number) : 0);
  std::vector<ChunkPart> parts;
  std::int64_t at = 0;
  for (int shard = 1; shard <= num_shards(); ++shard) {
    const Answer& answer = cohort.answers[static_cast<std::size_t>(shard - 1)];
    if (answer.begin == answer.end) continue;
    const std::int64_t bytes = direct_bytes(cohort, answer);
    const TensorView view = memory.slice(0, at, bytes);
    group_.receive(view, shard, first_answer_tag + static_cast<int>(number));
    ChunkPart& part = parts.emplace_back();
    part.begin = answer.begin;
    const auto* next = static_cast<const std::byte*>(view.data());
    const auto take = [&](DType dtype) {
      const ConstTensorView row(next, dtype, memory.space(), {answer.end - answer.begin});
      next += padded_rows_of(answer) * 4;
      return row;
    };
    for (std::int64_t t = 0; t < chunk_tokens_; ++t) part.tokens.push_back(take(DType::i32));
    for (std::int64_t t = 0; t < chunk_tokens_ && cohort.logprobs; ++t) part.logprobs.push_back(take(DType::f32));
    at += Arena::footprint(DType::u8, bytes);
  }
  return parts;
}

void ChunkMessages::wait_until(const std::function<bool()>& done) {
  group_.wait_until("tokens of the shards", num_shards() == 1 ? 1 : -1, [&] {
    advance();
    return done();
  });
}

bool ChunkMessages::stop_requested() {
  advance();
  for (int shard = 1; shard <= num_shards(); ++shard) {
    Call& call = calls_[static_cast<std::size_t>(shard - 1)];
    if (!call.pending.done() || stop_requested_) continue;
    PHOTON_EXPECT(call.kind == wants_to_stop, "shard {} ended by itself", shard);
    stop_requested_ = true;
  }
  if (now() - told_ > silence_seconds) {
    told_ = now();
    for (int shard = 1; shard <= num_shards(); ++shard) send_command(shard, lives, 0, 0, 0);
  }
  return stop_requested_;
}

void ChunkMessages::finish(bool preempted) {
  for (int shard = 1; shard <= num_shards(); ++shard) send_command(shard, ends, 0, preempted ? 1 : 0, 0);
  for (Outgoing& message : outgoing_) message.pending.wait();
  outgoing_.clear();
  for (int shard = 1; shard <= num_shards(); ++shard) {
    Call& call = calls_[static_cast<std::size_t>(shard - 1)];
    call.pending.wait();
    while (call.kind != has_ended) {
      listen(shard);
      call.pending.wait();
    }
  }
}

bool serve_chunks(ChunkServer& server, Communicator& group, bool (*stop_requested)()) {
  std::deque<std::int64_t> decoding;  // cohorts, in the order in which their chunks began
  std::deque<std::pair<std::vector<std::int32_t>, Pending>> answers;
  std::int64_t call = wants_to_stop;
  Pending calling;
  bool called = false;
  std::vector<Pending> in_place;  // of each cohort: tokens that lie where the next chunk's will
  Command command;
  Pending next = group.start_receive(bytes_of(&command, 1), 0, command_tag);
  const auto is_answer = [&] { return !decoding.empty() && server.ready(decoding.front()); };
  while (true) {
    if (!called && stop_requested != nullptr && stop_requested()) {
      called = true;
      calling = group.send(host_view(&call, {1}), 0, call_tag);
    }
    // A chunk is begun as soon as it is asked for, behind the one that is being decoded: a device then never waits for
    // the way of an answer and of what follows from it.
    group.wait_until("the next command", 0, [&] { return is_answer() || next.done(); });
    if (is_answer()) {
      const std::int64_t cohort = decoding.front();
      decoding.pop_front();
      const StepResult result = server.take(cohort);
      while (!answers.empty() && answers.front().second.done()) answers.pop_front();
      auto& [words, pending] = answers.emplace_back();
      words = pack(result);
      pending = group.send(host_view(words.data(), {static_cast<std::int64_t>(words.size())}), 0,
                           first_answer_tag + static_cast<int>(cohort));
      continue;
    }
    switch (command.kind) {
      case lives:
        break;
      case opens: {
        std::vector<std::byte> data(static_cast<std::size_t>(command.a));
        group.receive(bytes_of(data.data(), data.size()), 0, rows_tag);
        in_place.resize(std::max(in_place.size(), static_cast<std::size_t>(command.cohort) + 1));
        in_place[static_cast<std::size_t>(command.cohort)].wait();
        server.open(command.cohort, unpack(data));
        break;
      }
      case sends: {
        group.receive(server.latents(command.cohort), 0, latents_tag);
        fault_point("shard.chunk");
        if (!server.direct(command.cohort)) {
          server.start(command.cohort, command.a);
          decoding.push_back(command.cohort);
          break;
        }
        Pending& sending = in_place.at(static_cast<std::size_t>(command.cohort));
        sending.wait();
        const ConstTensorView tokens = server.start_in_place(command.cohort, command.a);
        sending = group.send(tokens, 0, first_answer_tag + static_cast<int>(command.cohort));
        break;
      }
      case ends: {
        PHOTON_EXPECT(decoding.empty(), "the end while {} chunks are being decoded", decoding.size());
        for (auto& [words, pending] : answers) pending.wait();
        for (Pending& sending : in_place) sending.wait();
        calling.wait();
        std::int64_t last = has_ended;
        group.send(host_view(&last, {1}), 0, call_tag).wait();
        return command.a != 0;
      }
      default:
        PHOTON_EXPECT(false, "command {} from the coarse rank", command.kind);
    }
    next = group.start_receive(bytes_of(&command, 1), 0, command_tag);
  }
}

}  // namespace photon
