#include "trace/trace.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "support/error.hpp"
#include "support/version.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

constexpr int format_version = 1;

double microseconds(std::int64_t ns) {
  return static_cast<double>(ns) / 1000;
}
std::int64_t nanoseconds(const Json& us) {
  return static_cast<std::int64_t>(std::llround(us.get<double>() * 1000));
}

std::int64_t earliest(const Trace& trace) {
  std::int64_t begin = std::numeric_limits<std::int64_t>::max();
  for (const TraceTrack& track : trace.tracks) {
    for (const TraceSpan& span : track.spans) begin = std::min(begin, span.begin_ns);
  }
  return begin;
}

Json describe(const Trace& trace) {
  Json ranks = Json::array();
  std::int64_t worst = 0;
  for (const TraceTrack& track : trace.tracks) {
    Json rank{{"rank", track.rank}, {"label", track.label}};
    if (!track.host.empty()) rank["host"] = track.host;
    rank["clock_offset_us"] = microseconds(track.clock_offset_ns);
    rank["clock_uncertainty_us"] = microseconds(track.clock_uncertainty_ns);
    rank["clock_drift_us"] = microseconds(track.clock_drift_ns);
    ranks.push_back(std::move(rank));
    worst = std::max(worst, track.clock_uncertainty_ns + std::abs(track.clock_drift_ns));
  }
  return {{"program", std::string("photon ") + version},
          {"format_version", format_version},
          {"kind", trace.predicted ? "predicted" : "measured"},
          {"first_step", trace.first_step},
          {"last_step", trace.last_step},
          {"clock_uncertainty_us", microseconds(worst)},
          {"ranks", ranks}};
}

// Arrows between the two ends of each message: flow events bind to the span that encloses their time on their track.
class Flows {
 public:
  void add(Json& events, const TraceSpan& span, std::int64_t track, std::int64_t origin) {
    if (span.message.empty()) return;
    const auto id = ids_.try_emplace(span.message, static_cast<std::int64_t>(ids_.size()) + 1).first->second;
    const std::int64_t length = span.end_ns - span.begin_ns;
    const std::int64_t time = span.receives ? span.end_ns - std::min<std::int64_t>(length / 2, 500) : span.begin_ns;
    Json event{{"ph", span.receives ? "f" : "s"},
               {"name", "message"},
               {"cat", "message"},
               {"id", id},
               {"pid", 0},
               {"tid", track},
               {"ts", microseconds(time - origin)}};
    if (span.receives) event["bp"] = "e";
    events.push_back(std::move(event));
  }

 private:
  std::map<std::string, std::int64_t> ids_;
};

}  // namespace

std::string trace_json(const Trace& trace) {
  Json events = Json::array();
  events.push_back({{"ph", "M"},
                    {"name", "process_name"},
                    {"pid", 0},
                    {"tid", 0},
                    {"args", {{"name", trace.predicted ? "photon, predicted" : "photon"}}}});
  const std::int64_t origin = earliest(trace);
  Flows flows;
  for (const TraceTrack& track : trace.tracks) {
    std::string name = "rank " + std::to_string(track.rank);
    if (!track.label.empty()) name += ": " + track.label;
    events.push_back(
        {{"ph", "M"}, {"name", "thread_name"}, {"pid", 0}, {"tid", track.rank}, {"args", {{"name", name}}}});
    events.push_back({{"ph", "M"},
                      {"name", "thread_sort_index"},
                      {"pid", 0},
                      {"tid", track.rank},
                      {"args", {{"sort_index", track.rank}}}});
    for (const TraceSpan& span : track.spans) {
      events.push_back({{"ph", "X"},
                        {"name", span.name},
                        {"cat", span.category},
                        {"pid", 0},
                        {"tid", track.rank},
                        {"ts", microseconds(span.begin_ns - origin)},
                        {"dur", microseconds(span.end_ns - span.begin_ns)}});
      flows.add(events, span, track.rank, origin);
    }
  }
  const Json file{{"displayTimeUnit", "ms"}, {"otherData", describe(trace)}, {"traceEvents", events}};
  // Host names and labels may hold anything.
  return file.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Trace parse_trace(const std::string& text, const std::string& where) {
  try {
    const Json file = Json::parse(text);
    const Json& other = file.at("otherData");
    if (other.at("format_version").get<int>() > format_version) {
      throw InputError(fmt::format("{} cannot be read", where),
                       fmt::format("its format_version is {}, this program knows {}",
                                   other.at("format_version").get<int>(), format_version),
                       "use the program that wrote it, or a newer one");
    }
    Trace trace;
    trace.predicted = other.at("kind") == "predicted";
    trace.first_step = other.at("first_step").get<std::int64_t>();
    trace.last_step = other.at("last_step").get<std::int64_t>();
    std::map<std::int64_t, std::size_t> places;
    for (const Json& rank : other.at("ranks")) {
      TraceTrack track;
      track.rank = rank.at("rank").get<std::int64_t>();
      track.label = rank.at("label").get<std::string>();
      track.host = rank.value("host", "");
      track.clock_offset_ns = nanoseconds(rank.at("clock_offset_us"));
      track.clock_uncertainty_ns = nanoseconds(rank.at("clock_uncertainty_us"));
      track.clock_drift_ns = nanoseconds(rank.at("clock_drift_us"));
      places[track.rank] = trace.tracks.size();
      trace.tracks.push_back(std::move(track));
    }
    for (const Json& event : file.at("traceEvents")) {
      if (event.at("ph") != "X") continue;
      const std::int64_t begin = nanoseconds(event.at("ts"));
      trace.tracks.at(places.at(event.at("tid").get<std::int64_t>()))
          .spans.push_back({.name = event.at("name").get<std::string>(),
                            .category = event.at("cat").get<std::string>(),
                            .begin_ns = begin,
                            .end_ns = begin + nanoseconds(event.at("dur"))});
    }
    return trace;
  } catch (const nlohmann::json::exception& error) {
    throw InputError(fmt::format("{} is not a trace of photon", where), error.what(),
                     "give a file that photon train --trace wrote");
  } catch (const std::out_of_range&) {
    throw InputError(fmt::format("{} is not a trace of photon", where), "an event belongs to no rank",
                     "give a file that photon train --trace wrote");
  }
}

}  // namespace photon
