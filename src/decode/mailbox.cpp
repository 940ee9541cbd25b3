#include "decode/mailbox.hpp"

#include <utility>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr int header_tag = 1;
constexpr int content_tag = 2;

TensorView bytes_of(std::string& content) {
  return host_view(reinterpret_cast<std::uint8_t*>(content.data()), {static_cast<std::int64_t>(content.size())});
}

}  // namespace

Mailbox::Mailbox(Communicator& comm, const std::vector<int>& peers) : comm_(comm) {
  for (const int peer : peers) {
    Inbox& inbox = inboxes_.emplace_back();
    inbox.from = peer;
    expect(inbox);
  }
}

void Mailbox::expect(Inbox& inbox) {
  inbox.has_header = false;
  inbox.pending = comm_.start_receive(host_view(inbox.header.data(), {3}), inbox.from, header_tag);
}

void Mailbox::send(int to, std::int64_t kind, std::string content, bool last) {
  Outgoing& message = outgoing_.emplace_back();
  message.header = {kind, static_cast<std::int64_t>(content.size()), last ? 1 : 0};
  message.content = std::move(content);
  message.sending_header = comm_.send(host_view(message.header.data(), {3}), to, header_tag);
  if (!message.content.empty()) message.sending_content = comm_.send(bytes_of(message.content), to, content_tag);
}

bool Mailbox::sending() {
  std::erase_if(outgoing_, [](Outgoing& message) {
    const bool header_left = message.sending_header.done();
    return message.sending_content.done() && header_left;
  });
  return !outgoing_.empty();
}

std::optional<Message> Mailbox::poll() {
  sending();
  for (std::size_t i = 0; i < inboxes_.size(); ++i) {
    Inbox& inbox = inboxes_[(next_ + i) % inboxes_.size()];
    if (!inbox.open || !inbox.pending.done()) continue;
    if (!inbox.has_header) {
      inbox.has_header = true;
      inbox.content.assign(static_cast<std::size_t>(inbox.header[1]), '\0');
      if (!inbox.content.empty()) {
        inbox.pending = comm_.start_receive(bytes_of(inbox.content), inbox.from, content_tag);
        if (!inbox.pending.done()) continue;
      }
    }
    Message message{inbox.from, inbox.header[0], std::move(inbox.content)};
    inbox.content.clear();
    next_ = (next_ + i + 1) % inboxes_.size();
    inbox.open = inbox.header[2] == 0;
    if (inbox.open) expect(inbox);
    return message;
  }
  return std::nullopt;
}

}  // namespace photon
