// The models of docs/model.md in plain double precision: vectors of vectors, no batching, no caches, nothing shared
// with src/.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/model.hpp"

namespace photon::testing {

using Vector = std::vector<double>;
using Matrix = std::vector<Vector>;  // rows

class ReferenceModel {
 public:
  ReferenceModel(const ModelConfig& config, const Parameters& parameters, int start_token = 0);

  struct States {
    std::vector<Matrix> x;  // X(l), l = 0 .. L, padded length
    std::vector<Matrix> y;  // Y(l), l = 0 .. L-1
  };
  States states(const std::vector<int>& tokens) const;  // photon
  // Y(0) of every token: what the head reads.
  Matrix hidden(const std::vector<int>& tokens) const;
  // Y(0) under RecGen with a prompt of `prompt` tokens, step by step from the spec's words.
  Matrix recgen_hidden(const std::vector<int>& tokens, int prompt) const;
  Matrix logits(const Matrix& hidden) const;

  // ce = sum of -log p over all tokens; rec = sum over unpadded units for l = 1 .. L-1.
  struct Sums {
    double ce = 0;
    Vector rec;
  };
  Sums sums(const std::vector<int>& tokens, RecDistance kind) const;

  Vector& weight(const std::string& name) { return weights_.at(name); }

 private:
  Vector product(const std::string& name, const Vector& x) const;  // W x
  Vector embedding(int token) const;
  Matrix stack(const StackConfig& config, const std::string& prefix, Matrix x) const;
  // The level-l decoder of one group: c, the units of the group's content (C_l of them, the last unused) and what lies
  // before.
  Matrix decode_group(int l, const Vector& c, const Matrix& content, const Matrix& lookback) const;
  // The same where the content is the decoder's own output.
  Matrix decode_own(int l, const Vector& c) const;

  ModelConfig config_;
  int start_token_;
  std::map<std::string, Vector> weights_;
};

double reference_distance(RecDistance kind, const Vector& y, const Vector& x);

}  // namespace photon::testing
