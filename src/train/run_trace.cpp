#include "train/run_trace.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"
#include "train/gather_bytes.hpp"

namespace photon {
namespace {

using Json = nlohmann::json;

std::vector<std::uint8_t> pack(const TraceTrack& track) {
  Json spans = Json::array();
  for (const TraceSpan& span : track.spans) {
    spans.push_back({span.name, span.category, span.begin_ns, span.end_ns, span.message, span.receives});
  }
  return Json::to_cbor(Json{{"label", track.label}, {"host", track.host}, {"spans", std::move(spans)}});
}

TraceTrack unpack(std::int64_t rank, const std::vector<std::uint8_t>& bytes) {
  const Json packed = Json::from_cbor(bytes);
  TraceTrack track;
  track.rank = rank;
  track.label = packed.at("label");
  track.host = packed.at("host");
  for (const Json& span : packed.at("spans")) {
    track.spans.push_back({.name = span.at(0),
                           .category = span.at(1),
                           .begin_ns = span.at(2),
                           .end_ns = span.at(3),
                           .message = span.at(4),
                           .receives = span.at(5)});
  }
  return track;
}

// One offset for the whole trace: the middle of the two measurements.
void align(TraceTrack& track, const ClockOffset& before, const ClockOffset& after) {
  track.clock_drift_ns = after.offset_ns - before.offset_ns;
  track.clock_offset_ns = before.offset_ns + track.clock_drift_ns / 2;
  track.clock_uncertainty_ns = std::max(before.uncertainty_ns, after.uncertainty_ns);
  for (TraceSpan& span : track.spans) {
    span.begin_ns -= track.clock_offset_ns;
    span.end_ns -= track.clock_offset_ns;
  }
}

bool parse_number(std::string_view text, std::int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

StepRange parse_step_range(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string_view all(text);
  StepRange range;
  const bool numbers = parse_number(all.substr(0, colon), range.first) &&
                       parse_number(colon == std::string::npos ? all : all.substr(colon + 1), range.last);
  if (!numbers || range.first < 1 || range.last < range.first) {
    throw InputError(fmt::format("'{}' names no steps", text), "steps are counted from 1, as FIRST:LAST",
                     "write for instance 10:12");
  }
  return range;
}

RunTrace::RunTrace(std::filesystem::path file, StepRange steps, std::string label, std::string host)
    : file_(std::move(file)), steps_(steps), label_(std::move(label)), host_(std::move(host)) {}

void RunTrace::before_step(std::int64_t step, Communicator& all) {
  if (!wants(step) || first_ != 0) return;
  first_ = step;
  clocks_ = measure_clock_offsets(all);
}

void RunTrace::after_step(std::int64_t step, std::vector<TraceSpan> spans, Communicator& all) {
  if (!wants(step)) return;
  last_ = step;
  std::move(spans.begin(), spans.end(), std::back_inserter(spans_));
  if (step == steps_.last) write(all);
}

void RunTrace::finish(Communicator& all) {
  if (written_) return;
  if (last_ == 0) {
    log_warning("no trace is written (training ended before step {}) choose other steps with --trace-steps",
                steps_.first);
    return;
  }
  write(all);
}

void RunTrace::write(Communicator& all) {
  written_ = true;
  const std::vector<ClockOffset> after = measure_clock_offsets(all);
  const auto packed =
      gather_bytes(all, pack({.rank = all.rank(), .label = label_, .host = host_, .spans = std::exchange(spans_, {})}));
  if (all.rank() != 0) return;
  Trace trace{.first_step = first_, .last_step = last_, .tracks = {}};
  for (std::size_t rank = 0; rank < packed.size(); ++rank) {
    trace.tracks.push_back(unpack(static_cast<std::int64_t>(rank), packed[rank]));
    align(trace.tracks.back(), clocks_[rank], after[rank]);
  }
  try {
    if (file_.has_parent_path()) std::filesystem::create_directories(file_.parent_path());
    publish_file(file_, trace_json(trace), "trace");
    log_info("the trace of steps {} to {} is in {}", first_, last_, file_.string());
  } catch (const std::exception& error) {  // training is worth more than its trace
    log_warning("the trace is lost: {}", error.what());
  }
}

}  // namespace photon
