// A part of PHOTON: some layers of the chain (blueprint/modules.hpp) on some top-level groups of a batch. The whole
// model is the part that has every layer; it knows nothing of who runs the others.
//
// B sequences of T tokens on T' = whole groups of C_<=L; M_l = T' / C_<=l units of level l. A part without encoders may
// take some of the B M_L groups only: its tensors then hold the rows of those groups.
#pragma once

#include <optional>
#include <vector>

#include "blueprint/modules.hpp"
#include "kernels/rec_loss.hpp"
#include "model/model.hpp"
#include "model/stack.hpp"

namespace photon {

// The modules of one level l and views of their tensors.
struct LevelModules {
  Stack encoder;  // width D_l
  Stack decoder;  // width D_{l-1}
};
struct LevelTensors {
  TensorView chunker;    // [D_l, C_l D_{l-1}]
  TensorView converter;  // [R_l D_{l-1}, D_l]
  StackTensors encoder;
  StackTensors decoder;
};
struct PhotonTensors {
  TensorView embed;         // [V, D_0]
  TensorView start_latent;  // [D_L]
  TensorView head;          // [V, D_0]
  std::vector<LevelTensors> levels;
};
std::vector<StackTensors*> stacks_of(PhotonTensors& tensors);

// Some groups of a batch. Where they are whole sequences they are laid out as such: [B, M_l, D_l]; else behind each
// other as of one sequence. The last positions of a sequence may be padding: token 0, mask 0.
struct GroupBatch {
  std::int64_t batch = 0;   // sequences
  std::int64_t length = 0;  // tokens of each, a multiple of C_<=L
  GroupRange groups;
  std::int64_t tokens = 0;        // T, of the sequences they are cut from
  std::int64_t total_length = 0;  // T'

  std::int64_t units(const ModelConfig& config, std::int64_t l) const { return length / config.cumulative_chunk(l); }
};
GroupBatch group_batch(const ModelConfig& config, const Batch& batch, const GroupRange& groups);
GroupRange all_groups(const ModelConfig& config, const Batch& batch);

// Their tokens in the arena.
struct PaddedTokens {
  TensorView ids;   // [B*T'] i32
  TensorView mask;  // [B*T'] u8; empty where all count
  std::int64_t num_counted = 0;
};
PaddedTokens pad_tokens(const Context& ctx, Arena& arena, const Batch& batch, const GroupBatch& shape,
                        const ModelConfig& config);

// Which units of level l hold no padding: [B * M_l] u8 in the arena; and how many.
struct UnitMask {
  TensorView mask;
  std::int64_t count = 0;
};
UnitMask whole_units(const Context& ctx, Arena& arena, const ModelConfig& config, std::int64_t l,
                     const GroupBatch& shape);

// [B, M, D] as [B*M, D].
template <bool Const>
BasicView<Const> rows(const BasicView<Const>& x) {
  return x.reshape({x.size(0) * x.size(1), x.size(2)});
}

// A batch between its forward and its backward; views of one arena. Tensors that no hosted layer makes or reads are
// empty.
struct StagePass {
  GroupBatch shape;
  PassOptions options;              // as whoever began the pass wants it, before its forward
  TensorView losses;                // where the backward adds its sums (GatheredLosses); empty: it returns them
  Write write = Write::accumulate;  // of matrices' gradients: of linear layers: all but only_added_to()
  PaddedTokens tokens;              // where tokens are embedded or predicted
  TensorView inputs;                // vanilla: the tokens that its first layer reads, [B*T] i32
  std::vector<TensorView> x;        // X(l) [B, M_l, D_l], l = 0 .. L
  std::vector<TensorView> y;        // Y(l) likewise, l = 0 .. L-1, and c(L)
  std::vector<TensorView> dx;
  std::vector<TensorView> dy;
  // The residual stream into the first hosted layer where that is not the first of its stack, and out of the last one
  // where that is not the last of its: [S, N, D] of the stack.
  TensorView in;
  TensorView out;
  TensorView din;
  TensorView dout;
  std::vector<UnitMask> whole;  // level l at l - 1, where the end of decoder l+1 is hosted
  std::vector<Stack::Saved> encoder_saved;
  std::vector<Stack::Saved> decoder_saved;
  // Where the backward is split, level l at l - 1: gradients of what the chunker and the converter give, [B M_l, D_l]
  // and [B M_l, R_l D_{l-1}].
  std::vector<TensorView> da;
  std::vector<TensorView> du;
};

// The head's loss of a pass and its gradients: dY(0) replaced, `gradient` [V, D_0] added to. Returns the sum, or 0
// where it gathers in pass.losses.
double head_backward(const Context& ctx, const StagePass& pass, const TensorView& weight, double scale,
                     const TensorView& gradient);

class PhotonStage {
 public:
  PhotonStage(const ModelConfig& config, const LayerRange& layers, DType dtype = DType::f32);

  const LayerRange& layers() const { return part_.layers(); }
  DType dtype() const { return dtype_; }  // of the states X(l), Y(l) and all other activations
  LevelModules& level(std::int64_t l) { return levels_[static_cast<std::size_t>(l - 1)]; }
  // The hosted tensors; views of others are empty.
  PhotonTensors bind(const Parameters& parameters) const;

  using Pass = StagePass;

  // In this order; everything is allocated in `arena` and stays until the caller rewinds it
  // (stage_activation_bytes() in all). First the tokens, and room for what other parts make and this one reads: X(l),
  // Y(l), c(L), the stream `in`, for the caller to fill.
  Pass begin(const Context& ctx, Arena& arena, const Batch& batch, const GroupRange& groups) const;
  void forward(const Context& ctx, Arena& arena, const PhotonTensors& weights, Pass& pass);
  // Room for the gradients. The caller then adds those by dx(l) that other parts computed, and fills dy(l) where
  // another part reads Y(l) or c(L), and `dout`.
  void begin_backward(const Context& ctx, Arena& arena, Pass& pass) const;
  // The hosted layers of one module of the chain; the modules in descending order. Adds to `gradients`, or replaces
  // them where pass.write says so. The sums are of the hosted losses: the head's at the end of decoder 1, level l's at
  // the end of decoder l+1; others are 0, and all but the counts where they gather in pass.losses.
  LossSums backward_module(const Context& ctx, Arena& arena, const PhotonTensors& weights,
                           const PhotonTensors& gradients, Pass& pass, std::int64_t module, const LossScales& scales,
                           const RecLossOptions& rec);
  // The part of a module's backward that a split one (options.split_backward) left, at any time behind it.
  void backward_weights(const Context& ctx, Arena& arena, const PhotonTensors& weights, const PhotonTensors& gradients,
                        const Pass& pass, std::int64_t module);
  // All modules.
  LossSums backward(const Context& ctx, Arena& arena, const PhotonTensors& weights, const PhotonTensors& gradients,
                    Pass& pass, const LossScales& scales, const RecLossOptions& rec);
  // Instead of a backward: the same sums alone.
  LossSums losses(const Context& ctx, Arena& arena, const PhotonTensors& weights, const Pass& pass,
                  const RecLossOptions& rec) const;

 private:
  // Room for activations.
  TensorView floats(Arena& arena, const Shape& shape) const { return arena.allocate(dtype_, shape); }
  // [S, N, D] of the stream inside encoder or decoder l.
  Shape encoder_shape(const GroupBatch& shape, std::int64_t l) const { return state_shape(shape, l); }
  Shape decoder_shape(const GroupBatch& shape, std::int64_t l) const;
  // Of `in` and `out`; empty where the part begins or ends between stacks.
  std::optional<Shape> in_shape(const GroupBatch& shape) const;
  std::optional<Shape> out_shape(const GroupBatch& shape) const;
  LossSums no_sums() const;
  Shape state_shape(const GroupBatch& shape, std::int64_t l) const;
  Shape converted_shape(const GroupBatch& shape, std::int64_t l) const;  // U(l)
  static void converter_weights(const Context& ctx, const LevelTensors& gradients, const Pass& pass,
                                const TensorView& du, std::int64_t l);
  static void chunker_weights(const Context& ctx, const LevelTensors& gradients, const Pass& pass, const TensorView& da,
                              std::int64_t l);
  void decoder_backward(const Context& ctx, Arena& arena, const LevelTensors& weights, const LevelTensors& gradients,
                        Pass& pass, std::int64_t l);
  void encoder_backward(const Context& ctx, Arena& arena, const LevelTensors& weights, const LevelTensors& gradients,
                        Pass& pass, std::int64_t l);

  ModelConfig config_;
  ChainPart part_;
  DType dtype_;
  std::int64_t num_levels_;
  std::vector<LevelModules> levels_;
};

}  // namespace photon
