// The exit code for whoever started the launcher.
#pragma once

#include <functional>

namespace photon::cli {

// Writes the code into the file that PHOTON_EXIT_FILE names, on rank 0; without that variable nothing. mpirun answers
// with a code of its own when a signal reached it before the ranks. A failure to write is passed over: it must not hide
// the code that the process ends with.
void tell_exit_code(int code);

// Does the work of a rank; an error's exit code is told before the error ends the job.
void tell_errors(const std::function<void()>& work);

}  // namespace photon::cli
