// photon bench kernels: the speed of single ops on one GPU.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <deque>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/bench.hpp"
#include "cli/kernel_cases.hpp"
#include "cli/one_process.hpp"
#include "config/nearest.hpp"
#include "kernels/cuda/scratch.hpp"
#include "support/error.hpp"
#include "tensor/graph.hpp"

namespace photon::cli {
namespace {

struct Options {
  std::vector<std::string> ops;
  std::string numerics = "tuned";
  std::int64_t repeats = 20;
};

constexpr double gigabyte = 1e9;
constexpr std::int64_t copied_bytes = std::int64_t{1} << 31;
constexpr double rotated_bytes = 256e6;  // several times the cache
constexpr std::size_t most_sets = 8;

// The median of `repeats` calls, each timed on the device; sets of operands take turns, so that none is found in cache.
double median_seconds(const Context& ctx, const std::vector<Call>& calls, std::int64_t repeats) {
  for (const Call& call : calls) call(ctx);
  calls.front()(ctx);
  std::deque<Event> begin;
  std::deque<Event> end;
  for (std::int64_t i = 0; i < repeats; ++i) {
    begin.emplace_back().record(ctx.stream);
    calls[static_cast<std::size_t>(i) % calls.size()](ctx);
    end.emplace_back().record(ctx.stream);
  }
  std::vector<double> seconds;
  for (std::size_t i = 0; i < begin.size(); ++i) seconds.push_back(end[i].seconds_since(begin[i]));
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

// Bytes read and written a second by the driver's own copy of random values.
double copy_rate(const Context& ctx, std::int64_t repeats) {
  Operands operands;
  const TensorView from = operands.values(DType::bf16, {copied_bytes / 2});
  const TensorView to = operands.zeros(DType::bf16, {copied_bytes / 2});
  const Call call = [=](const Context& c) { copy(c.stream, from, to); };
  return 2.0 * static_cast<double>(copied_bytes) / median_seconds(ctx, {call}, repeats);
}

std::vector<KernelCase> chosen_cases(const std::vector<std::string>& ops) {
  std::vector<KernelCase> cases = kernel_cases();
  std::set<std::string> names;
  for (const KernelCase& c : cases) names.insert(c.op);
  for (const std::string& op : ops) {
    if (names.contains(op)) continue;
    throw InputError(fmt::format("no op is named '{}'", op),
                     fmt::format("did you mean {}?", nearest(op, {names.begin(), names.end()})),
                     fmt::format("choose one of {}", fmt::join(names, ", ")));
  }
  if (!ops.empty()) {
    std::erase_if(cases, [&](const KernelCase& c) { return std::find(ops.begin(), ops.end(), c.op) == ops.end(); });
  }
  return cases;
}

void measure(const Options& options) {
  const std::vector<KernelCase> cases = chosen_cases(options.ops);
  if (device::count() == 0) {
    throw InputError("bench kernels measures ops on a GPU", "this machine has none that this photon can use",
                     "run it on a machine with one, with a photon that was built with CUDA");
  }
  const Stream stream = device::make_stream();
  Arena scratch(
      Space::device,
      std::max(cuda::scratch_bytes({.dtype = DType::bf16, .rows = 1 << 16, .width = 4096, .vocabulary = 32000}),
               cuda::scratch_bytes(attention_case_limits())),
      "workspace");
  const Context ctx{.space = Space::device,
                    .numerics = options.numerics == "tuned" ? Numerics::tuned : Numerics::deterministic,
                    .stream = stream,
                    .scratch = &scratch};
  const double copied = copy_rate(ctx, options.repeats);
  const nlohmann::ordered_json first = {{"bench", "kernels"},
                                        {"op", "device copy"},
                                        {"device", device::name(0)},
                                        {"gigabytes_per_second", copied / gigabyte}};
  std::cout << first.dump() << std::endl;
  for (const KernelCase& c : cases) {
    const auto sets =
        static_cast<std::size_t>(std::clamp(rotated_bytes / c.bytes, 1.0, static_cast<double>(most_sets)));
    std::deque<Operands> operands;
    std::vector<Call> calls;
    for (std::size_t i = 0; i < sets; ++i) calls.push_back(c.make(operands.emplace_back()));
    const double seconds = median_seconds(ctx, calls, options.repeats);
    nlohmann::ordered_json line = {{"bench", "kernels"},
                                   {"op", c.op},
                                   {"shape", c.shape},
                                   {"numerics", options.numerics},
                                   {"microseconds", seconds * 1e6},
                                   {"bytes", c.bytes},
                                   {"gigabytes_per_second", c.bytes / seconds / gigabyte},
                                   {"of_copy", c.bytes / seconds / copied}};
    if (c.flops > 0) line["teraflops"] = c.flops / seconds * 1e-12;
    std::cout << line.dump() << std::endl;
  }
  device::destroy_stream(stream);
}

}  // namespace

void add_bench_kernels(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "kernels",
      "Times every op on one GPU in bf16, at the shapes of training photon-600m (16 sequences of 2,048 tokens) and "
      "attention\n"
      "at others, and prints one JSON line each: the median time, the bytes that must be moved a second, beside what "
      "the driver's\n"
      "copy reaches, and the FLOPs a second of products and attention.");
  command->footer("Example:\n  photon bench kernels --op group_attention_forward --op group_attention_backward");
  command->add_option("--op", options->ops, "measures this op alone; may be repeated")
      ->type_name("NAME")
      ->allow_extra_args(false);
  command->add_option("--numerics", options->numerics, "deterministic, or the fastest")
      ->type_name("deterministic|tuned")
      ->check(CLI::IsMember({"deterministic", "tuned"}))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "timed calls of an op")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  command->callback([options] { run_in_one_process("bench kernels", [&] { measure(*options); }); });
}

}  // namespace photon::cli
