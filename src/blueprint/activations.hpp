// Memory of activations, workspaces and caches as pure functions of the configuration; the model allocates exactly this
// (tests/model compares), the partition plans from it.
#pragma once

#include <cstdint>
#include <vector>

#include "blueprint/modules.hpp"
#include "config/run_config.hpp"

namespace photon {

enum class AttentionKind { stream, group };

// A stack's call: S sequences of N positions of which the last `outputs` leave it; all of them where the stack is cut
// before its end.
struct StackShape {
  std::int64_t sequences = 0;
  std::int64_t positions = 0;
  std::int64_t outputs = 0;

  std::int64_t rows() const { return sequences * positions; }       // n
  std::int64_t output_rows() const { return sequences * outputs; }  // m
  bool trimmed() const { return outputs < positions; }              // in the last layer
};

// `element` below: bytes of an activation, 4 in f32 and 2 in bf16. Reciprocal norms, log-sum-exps and positions take 4
// always.
inline constexpr std::int64_t f32_bytes = 4;
std::int64_t activation_bytes(Precision precision);

// Bytes of `elements` weights that are trained: fp32 masters, and the copy that ops read where their type is another.
std::int64_t weight_bytes(std::int64_t elements, std::int64_t element);

// Bytes in an arena (each allocation rounded up to its alignment, 256).
inline constexpr std::int64_t arena_alignment = 256;
std::int64_t arena_bytes(std::int64_t elements, std::int64_t element_size);

// What a training pass keeps between its forward and its backward.
struct PassOptions {
  // Each layer's input alone: the backward runs the layer's forward again before it goes through it.
  bool recompute = false;
  // The backward leaves the weight gradients of linear layers to a part of its own, which may come later: what their
  // products read is kept until then.
  bool split_backward = false;
  // Products of layers in 8-bit floats, those of product_in_fp8().
  bool fp8 = false;

  bool operator==(const PassOptions&) const = default;
};
// By the configuration's words; `auto` is `none`, and `off`, until somebody chooses.
PassOptions pass_options(const RunConfig& config);

// Whether x [rows, inputs] times a layer's weight [outputs, inputs] is computed in 8-bit floats: for many rows, where
// the faster product outweighs making the copies; all multiples of 16, as such products ask.
bool product_in_fp8(const PassOptions& options, std::int64_t rows, std::int64_t outputs, std::int64_t inputs);
// Bytes of the 8-bit copies of these layers' weights, as they are and transposed.
std::int64_t fp8_weight_bytes(const ModelConfig& config, const LayerRange& layers);

// Of the layers of `part`; the whole stack by default.
std::int64_t stack_saved_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                               const StackShape& shape, std::int64_t element = f32_bytes,
                               const PassOptions& options = {});
std::int64_t stack_saved_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width, AttentionKind kind,
                               const StackShape& shape, std::int64_t element = f32_bytes,
                               const PassOptions& options = {});
// What a split backward keeps besides (Stack::keep_operands).
std::int64_t stack_operand_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                 const StackShape& shape, std::int64_t element = f32_bytes);
std::int64_t stack_forward_scratch_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                         AttentionKind kind, const StackShape& shape, std::int64_t element = f32_bytes,
                                         const PassOptions& options = {});
std::int64_t stack_backward_scratch_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                                          const StackShape& shape, std::int64_t element = f32_bytes,
                                          const PassOptions& options = {});
std::int64_t stack_backward_scratch_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                          AttentionKind kind, const StackShape& shape, std::int64_t element = f32_bytes,
                                          const PassOptions& options = {});
// Scratch of a forward pass that saves nothing: one layer's activations besides.
std::int64_t stack_inference_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                                   const StackShape& shape, std::int64_t element = f32_bytes);

// Everything forward_backward takes from the model's arena for B sequences of T tokens.
std::int64_t training_activation_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                                       std::int64_t element = f32_bytes, const PassOptions& options = {});
// The same of a part of a model whose decoders take `groups` top-level groups of them (vanilla: all tokens).
std::int64_t stage_activation_bytes(const ModelConfig& config, const LayerRange& layers, std::int64_t batch,
                                    std::int64_t tokens, std::int64_t groups, std::int64_t element = f32_bytes,
                                    const PassOptions& options = {});

// Caches of one slot of `max_tokens` tokens in incremental decoding: encoder (ring where windowed) and start-up
// latents.
std::int64_t decode_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element = f32_bytes);
// What of it is left where the chunks of level 1 are decoded elsewhere: without level 1's decoder and lookback.
std::int64_t coarse_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element = f32_bytes);

// What of either the encoders below the top take. RecGen advances them no further than the group in which a prompt
// ends.
std::int64_t lower_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element = f32_bytes);

// Bytes that a macro-step of decoding needs for each of its rows besides, at most.
std::int64_t decode_step_row_bytes(const ModelConfig& config, std::int64_t element = f32_bytes);

}  // namespace photon
