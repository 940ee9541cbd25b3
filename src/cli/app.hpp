// The photon program: its command line, its help and what its exit codes mean.
#pragma once

namespace photon::cli {

// Parses the command line, carries out the command it names and returns the exit code: 0 done, 1 failed, 2 bad usage or
// input, 75 preempted after saving. Never throws; a failure is one line "photon: error: ..." on stderr.
int run(int argc, const char* const* argv);

}  // namespace photon::cli
