#include "train/state_staging.hpp"

#include "support/log.hpp"

namespace photon {

StateStaging::StateStaging(const Parameters& weights, AdamWOptimizer& optimizer)
    : weights_(weights.specs(), Space::host, "weights on their way to a checkpoint"),
      mean_(optimizer.mean().specs(), Space::host, "first moments on their way to a checkpoint"),
      variance_(optimizer.variance().specs(), Space::host, "second moments on their way to a checkpoint") {
  if (weights.flat().space() == Space::host) return;
  copies_.emplace();
  copies_->stream = device::make_stream();
  for (const Parameters* buffer : {&weights_, &mean_, &variance_}) {
    device::pin(buffer->flat().data(), buffer->flat().bytes());
  }
}

StateStaging::~StateStaging() {
  if (!copies_) return;
  try {
    wait();
  } catch (const Error& error) {
    log_warning("{}", error.what());
  }
  for (const Parameters* buffer : {&weights_, &mean_, &variance_}) device::unpin(buffer->flat().data());
  device::destroy_stream(copies_->stream);
}

void StateStaging::begin_download(const Context& ctx, const Parameters& weights, AdamWOptimizer& optimizer) {
  if (!copies_) {
    copy(weights.flat(), weights_.flat());
    copy(optimizer.mean().flat(), mean_.flat());
    copy(optimizer.variance().flat(), variance_.flat());
    return;
  }
  const Stream stream = copies_->stream;
  copies_->begun.record(ctx.stream);
  copies_->begun.hold(stream);
  queue_read(stream, weights.flat(), weights_.flat().data());
  queue_read(stream, optimizer.mean().flat(), mean_.flat().data());
  queue_read(stream, optimizer.variance().flat(), variance_.flat().data());
  copies_->copied.record(stream);
  copies_->used = true;
}

void StateStaging::hold(const Context& ctx) const {
  if (copies_ && copies_->used) copies_->copied.hold(ctx.stream);
}

void StateStaging::wait() const {
  if (copies_ && copies_->used) copies_->copied.wait();
}

void StateStaging::upload(Parameters& weights, AdamWOptimizer& optimizer) const {
  copy(weights_.flat(), weights.flat());
  copy(mean_.flat(), optimizer.mean().flat());
  copy(variance_.flat(), optimizer.variance().flat());
  weights.refresh_working_copy();
}

}  // namespace photon
