// Rows with several prompts: decoded as several requests, answered as one.
#pragma once

#include <vector>

#include "decode/request.hpp"
#include "decode/sample.hpp"

namespace photon {

// A request for each prompt of the row, in order; a row of one prompt stays as it is.
std::vector<Request> split_prompts(Request&& row);
// How many of these the row of `request` was split into.
std::int64_t num_prompts(const Request& request);

// Takes what became of one of them. True when it was the row's last one: then `samples` are all the row's.
bool join_samples(const Request& request, std::vector<Completion>& samples);
// Takes the failure of one of them. False when the row has failed before.
bool fail_row(const Request& request);

}  // namespace photon
