// Messages and operations under way.
#include <algorithm>
#include <utility>

#include "comm/impl.hpp"
#include "comm/limits.hpp"

namespace photon::comm {
namespace {

// Messages of collective operations use the tags above those of Communicator::send: two for each piece, by its number.
constexpr int first_tag = Communicator::max_tag + 1;
constexpr int tags_per_piece = 2;
constexpr std::uint64_t num_piece_tags = 8192;  // far more than pieces under way
constexpr std::size_t max_flights = 2;          // one piece is added up while the next one travels

}  // namespace

Group::~Group() {
  if (comm == MPI_COMM_NULL || comm == MPI_COMM_WORLD) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Comm_free(&comm);
}

void expect_tags(const Group& world) {
  void* value = nullptr;
  int found = 0;
  world.check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &value, &found), "set-up");
  constexpr int last_tag = first_tag + static_cast<int>(num_piece_tags) * tags_per_piece - 1;
  if (found == 0 || *static_cast<int*>(value) >= last_tag) return;
  throw Error(fmt::format("this MPI has tags up to {}", *static_cast<int*>(value)),
              fmt::format("photon needs them up to {}", last_tag), "use Open MPI, MPICH or one of their relatives");
}

std::string Group::describe(const std::string& operation, const char* what) const {
  return fmt::format("{} {} on rank {} of {} ({}), host {}, in phase '{}'", operation, what, rank, size, name,
                     job->host, job->phase.name);
}

void Group::check(int result, const char* operation) const {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(result, text, &length);
  throw RankError(describe(operation, "failed"), std::string(text, static_cast<std::size_t>(length)),
                  "see what the other ranks report");
}

std::vector<std::byte> Group::take_scratch(std::int64_t bytes) {
  std::vector<std::byte> scratch;
  if (!free_scratch.empty()) {
    scratch = std::move(free_scratch.back());
    free_scratch.pop_back();
  }
  if (scratch.size() < static_cast<std::size_t>(bytes)) scratch.resize(static_cast<std::size_t>(bytes));
  return scratch;
}

void Messages::send(const std::byte* data, std::int64_t bytes, int to, int tag, const char* operation) {
  std::int64_t begin = 0;
  do {
    const std::int64_t count = std::min(limits().message_bytes, bytes - begin);
    requests_.push_back(MPI_REQUEST_NULL);
    messages_.push_back({to, false, count});
    group_->check(MPI_Isend(data + begin, static_cast<int>(count), MPI_BYTE, to, tag, group_->comm, &requests_.back()),
                  operation);
    ++num_open_;
    begin += count;
  } while (begin < bytes);
}

void Messages::receive(std::byte* data, std::int64_t bytes, int from, int tag, const char* operation) {
  std::int64_t begin = 0;
  do {
    const std::int64_t count = std::min(limits().message_bytes, bytes - begin);
    requests_.push_back(MPI_REQUEST_NULL);
    messages_.push_back({from, true, count});
    group_->check(
        MPI_Irecv(data + begin, static_cast<int>(count), MPI_BYTE, from, tag, group_->comm, &requests_.back()),
        operation);
    ++num_open_;
    begin += count;
  } while (begin < bytes);
}

bool Messages::poll(const char* operation) {
  if (num_open_ == 0) return true;
  finished_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int result =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, finished_.data(), statuses_.data());
  if (count == MPI_UNDEFINED) count = 0;
  for (int i = 0; i < count; ++i) {
    const MPI_Status& status = statuses_[static_cast<std::size_t>(i)];
    if (result == MPI_ERR_IN_STATUS) group_->check(status.MPI_ERROR, operation);
    const Message& message = messages_[static_cast<std::size_t>(finished_[static_cast<std::size_t>(i)])];
    --num_open_;
    if (!message.incoming) continue;
    int bytes = 0;
    group_->check(MPI_Get_count(&status, MPI_BYTE, &bytes), operation);
    if (bytes == message.bytes) continue;
    throw RankError(group_->describe(operation, "failed"),
                    fmt::format("{} sent {} bytes where {} were expected",
                                group_->job->name_of_rank(group_->world_ranks[static_cast<std::size_t>(message.peer)]),
                                bytes, message.bytes),
                    "the ranks disagree about what they exchange: a defect in photon");
  }
  group_->check(result, operation);
  return num_open_ == 0;
}

std::string Messages::missing() const {
  bool incoming = false;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    incoming = incoming || (requests_[i] != MPI_REQUEST_NULL && messages_[i].incoming);
  }
  std::vector<int> peers;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL || messages_[i].incoming != incoming) continue;
    const int peer = group_->world_ranks[static_cast<std::size_t>(messages_[i].peer)];
    if (std::find(peers.begin(), peers.end(), peer) == peers.end()) peers.push_back(peer);
  }
  std::string text;
  for (std::size_t i = 0; i < peers.size() && i < 8; ++i) {
    text += (i == 0 ? "" : ", ") + group_->job->name_of_rank(peers[i]);
  }
  if (peers.size() > 8) text += fmt::format(" and {} more", peers.size() - 8);
  return text;
}

Operation::Operation(std::shared_ptr<Group> group, std::string name, std::int64_t bytes, int peer, int tag)
    : group_(std::move(group)),
      name_(std::move(name)),
      number_(group_->job->log.begin(name_, group_->name, bytes, peer, tag, group_->job->phase.name)) {}

bool Operation::advance() {
  if (done_ || !poll()) return done_;
  done_ = true;
  group_->job->log.end(number_);
  group_->job->end(*this);
  return true;
}

void Operation::start() {
  group_->job->begin(shared_from_this());
  advance();
}

void Operation::wait() {
  if (!done_) group_->job->wait(*this);
}

Collective::Collective(std::shared_ptr<Group> group, const char* name, std::int64_t bytes, std::int64_t num_pieces,
                       MakePiece make)
    : Operation(std::move(group), name, bytes),
      make_(std::move(make)),
      num_pieces_(num_pieces),
      first_number_(group_->num_pieces) {
  group_->num_pieces += static_cast<std::uint64_t>(num_pieces);
}

void Collective::begin_piece() {
  const std::uint64_t number = (first_number_ + static_cast<std::uint64_t>(num_begun_)) % num_piece_tags;
  flights_.push_back({make_(num_begun_), Messages(*group_), first_tag + static_cast<int>(number) * tags_per_piece});
  ++num_begun_;
}

bool Collective::poll() {
  for (;;) {
    while (flights_.size() < max_flights && num_begun_ < num_pieces_) begin_piece();
    if (flights_.empty()) return true;
    for (Flight& flight : flights_) {
      while (flight.messages.poll(name_.c_str()) && flight.next < flight.piece.steps.size()) {
        flight.messages = Messages(*group_);
        const auto& step = flight.piece.steps[flight.next];
        step(flight.messages, flight.tag + static_cast<int>(flight.next));
        ++flight.next;
      }
    }
    Flight& oldest = flights_.front();
    if (oldest.next < oldest.piece.steps.size() || !oldest.messages.poll(name_.c_str())) return false;
    if (!oldest.piece.scratch.empty()) group_->free_scratch.push_back(std::move(oldest.piece.scratch));
    flights_.pop_front();
  }
}

std::string Collective::missing() const {
  return flights_.empty() ? std::string() : flights_.front().messages.missing();
}

}  // namespace photon::comm
