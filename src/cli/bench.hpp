// The parts of `photon bench`, one file each.
#pragma once

namespace CLI {
class App;
}

namespace photon::cli {

void add_bench_train(CLI::App& bench);
void add_bench_decode(CLI::App& bench);
void add_bench_kernels(CLI::App& bench);
void add_bench_comm(CLI::App& bench);
void add_bench_cluster(CLI::App& bench);

}  // namespace photon::cli
