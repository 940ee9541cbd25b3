#include "train/state_staging.hpp"

#include "support/log.hpp"

namespace photon {

StateStaging::StateStaging(const Parameters& weights, AdamWOptimizer& optimizer)
    : weights_(weights.specs(), Space::host, "weights on their way to a checkpoint"),
      mean_(optimizer.mean().specs(), Space::host, "first moments on their way to a checkpoint"),
      variance_(optimizer.variance().specs(), Space::host, "second moments on their way to a checkpoint"),
      stream_(device::make_stream()) {
  for (const Parameters* buffer : {&weights_, &mean_, &variance_}) {
    device::pin(buffer->flat().data(), buffer->flat().bytes());
  }
}

StateStaging::~StateStaging() {
  try {
    wait();
  } catch (const Error& error) {
    log_warning("{}", error.what());
  }
  for (const Parameters* buffer : {&weights_, &mean_, &variance_}) device::unpin(buffer->flat().data());
  device::destroy_stream(stream_);
}

void StateStaging::begin_download(const Context& ctx, const Parameters& weights, AdamWOptimizer& optimizer) {
  begun_.record(ctx.stream);
  begun_.hold(stream_);
  queue_read(stream_, weights.flat(), weights_.flat().data());
  queue_read(stream_, optimizer.mean().flat(), mean_.flat().data());
  queue_read(stream_, optimizer.variance().flat(), variance_.flat().data());
  copied_.record(stream_);
  used_ = true;
}

void StateStaging::hold(const Context& ctx) const {
  if (used_) copied_.hold(ctx.stream);
}

void StateStaging::wait() const {
  if (used_) copied_.wait();
}

void StateStaging::upload(Parameters& weights, AdamWOptimizer& optimizer) const {
  copy(weights_.flat(), weights.flat());
  copy(mean_.flat(), optimizer.mean().flat());
  copy(variance_.flat(), optimizer.variance().flat());
  weights.refresh_working_copy();
}

}  // namespace photon
