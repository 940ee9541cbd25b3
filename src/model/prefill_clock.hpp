// How long a device has worked on prompts, without waiting for it.
#pragma once

#include <deque>

#include "tensor/context.hpp"
#include "tensor/graph.hpp"

namespace photon {

class PrefillClock {
 public:
  // Queues `work` between two events; on the host it just runs.
  template <class Work>
  void measure(const Context& ctx, Work&& work) {
    if (ctx.space == Space::host) return work();
    Span span;
    span.begin.record(ctx.stream);
    work();
    span.end.record(ctx.stream);
    spans_.push_back(std::move(span));
  }

  // Of the work that is done.
  double seconds() const {
    while (!spans_.empty() && spans_.front().end.reached()) {
      seconds_ += spans_.front().end.seconds_since(spans_.front().begin);
      spans_.pop_front();
    }
    return seconds_;
  }

 private:
  struct Span {
    Event begin;
    Event end;
  };
  mutable std::deque<Span> spans_;
  mutable double seconds_ = 0;
};

}  // namespace photon
