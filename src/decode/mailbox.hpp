// Messages between rank 0 and the others of which nobody knows beforehand when they come or how long they are. Nothing
// here waits: it goes on at every poll().
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace photon {

struct Message {
  int from = 0;
  std::int64_t kind = 0;
  std::string content;
};

class Mailbox {
 public:
  // Opens the way to `peers`: on rank 0 all others, elsewhere rank 0.
  Mailbox(Communicator& comm, const std::vector<int>& peers);

  // `last`: no more goes to that rank, and it expects no more.
  void send(int to, std::int64_t kind, std::string content, bool last = false);
  // The next message that has arrived, in the order in which its sender sent it.
  std::optional<Message> poll();
  // Messages that have not left yet.
  bool sending();

 private:
  using Header = std::array<std::int64_t, 3>;  // kind, bytes of the content, whether it is the last one
  struct Inbox {
    int from = 0;
    bool open = true;
    bool has_header = false;
    Header header{};
    std::string content;
    Pending pending;
  };
  struct Outgoing {
    Header header{};
    std::string content;
    Pending sending_header;
    Pending sending_content;
  };
  void expect(Inbox& inbox);

  Communicator& comm_;
  std::deque<Inbox> inboxes_;
  std::list<Outgoing> outgoing_;
  std::size_t next_ = 0;
};

}  // namespace photon
