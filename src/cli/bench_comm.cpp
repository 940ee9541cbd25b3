// photon bench comm: how fast ranks exchange data.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bench.hpp"
#include "comm/bandwidth.hpp"
#include "comm/world.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Measures the operations of a communicator over message sizes and prints a JSON line for each, on rank 0. Start it "
    "under\n"
    "mpirun or srun; on one rank nothing travels and bus bandwidths are 0. Memory is the host's (MPI) and, where every "
    "rank has\n"
    "a GPU of its own, the GPUs' (NCCL).\n"
    "\n"
    "bytes are those of the larger tensor of a rank, S. algorithm_gigabytes_per_second is S over the time of the "
    "slowest "
    "rank\n"
    "(10^9 bytes); bus_gigabytes_per_second is what each rank's link carried for it, comparable between operations and "
    "numbers\n"
    "of ranks n: times 2 (n-1)/n for all_reduce, (n-1)/n for reduce_scatter, all_gather and all_to_all, 1 for "
    "broadcast "
    "and for\n"
    "send_receive, in which each rank sends to the next one, and for chain, in which it does so when it has received:\n"
    "its seconds are those of one message, as ranks wait for it.";

constexpr const char* examples =
    "Examples:\n"
    "  mpirun -np 4 photon bench comm\n"
    "  mpirun -np 2 photon bench comm --memory device --operations all_reduce,send_receive --max-mib 1024";

struct Options {
  std::string memory = "all";
  std::vector<std::string> operations;
  std::int64_t min_bytes = 1024;
  std::int64_t max_mib = 64;
  std::int64_t factor = 4;
};

void print(World& world, const BandwidthOptions& options, int num_hosts, const Bandwidth& figure) {
  if (world.rank() != 0) return;
  const nlohmann::ordered_json line = {
      {"bench", "comm"},
      {"operation", figure.operation},
      {"memory", name_of(options.space)},
      {"ranks", world.size()},
      {"hosts", num_hosts},
      {"dtype", name_of(options.dtype)},
      {"bytes", figure.bytes},
      {"repeats", figure.repeats},
      {"seconds", figure.seconds},
      {"algorithm_gigabytes_per_second", figure.algorithm_bandwidth / 1e9},
      {"bus_gigabytes_per_second", figure.bus_bandwidth / 1e9},
  };
  std::cout << line.dump() << std::endl;
}

void measure(const Options& options) {
  World world;
  init_logging(world.rank(), world.size());
  world.run([&] {
    world.enter("bench", 120);
    BandwidthOptions bandwidth;
    bandwidth.operations = options.operations;
    bandwidth.min_bytes = options.min_bytes;
    bandwidth.max_bytes = options.max_mib << 20;
    bandwidth.factor = options.factor;
    const int num_hosts =
        static_cast<int>(world.all().all_reduce(std::int64_t{world.local_rank() == 0 ? 1 : 0}, Reduction::sum));
    if (world.size() == 1) log_info("one rank: nothing travels; start it under mpirun or srun to measure links");
    const auto report = [&](const Bandwidth& figure) { print(world, bandwidth, num_hosts, figure); };
    if (options.memory != "device") measure_bandwidth(world.all(), bandwidth, report);
    const bool gpus =
        world.all().all_reduce(std::int64_t{device::count() == 1 || device::count() >= world.local_size() ? 1 : 0},
                               Reduction::min) != 0;
    if (options.memory == "host" || (options.memory == "all" && !gpus)) return;
    world.use_gpu();
    bandwidth.space = Space::device;
    Communicator cards = measured_group(world.all(), bandwidth.space, device::make_stream());
    measure_bandwidth(cards, bandwidth, report);
  });
}

}  // namespace

void add_bench_comm(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("comm", description);
  command->footer(examples);
  command->add_option("--memory", options->memory, "host, device, or all that there is")
      ->type_name("SPACE")
      ->capture_default_str()
      ->check(CLI::IsMember({"host", "device", "all"}));
  command
      ->add_option(
          "--operations", options->operations,
          "only these, by commas: all_reduce, reduce_scatter, all_gather, all_to_all, broadcast, send_receive, "
          "chain")
      ->type_name("LIST")
      ->delimiter(',');
  command->add_option("--min-bytes", options->min_bytes, "the smallest S")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command->add_option("--max-mib", options->max_mib, "the largest S, in MiB")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  command->add_option("--factor", options->factor, "from one size to the next")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 20));
  command->callback([options] { measure(*options); });
}

}  // namespace photon::cli
