// What every model offers the engines: losses and gradients of a batch, and teacher-forced states. No model knows of
// ranks.
//
// B sequences, T tokens each, L levels, D_l widths. logits[i] predicts token i itself.
#pragma once

#include <memory>
#include <vector>

#include "blueprint/activations.hpp"
#include "config/model_config.hpp"
#include "kernels/linear.hpp"
#include "model/parameters.hpp"
#include "support/rec_distance.hpp"
#include "tensor/context.hpp"

namespace photon {

class Float8Weights;
struct StackTensors;

struct Batch {
  ConstTensorView tokens;  // [B, T] i32, host
  ConstTensorView mask;    // [B, T] u8, host, 1 where the token counts in the cross-entropy; empty = all count
};

// Factors of the sums below in the differentiated loss: ce * ce_sum + sum_l rec[l-1] * rec_sum[l-1].
struct LossScales {
  double ce = 0;
  std::vector<double> rec;  // one for each level l = 1 .. L-1; empty for L < 2 and vanilla
};

struct LossSums {
  double ce = 0;                        // sum of -log p over the counted tokens, nats
  std::int64_t num_tokens = 0;          // counted tokens
  std::vector<double> rec;              // sum of distances at level l = 1 .. L-1
  std::vector<std::int64_t> num_units;  // units of the batch without padding, l = 1 .. L-1

  LossSums& operator+=(const LossSums& other);
};

// Sums of losses that gather over several batches in the ops' memory, so that the host waits for them once.
class GatheredLosses {
 public:
  GatheredLosses(const ModelConfig& config, Space space);
  // [L] f64: the cross-entropy's sum, then those of level l = 1 .. L-1; [1] for vanilla. What passes add to.
  TensorView view() const { return sums_.view(); }
  void clear(const Context& ctx) const;
  // What has gathered, with counts of 0. Waits for the context's stream.
  LossSums fetch(const Context& ctx) const;

 private:
  Tensor sums_;
};

struct RecLossOptions {
  RecDistance distance = RecDistance::cosine;
  bool stop_gradient = true;
};

class Model {
 public:
  virtual ~Model();
  const ModelConfig& config() const { return config_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  TensorView head_weight() const;         // [V, D_0] as ops read it; the embedding when tied
  DType dtype() const { return dtype_; }  // of activations, caches and the weights that ops read: f32, or bf16

  // How forward_backward() computes, and what it keeps between its forward and its backward. With products in 8-bit
  // floats, sets memory aside for the weights in them; evaluate() and hidden() always read the weights as they are.
  void set_pass_options(const PassOptions& options);
  // To be called, with products in 8-bit floats, before the first forward_backward() and after every change of the
  // weights: makes the copies that it reads.
  void weights_changed(const Context& ctx);

  // Where forward_backward() adds its sums from now on (GatheredLosses::view()), returning 0 in their place and waiting
  // for no device; empty: nowhere.
  void gather_losses_in(const TensorView& sums) { gathered_ = sums; }

  // Adds the gradients of the scaled loss to `gradients` and returns the unscaled sums. The counts of a batch are known
  // before: count_tokens() and unpadded_units(). Write::replace, for the first batch behind begin_gradients(), replaces
  // the gradients of linear layers, whatever they held.
  virtual LossSums forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                    const RecLossOptions& rec, Parameters& gradients,
                                    Write write = Write::accumulate) = 0;

  // The same sums without gradients; token_loss [B, T] f32 (0 where masked) and argmax [B, T] i32 are filled unless
  // empty.
  virtual LossSums evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec,
                            const TensorView& token_loss, const TensorView& argmax) = 0;

  // Teacher-forced Y(0) [B, T, D_0] in dtype(): what the head reads. In the order of the context's stream.
  virtual Tensor hidden(const Context& ctx, const Batch& batch) = 0;

  // The most activation memory any call has used so far, bytes.
  std::int64_t arena_peak() const { return arena_.peak(); }

 protected:
  Model(const ModelConfig& config, Space space, DType dtype, Masters masters);
  virtual std::vector<StackTensors*> stacks() = 0;

  ModelConfig config_;
  DType dtype_;
  Parameters parameters_;
  PassOptions options_;
  std::unique_ptr<Float8Weights> float8_;
  TensorView gathered_;
  Arena arena_;  // activations of a call
};

// The head's losses for states [n, D_0] of a model, in its memory: tokens [n] i32 and mask [n] u8 (empty: all count) on
// the host. Returns their sum; token_loss [n] f32 (0 where masked) and argmax [n] i32, on the host, are filled unless
// empty.
double head_losses(const Model& model, const Context& ctx, const ConstTensorView& states, const ConstTensorView& tokens,
                   const ConstTensorView& mask, const TensorView& token_loss, const TensorView& argmax);

// Photon or Vanilla by config.type, with zero weights. `start_token`: what vanilla reads before the first token (bos,
// or eos where the tokenizer has none); ignored by photon. bf16 needs the device: weights stay f32 there, with a bf16
// working copy that follows whoever changes them (Parameters::refresh_working_copy).
std::unique_ptr<Model> make_model(const ModelConfig& config, Space space, std::int32_t start_token,
                                  DType dtype = DType::f32);
// The same to be read alone, with Masters::norms: in bf16 it takes a third of the memory. Its weights are given by
// Parameters::assign() or initialize().
std::unique_ptr<Model> make_frozen_model(const ModelConfig& config, Space space, std::int32_t start_token,
                                         DType dtype = DType::f32);

// Tokens of the batch that count, and units of each level l = 1 .. L-1 that hold no padding in B sequences of T tokens.
std::int64_t count_tokens(const Batch& batch);
std::vector<std::int64_t> unpadded_units(const ModelConfig& config, std::int64_t batch, std::int64_t tokens);

// Bytes of activations and scratch that forward_backward needs for B x T tokens: what the model's arena will take.
std::int64_t training_arena_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                                  DType dtype = DType::f32, const PassOptions& options = {});

// Bytes of an activation, as blueprint/activations.hpp counts.
inline std::int64_t element_bytes(DType dtype) {
  return static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace photon
