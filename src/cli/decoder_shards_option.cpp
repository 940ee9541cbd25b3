#include "cli/decoder_shards_option.hpp"

#include <CLI/CLI.hpp>

namespace photon::cli {

void add_decoder_shards_option(CLI::App& command, int& shards) {
  command
      .add_option("--decoder-shards", shards,
                  "ranks that decode level 1's tokens for each coarse rank; 0: every rank has the whole model "
                  "(docs/decoding.md)")
      ->type_name("K")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
}

}  // namespace photon::cli
