// A timeline of ranks as a value, and the file it becomes: Chrome's trace format, which ui.perfetto.dev and
// chrome://tracing open (docs/report.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace photon {

// What a rank did from begin to end. Spans of one track either lie within each other or do not overlap.
struct TraceSpan {
  std::string name;           // of an instruction: Instruction::str()
  std::string category;       // "compute", "wait", "communication", "other"; "step" for one that holds a whole step
  std::int64_t begin_ns = 0;  // on the clock of the trace
  std::int64_t end_ns = 0;
  // Both ends of a message carry the same text, which no other message has; an arrow joins them. Empty: no message.
  std::string message = {};
  bool receives = false;
};

struct TraceTrack {
  std::int64_t rank = 0;
  std::string label;  // what the rank hosts
  std::string host;
  // What was subtracted from the rank's own clock so that all tracks share that of rank 0, how wrong that may be, and
  // by how much the offset changed while the trace was taken.
  std::int64_t clock_offset_ns = 0;
  std::int64_t clock_uncertainty_ns = 0;
  std::int64_t clock_drift_ns = 0;
  std::vector<TraceSpan> spans;
};

struct Trace {
  bool predicted = false;  // by the simulator, else measured
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;  // 0 where steps have no number
  std::vector<TraceTrack> tracks;
};

// The file's bytes. Times are microseconds from the earliest span; a track is a thread of one process.
std::string trace_json(const Trace& trace);

// Reads what trace_json wrote; messages are not restored. `where` stands for the file in errors: InputError when the
// text is not such a file.
Trace parse_trace(const std::string& text, const std::string& where);

}  // namespace photon
