// Stack: a pre-norm LLaMA-style causal Transformer (docs/model.md, "Stack"), as encoder (long streams), local decoder
// (many short groups) or vanilla model.
//
// S sequences of N positions, width D, n = S * N rows; Hq query heads and Hkv key heads of width hd = D / Hq, W = (Hq +
// 2 Hkv) hd, inner width F. Only the last `outputs` positions of each sequence leave the stack: m = S * outputs rows;
// where outputs < N the last layer computes queries, projection and MLP for those rows alone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "blueprint/activations.hpp"
#include "config/model_config.hpp"
#include "kernels/linear.hpp"
#include "kernels/quantize.hpp"
#include "kernels/rope.hpp"
#include "model/parameters.hpp"
#include "tensor/context.hpp"

namespace photon {

// Views of a stack's tensors inside flat buffers: weights, or gradients of the same layout.
struct LayerTensors {
  TensorView attn_norm;  // [D]
  TensorView qkv;        // [W, D]: q_proj, k_proj, v_proj
  TensorView o;          // [D, D]
  TensorView mlp_norm;   // [D]
  TensorView gate_up;    // [2F, D]
  TensorView down;       // [D, F]
  // Weights in 8-bit floats (Float8Weights); empty where no product is.
  Quantized qkv8 = {};
  Quantized o8 = {};
  Quantized gate_up8 = {};
  Quantized down8 = {};
};
struct StackTensors {
  std::vector<LayerTensors> layers;
  TensorView norm;  // [D]
};

class Stack {
 public:
  // Group stacks (local decoders) attend inside short sequences with one dedicated op and have no window.
  Stack(const StackConfig& config, std::int64_t width, double norm_eps, AttentionKind kind, std::string prefix,
        bool vanilla, DType dtype = DType::f32);
  // Some of its layers. A part without the last one gives the residual stream [S, N, D], which a part without the first
  // one reads; both in place of x and out below. It has no caches.
  Stack(const StackConfig& config, const StackPart& part, std::int64_t width, double norm_eps, AttentionKind kind,
        std::string prefix, bool vanilla, DType dtype = DType::f32);

  // Matrices as ops read them (Parameters::working()), norms in f32. Gradients have no working copy: all f32.
  StackTensors bind(const Parameters& parameters) const;
  const StackConfig& config() const { return config_; }
  std::int64_t width() const { return width_; }
  DType dtype() const { return dtype_; }  // of activations and caches

  // What the backward pass needs of a forward pass; memory of the arena.
  struct LayerSaved {
    TensorView x;      // [n, D] the layer's input; for the first layer Saved::input
    TensorView rstd1;  // [n]
    TensorView qkv;  // [n, W] turned where attention is over a stream; when trimmed [n, 2 Hkv hd]: keys and values only
    TensorView q;    // [m, Hq hd], only when trimmed
    TensorView attn;     // [m, Hq hd]
    TensorView lse;      // [S, Hq, N], streams only
    TensorView mid;      // [m, D] after attention
    TensorView rstd2;    // [m]
    TensorView gate_up;  // [m, 2F]
    // Of the products that are computed in 8-bit floats (product_in_fp8): their inputs, transposed alone, for the
    // weights' gradients. Scales alone where no backward follows.
    Quantized qkv_in;      // normalised rows, n
    Quantized q_in;        // those of the output positions, m; only when trimmed
    Quantized o_in;        // attention's result
    Quantized gate_up_in;  // normalised rows, m
    Quantized down_in;     // activation
  };
  // What the products for a layer's weight gradients read besides: the gradients of the results of its products (that
  // of gate and up takes the place of LayerSaved::gate_up), and the inner activation.
  struct LayerOperands {
    TensorView down;  // [m, D] of the stream behind the MLP
    TensorView act;   // [m, F]
    TensorView o;     // [m, D] of the stream behind the attention
    TensorView qkv;   // as LayerSaved has them
    TensorView q;
  };
  struct Saved {
    StackShape shape;
    PassOptions options;
    ConstTensorView input;                // [n, D]
    std::vector<LayerSaved> layers;       // x alone where they are recomputed
    TensorView last;                      // [m, D] before the final norm
    TensorView rstd;                      // [m]
    std::vector<LayerOperands> operands;  // where the backward is split, from keep_operands() on
  };

  // x [S, N, D] must stay unchanged until backward; out [S, outputs, D]. The result stays in `arena`
  // (stack_saved_bytes()). With options.recompute, backward() gets the same bits from the same ops run again.
  Saved forward_saving(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
                       const TensorView& out, const PassOptions& options = {});
  // dout [S, outputs, D] -> dx [S, N, D] (replaced). Adds to the norms' gradients; those of matrices are added to, or
  // replaced, as `write` says. Overwrites parts of `saved`.
  void backward(const Context& ctx, Arena& arena, const StackTensors& weights, const Saved& saved,
                const ConstTensorView& dout, const TensorView& dx, const StackTensors& gradients,
                Write write = Write::accumulate);
  // With options.split_backward, backward() leaves the gradients of matrices alone, and backward_weights() makes them
  // at any later time: the same products on the same operands, which lie in `arena` from keep_operands() on
  // (stack_operand_bytes()).
  void keep_operands(Arena& arena, Saved& saved) const;
  void backward_weights(const Context& ctx, Arena& arena, const StackTensors& weights, const Saved& saved,
                        const StackTensors& gradients, Write write = Write::accumulate) const;

  // Without saving; `out` may alias x.
  void forward(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
               const TensorView& out);

 private:
  StackShape shape_of(const ConstTensorView& x, const TensorView& out) const;
  // Room for activations.
  TensorView floats(Arena& arena, const Shape& shape) const { return arena.allocate(dtype_, shape); }
  LayerSaved allocate_layer(Arena& arena, const StackShape& shape, bool trimmed, bool saving,
                            const PassOptions& options) const;
  // Runs all layers; saved == nullptr: nothing is kept.
  void run(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
           const TensorView& out, Saved* saved);
  // From the normalised rows h [n, D] of a layer's input x to the last product but one, filling `layer`; h is
  // overwritten with the normalised rows of layer.mid. `largest` (f32 [1], or empty) holds the largest value of h,
  // before and after.
  void layer_forward(const Context& ctx, Arena& arena, const LayerTensors& w, const StackShape& shape, bool trimmed,
                     const ConstTensorView& x, const TensorView& h, const TensorView& largest,
                     const LayerSaved& layer) const;
  // q, k, v of a layer from the normalised rows h, those of a stream turned.
  void project(const Context& ctx, Arena& arena, const LayerTensors& w, const StackShape& shape, bool trimmed,
               const TensorView& h, const TensorView& largest, const LayerSaved& layer) const;
  void attend(const Context& ctx, const StackShape& shape, const LayerSaved& layer) const;
  // Room for the gradients of queries, keys and values alone.
  static LayerOperands attention_operands(Arena& arena, const LayerSaved& layer);
  // From dattn to d.qkv, d.q and the gradient of the normalised rows, dh (replaced). That of their weight too where the
  // product's input was kept in 8-bit floats, unless g_qkv is empty.
  void attention_backward(const Context& ctx, Arena& arena, const LayerTensors& w, const TensorView& g_qkv,
                          const StackShape& shape, const LayerSaved& layer, const ConstTensorView& dattn,
                          const LayerOperands& d, const TensorView& dh, Write write) const;
  // The gradients of the weight of q, k and v from the normalised rows h [n, D]; `kept`: those from inputs that were
  // kept in 8-bit floats as well.
  void qkv_weights(const Context& ctx, Arena& arena, const TensorView& g_qkv, const StackShape& shape,
                   const LayerSaved& layer, const LayerOperands& d, const TensorView& h, bool kept, Write write) const;
  // The gradients of a layer's matrices, where the backward left them. `h` [n, D] is scratch for the normalised rows; x
  // is the layer's input.
  void layer_weights(const Context& ctx, Arena& arena, const LayerTensors& w, const LayerTensors& g,
                     const StackShape& shape, const LayerSaved& layer, const ConstTensorView& x, const LayerOperands& d,
                     const TensorView& h, Write write) const;
  bool trims(const StackShape& shape, std::size_t layer) const {
    return static_cast<std::int64_t>(layer) + 1 == part_.size() && shape.trimmed();
  }

  std::int64_t head_width() const { return width_ / config_.heads; }

  StackConfig config_;
  StackPart part_;
  std::int64_t width_;
  double norm_eps_;
  AttentionKind kind_;
  std::string prefix_;
  bool vanilla_;
  DType dtype_;
  RopeTable rope_;
};

// Fresh memory in the arena that holds `values` in the order of the context's stream.
TensorView upload(const Context& ctx, Arena& arena, std::span<const std::int32_t> values);
TensorView upload(const Context& ctx, Arena& arena, std::span<const std::uint8_t> values);

}  // namespace photon
