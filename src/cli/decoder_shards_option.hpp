// --decoder-shards, of the commands that decode.
#pragma once

namespace CLI {
class App;
}

namespace photon::cli {

void add_decoder_shards_option(CLI::App& command, int& shards);

}  // namespace photon::cli
