// What a build without CUDA answers when an op is called on a GPU.
#include "kernels/attention.hpp"
#include "kernels/attention_step.hpp"
#include "kernels/cache_attention.hpp"
#include "kernels/draw.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/group_attention.hpp"
#include "kernels/group_rows.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/linear.hpp"
#include "kernels/linear8.hpp"
#include "kernels/norm.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/quantize.hpp"
#include "kernels/rec_loss.hpp"
#include "kernels/rope.hpp"
#include "kernels/sampling.hpp"
#include "kernels/slot_rows.hpp"
#include "kernels/swiglu.hpp"
#include "kernels/top_tokens.hpp"

namespace photon::cuda {

void stream_attention_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                              std::int64_t, const TensorView&, const TensorView&) {
  throw NotConfigured("stream_attention_forward on a GPU", "CUDA");
}
void stream_attention_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                               const ConstTensorView&, const ConstTensorView&, const ConstTensorView&, std::int64_t,
                               const TensorView&, const TensorView&, const TensorView&, const RopeTable*) {
  throw NotConfigured("stream_attention_backward on a GPU", "CUDA");
}
void cache_append(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                  const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("cache_append on a GPU", "CUDA");
}
void cache_attention(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                     const ConstTensorView&, const ConstTensorView&, std::int64_t, const TensorView&) {
  throw NotConfigured("cache_attention on a GPU", "CUDA");
}
void attention_step(const Context&, const RopeTable&, const AttentionStep&) {
  throw NotConfigured("attention_step on a GPU", "CUDA");
}
void cache_fill(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("cache_fill on a GPU", "CUDA");
}
void few_norm_linear(const Context&, const ConstTensorView&, const ConstTensorView&, double, const ConstTensorView&,
                     const TensorView&) {
  throw NotConfigured("few_norm_linear on a GPU", "CUDA");
}
void few_norm_swiglu(const Context&, const ConstTensorView&, const ConstTensorView&, double, const ConstTensorView&,
                     const TensorView&) {
  throw NotConfigured("few_norm_swiglu on a GPU", "CUDA");
}
void few_linear(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                const TensorView&) {
  throw NotConfigured("few_linear on a GPU", "CUDA");
}
void few_norm(const Context&, const ConstTensorView&, const ConstTensorView&, double, const TensorView&) {
  throw NotConfigured("few_norm on a GPU", "CUDA");
}
bool few_rows_possible() {
  return false;
}
void quantize(const Context&, const ConstTensorView&, const Quantized&, const ConstTensorView&) {
  throw NotConfigured("quantize on a GPU", "CUDA");
}
bool has_float8() {
  return false;
}
void linear8_forward(const Context&, const Quantized&, const Quantized&, const TensorView&, const ConstTensorView&) {
  throw NotConfigured("linear8_forward on a GPU", "CUDA");
}
void linear8_backward_input(const Context&, const Quantized&, const Quantized&, const TensorView&, Write) {
  throw NotConfigured("linear8_backward_input on a GPU", "CUDA");
}
void linear8_backward_weight(const Context&, const Quantized&, const Quantized&, const TensorView&, Write) {
  throw NotConfigured("linear8_backward_weight on a GPU", "CUDA");
}
void draw_tokens(const Context&, const DrawCall&) {
  throw NotConfigured("draw_tokens on a GPU", "CUDA");
}
void top_tokens(const Context&, const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("top_tokens on a GPU", "CUDA");
}
void scatter_rows(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("scatter_rows on a GPU", "CUDA");
}
void recent_tokens(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&, std::int64_t,
                   std::int32_t, const TensorView&) {
  throw NotConfigured("recent_tokens on a GPU", "CUDA");
}
void embed_or_zero(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("embed_or_zero on a GPU", "CUDA");
}
void shift_indices(const Context&, const TensorView&, std::int32_t) {
  throw NotConfigured("shift_indices on a GPU", "CUDA");
}
void fill(const Context&, const TensorView&, float) {
  throw NotConfigured("fill on a GPU", "CUDA");
}
void copy_elements(const Context&, const ConstTensorView&, const TensorView&, Write) {
  throw NotConfigured("copy_elements on a GPU", "CUDA");
}
void scale(const Context&, const TensorView&, float) {
  throw NotConfigured("scale on a GPU", "CUDA");
}
void embedding_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("embedding_forward on a GPU", "CUDA");
}
void embedding_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("embedding_backward on a GPU", "CUDA");
}
void group_attention_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                             const TensorView&, const RopeTable*) {
  throw NotConfigured("group_attention_forward on a GPU", "CUDA");
}
void group_attention_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                              const ConstTensorView&, const TensorView&, const TensorView&, const TensorView&,
                              const RopeTable*) {
  throw NotConfigured("group_attention_backward on a GPU", "CUDA");
}
void decoder_rows_forward(const Context&, const ConstTensorView&, const ConstTensorView&, std::int64_t,
                          const TensorView&) {
  throw NotConfigured("decoder_rows_forward on a GPU", "CUDA");
}
void decoder_rows_backward(const Context&, const ConstTensorView&, std::int64_t, const TensorView&, const TensorView&) {
  throw NotConfigured("decoder_rows_backward on a GPU", "CUDA");
}
void shift_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("shift_forward on a GPU", "CUDA");
}
void shift_backward(const Context&, const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("shift_backward on a GPU", "CUDA");
}
double head_loss_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                         const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("head_loss_forward on a GPU", "CUDA");
}
double head_loss_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                          const ConstTensorView&, double, const TensorView&, const TensorView&) {
  throw NotConfigured("head_loss_backward on a GPU", "CUDA");
}
void add_head_loss_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                           const ConstTensorView&, const TensorView&) {
  throw NotConfigured("add_head_loss_forward on a GPU", "CUDA");
}
void add_head_loss_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                            const ConstTensorView&, double, const TensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("add_head_loss_backward on a GPU", "CUDA");
}
void linear_forward(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&,
                    const ConstTensorView&) {
  throw NotConfigured("linear_forward on a GPU", "CUDA");
}
void linear_backward_input(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&, Write) {
  throw NotConfigured("linear_backward_input on a GPU", "CUDA");
}
void linear_backward_weight(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&, Write) {
  throw NotConfigured("linear_backward_weight on a GPU", "CUDA");
}
void rms_norm_forward(const Context&, const ConstTensorView&, const ConstTensorView&, double, const TensorView&,
                      const TensorView&, const TensorView&) {
  throw NotConfigured("rms_norm_forward on a GPU", "CUDA");
}
void rms_norm_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const ConstTensorView&,
                       const ConstTensorView&, const ConstTensorView&, const TensorView&, const TensorView&,
                       const TensorView&, const TensorView&) {
  throw NotConfigured("rms_norm_backward on a GPU", "CUDA");
}
void adamw(const Context&, const AdamWStep&, const TensorView&, const ConstTensorView&, const TensorView&,
           const TensorView&, const TensorView&) {
  throw NotConfigured("adamw on a GPU", "CUDA");
}
double sum_of_squares(const Context&, const ConstTensorView&) {
  throw NotConfigured("sum_of_squares on a GPU", "CUDA");
}
void add_sum_of_squares(const Context&, const ConstTensorView&, const TensorView&) {
  throw NotConfigured("add_sum_of_squares on a GPU", "CUDA");
}
double rec_loss_forward(const Context&, RecDistance, const ConstTensorView&, const ConstTensorView&,
                        const ConstTensorView&) {
  throw NotConfigured("rec_loss_forward on a GPU", "CUDA");
}
void add_rec_loss_forward(const Context&, RecDistance, const ConstTensorView&, const ConstTensorView&,
                          const ConstTensorView&, const TensorView&) {
  throw NotConfigured("add_rec_loss_forward on a GPU", "CUDA");
}
void rec_loss_backward(const Context&, RecDistance, const ConstTensorView&, const ConstTensorView&,
                       const ConstTensorView&, double, const TensorView&, const TensorView&) {
  throw NotConfigured("rec_loss_backward on a GPU", "CUDA");
}
void rope(const Context&, const RopeTable&, const TensorView&, Rotation) {
  throw NotConfigured("rope on a GPU", "CUDA");
}
void rope(const Context&, const RopeTable&, const ConstTensorView&, const TensorView&, Rotation) {
  throw NotConfigured("rope on a GPU", "CUDA");
}
void sample(const Context&, const ConstTensorView&, std::span<const SampleRow>, const TensorView&, const TensorView&) {
  throw NotConfigured("sample on a GPU", "CUDA");
}
void swiglu_forward(const Context&, const ConstTensorView&, const TensorView&, const TensorView&) {
  throw NotConfigured("swiglu_forward on a GPU", "CUDA");
}
void swiglu_backward(const Context&, const ConstTensorView&, const ConstTensorView&, const TensorView&,
                     const TensorView&, const TensorView&) {
  throw NotConfigured("swiglu_backward on a GPU", "CUDA");
}

}  // namespace photon::cuda
