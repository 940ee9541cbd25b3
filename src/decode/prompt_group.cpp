#include "decode/prompt_group.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace photon {

struct PromptGroup {
  std::vector<std::vector<Completion>> samples;  // of each prompt
  std::int64_t num_missing = 0;                  // prompts not done
  bool failed = false;
};

std::vector<Request> split_prompts(Request&& row) {
  std::vector<Request> requests;
  std::vector<FurtherPrompt> more = std::exchange(row.more_prompts, {});
  if (!more.empty()) {
    row.group = std::make_shared<PromptGroup>();
    row.group->samples.resize(more.size() + 1);
    row.group->num_missing = static_cast<std::int64_t>(more.size()) + 1;
  }
  requests.push_back(std::move(row));
  for (FurtherPrompt& prompt : more) {
    Request& next = requests.emplace_back(requests.front());
    next.prompt = std::move(prompt.tokens);
    next.options.max_new_tokens = prompt.max_new_tokens;
    next.first_sample = static_cast<std::int64_t>(requests.size() - 1) * next.options.num_samples;
  }
  return requests;
}

std::int64_t num_prompts(const Request& request) {
  return request.group ? static_cast<std::int64_t>(request.group->samples.size()) : 1;
}

bool join_samples(const Request& request, std::vector<Completion>& samples) {
  if (!request.group) return true;
  PromptGroup& group = *request.group;
  group.samples[static_cast<std::size_t>(request.first_sample / request.options.num_samples)] = std::move(samples);
  if (--group.num_missing > 0 || group.failed) return false;
  samples.clear();
  for (auto& part : group.samples) std::move(part.begin(), part.end(), std::back_inserter(samples));
  return true;
}

bool fail_row(const Request& request) {
  return !request.group || !std::exchange(request.group->failed, true);
}

}  // namespace photon
