// The smallest model that has all there is: two levels, on bytes.
#pragma once

namespace photon::testing {

// The section `model` of a configuration.
inline constexpr const char* tiny_model_yaml =
    "model:\n"
    "  model_type: photon\n"
    "  vocab_size: 259\n"
    "  dim: 8\n"
    "  levels:\n"
    "  - {dim: 8, chunk: 2, prefix: 1, encoder: {layers: 1, heads: 2, ffn: 16}, decoder: {layers: 1, heads: 2, ffn: "
    "16}}\n"
    "  - {dim: 12, chunk: 2, prefix: 2, encoder: {layers: 1, heads: 2, ffn: 16}, decoder: {layers: 1, heads: 2, ffn: "
    "16}}\n";

}  // namespace photon::testing
