#include "train/console.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "support/log.hpp"

namespace photon {
namespace {

constexpr double plain_seconds = 10;      // between plain lines by time
constexpr double terminal_seconds = 0.1;  // between renewals

std::string rate_text(double per_second) {
  return per_second < 10'000 ? fmt::format("{:.0f}", per_second) : fmt::format("{:.1f}k", per_second / 1000);
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}s", whole);
}

Console::Console(std::int64_t num_steps, std::int64_t log_every, bool silent)
    : num_steps_(num_steps), log_every_(log_every), silent_(silent), terminal_(isatty(STDERR_FILENO) == 1) {}

Console::~Console() {
  clear();
}

void Console::clear() {
  if (!open_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  open_ = false;
}

std::string Console::line(const StepRecord& record) const {
  const double left = static_cast<double>(num_steps_ - record.step) * seconds_per_step_;
  return fmt::format("step {}/{}  loss {:.4f}  lr {:.3g}  grad norm {:.3g}  {} tokens/s{}  {} left{}", record.step,
                     num_steps_, record.loss, record.lr, record.grad_norm, rate_text(record.tokens_per_second),
                     record.mfu ? fmt::format("  MFU {:.1f} %", 100 * *record.mfu) : "", duration_text(left),
                     record.skipped ? "  (skipped)" : "");
}

void Console::show(const StepRecord& record) {
  seconds_per_step_ = seconds_per_step_ == 0 ? record.seconds : 0.9 * seconds_per_step_ + 0.1 * record.seconds;
  if (silent_) return;
  const auto now = Clock::now();
  const double waited = std::chrono::duration<double>(now - shown_).count();
  const bool edge = first_ || record.step == num_steps_;
  if (terminal_) {
    if (!edge && waited < terminal_seconds) return;
    std::fprintf(stderr, "\r%s\033[K", line(record).c_str());
    open_ = record.step != num_steps_;
    if (!open_) std::fputc('\n', stderr);
    std::fflush(stderr);
  } else {
    const bool due = log_every_ > 0 ? record.step % log_every_ == 0 : waited >= plain_seconds;
    if (!edge && !due) return;
    log_info("{}", line(record));
  }
  first_ = false;
  shown_ = now;
}

void Console::show_validation(std::int64_t step, const ValidationResult& validation) {
  clear();
  log_info("step {}: validation loss {:.4f}, perplexity {:.4g}, {:.4f} bits per byte", step, validation.loss,
           std::exp(validation.ce), validation.bits_per_byte);
}

}  // namespace photon
