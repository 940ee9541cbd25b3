// Times programs: what each rank does when, who waits for whom. Ranks work through their programs in order; a message
// leaves as soon as its sender reaches it, while the sender goes on, and occupies the sender's way out and the
// receiver's way in; a receiver waits until the message is there; a collective begins when its last rank has arrived,
// one that is started without waiting also when its ranks have done those that they started before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace photon {

// One instruction with its cost. `start` begins a collective, and `finish` waits for all that its rank has started.
struct TimedInstruction {
  enum class Kind : std::uint8_t { compute, send, receive, collective, start, finish };
  Kind kind = Kind::compute;
  std::string name;    // for timelines: "forward 3"
  double seconds = 0;  // compute: work; send: time the message occupies the link; collective, start: once all are there
  double latency = 0;  // send: until its first byte arrives
  std::int64_t peer = -1;       // send, receive: the other rank
  std::int64_t message = 0;     // send, receive: what tells messages between two ranks apart
  std::int64_t group = -1;      // collective, start: its members meet under this number, in the order of their programs
  std::int64_t group_size = 1;  // collective, start: ranks that take part
  std::int64_t memory = 0;      // bytes taken when it begins (above 0) or given back when it ends (below 0)
};
using TimedProgram = std::vector<TimedInstruction>;

// What a rank was busy with; gaps are waits.
struct Span {
  std::int64_t instruction = 0;  // index into the rank's program
  double begin = 0;              // seconds from the start of the step
  double end = 0;
};

struct RankTimes {
  double compute = 0;        // seconds of compute
  double communication = 0;  // seconds waiting in collectives, once the others have arrived
  double wait = 0;           // seconds waiting for messages and for other ranks
  double end = 0;            // of its last instruction
  std::int64_t peak_memory = 0;
  std::vector<Span> spans;
};

struct Simulation {
  double seconds = 0;  // until the last rank is done and the last message has arrived
  // Share of the ranks' time between the start and the end of the step that is not compute.
  double bubble = 0;
  std::vector<RankTimes> ranks;
};

// Errors: ContractError naming ranks and instructions when programs wait for each other for ever, or leave messages
// that nobody receives.
Simulation simulate(const std::vector<TimedProgram>& programs);

}  // namespace photon
