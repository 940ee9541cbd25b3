#include "reference.hpp"

#include <algorithm>
#include <cmath>

namespace photon::testing {
namespace {

Vector rms_norm(const Vector& x, const Vector& w, double eps) {
  double square = 0;
  for (const double v : x) square += v * v;
  const double r = 1 / std::sqrt(square / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * r * w[i];
  return y;
}

void rotate(Vector& x, std::size_t begin, std::size_t width, double position, double theta) {
  const std::size_t half = width / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    const double a = x[begin + i];
    const double b = x[begin + half + i];
    x[begin + i] = a * std::cos(angle) - b * std::sin(angle);
    x[begin + half + i] = b * std::cos(angle) + a * std::sin(angle);
  }
}

Vector concat(const Matrix& rows, std::size_t begin, std::size_t count) {
  Vector joined;
  for (std::size_t i = begin; i < begin + count; ++i) joined.insert(joined.end(), rows[i].begin(), rows[i].end());
  return joined;
}

std::string level_prefix(int l) {
  return "levels." + std::to_string(l - 1) + ".";
}

}  // namespace

ReferenceModel::ReferenceModel(const ModelConfig& config, const Parameters& parameters, int start_token)
    : config_(config), start_token_(start_token) {
  for (const ParameterSpec& spec : parameters.specs()) {
    const float* const values = parameters.view(spec.name).host<float>();
    weights_[spec.name] = Vector(values, values + spec.numel());
  }
}

Vector ReferenceModel::product(const std::string& name, const Vector& x) const {
  const Vector& w = weights_.at(name);
  Vector y(w.size() / x.size(), 0.0);
  for (std::size_t o = 0; o < y.size(); ++o) {
    for (std::size_t k = 0; k < x.size(); ++k) y[o] += w[o * x.size() + k] * x[k];
  }
  return y;
}

Vector ReferenceModel::embedding(int token) const {
  const bool vanilla = config_.type == ModelType::vanilla;
  const Vector& table = weights_.at(vanilla ? "model.embed_tokens.weight" : "embed.weight");
  const auto row = table.begin() + token * config_.dim;
  return Vector(row, row + config_.dim);
}

Matrix ReferenceModel::stack(const StackConfig& config, const std::string& prefix, Matrix x) const {
  const std::size_t num_positions = x.size();
  const std::size_t width = x[0].size();
  const auto heads = static_cast<std::size_t>(config.heads);
  const auto kv_heads = static_cast<std::size_t>(config.kv_heads);
  const std::size_t hd = width / heads;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const LayerNames n = layer_names(prefix, layer, config_.type == ModelType::vanilla);
    Matrix q;
    Matrix k;
    Matrix v;
    for (std::size_t i = 0; i < num_positions; ++i) {
      const Vector h = rms_norm(x[i], weights_.at(n.attn_norm), config_.norm_eps);
      q.push_back(product(n.q_proj, h));
      k.push_back(product(n.k_proj, h));
      v.push_back(product(n.v_proj, h));
      for (std::size_t a = 0; a < heads; ++a) rotate(q[i], a * hd, hd, static_cast<double>(i), config.rope_theta);
      for (std::size_t a = 0; a < kv_heads; ++a) rotate(k[i], a * hd, hd, static_cast<double>(i), config.rope_theta);
    }
    for (std::size_t i = 0; i < num_positions; ++i) {
      Vector attended(width, 0.0);
      std::size_t begin = 0;
      if (config.window > 0 && i + 1 > static_cast<std::size_t>(config.window))
        begin = i + 1 - static_cast<std::size_t>(config.window);
      for (std::size_t a = 0; a < heads; ++a) {
        const std::size_t b = a / (heads / kv_heads);
        Vector p;
        for (std::size_t j = begin; j <= i; ++j) {
          double dot = 0;
          for (std::size_t d = 0; d < hd; ++d) dot += q[i][a * hd + d] * k[j][b * hd + d];
          p.push_back(dot / std::sqrt(static_cast<double>(hd)));
        }
        const double top = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& e : p) sum += e = std::exp(e - top);
        for (std::size_t j = begin; j <= i; ++j) {
          for (std::size_t d = 0; d < hd; ++d) attended[a * hd + d] += p[j - begin] / sum * v[j][b * hd + d];
        }
      }
      const Vector delta = product(n.o_proj, attended);
      for (std::size_t d = 0; d < width; ++d) x[i][d] += delta[d];
    }
    for (Vector& row : x) {
      const Vector h = rms_norm(row, weights_.at(n.mlp_norm), config_.norm_eps);
      Vector gate = product(n.gate_proj, h);
      const Vector up = product(n.up_proj, h);
      for (std::size_t f = 0; f < gate.size(); ++f) gate[f] = gate[f] / (1 + std::exp(-gate[f])) * up[f];
      const Vector delta = product(n.down_proj, gate);
      for (std::size_t d = 0; d < width; ++d) row[d] += delta[d];
    }
  }
  for (Vector& row : x) row = rms_norm(row, weights_.at(prefix + "norm.weight"), config_.norm_eps);
  return x;
}

Matrix ReferenceModel::decode_group(int l, const Vector& c, const Matrix& content, const Matrix& lookback) const {
  const LevelConfig& level = config_.levels[static_cast<std::size_t>(l - 1)];
  const auto below = static_cast<std::ptrdiff_t>(config_.width(l - 1));
  const Vector u = product(level_prefix(l) + "converter.weight", c);
  Matrix in;
  for (std::ptrdiff_t r = 0; r < level.prefix; ++r) in.emplace_back(u.begin() + r * below, u.begin() + (r + 1) * below);
  in.insert(in.end(), lookback.begin(), lookback.end());
  const std::size_t first_output = in.size() - 1;
  in.insert(in.end(), content.begin(), content.end() - 1);
  const Matrix out = stack(level.decoder, level_prefix(l) + "decoder.", in);
  return Matrix(out.begin() + static_cast<std::ptrdiff_t>(first_output), out.end());
}

Matrix ReferenceModel::decode_own(int l, const Vector& c) const {
  const auto chunk = static_cast<std::size_t>(config_.levels[static_cast<std::size_t>(l - 1)].chunk);
  Matrix own;
  while (own.size() < chunk) {
    Matrix content = own;
    content.resize(own.size() + 1);  // the last unit is never read
    own.push_back(decode_group(l, c, content, {}).back());
  }
  return own;
}

ReferenceModel::States ReferenceModel::states(const std::vector<int>& tokens) const {
  const auto num_levels = static_cast<int>(config_.num_levels());
  const auto group = static_cast<std::size_t>(config_.group_tokens());
  const std::size_t length = (tokens.size() + group - 1) / group * group;
  States s;
  s.x.resize(static_cast<std::size_t>(num_levels) + 1);
  s.y.resize(static_cast<std::size_t>(num_levels));
  for (std::size_t t = 0; t < length; ++t) s.x[0].push_back(embedding(t < tokens.size() ? tokens[t] : 0));
  for (int l = 1; l <= num_levels; ++l) {
    const auto chunk = static_cast<std::size_t>(config_.levels[static_cast<std::size_t>(l - 1)].chunk);
    const Matrix& below = s.x[static_cast<std::size_t>(l - 1)];
    Matrix a;
    for (std::size_t g = 0; g < below.size() / chunk; ++g)
      a.push_back(product(level_prefix(l) + "chunker.weight", concat(below, g * chunk, chunk)));
    s.x[static_cast<std::size_t>(l)] =
        stack(config_.levels[static_cast<std::size_t>(l - 1)].encoder, level_prefix(l) + "encoder.", a);
  }
  for (int l = num_levels; l >= 1; --l) {
    const auto i = static_cast<std::size_t>(l);
    const auto chunk = static_cast<std::size_t>(config_.levels[i - 1].chunk);
    const Matrix& content = s.x[i - 1];
    for (std::size_t g = 0; g < content.size() / chunk; ++g) {
      Vector c;
      if (l < num_levels) {
        c = s.y[i][g];
      } else {
        c = g == 0 ? weights_.at("start_latent") : s.x[i][g - 1];
      }
      Matrix before;
      for (std::int64_t k = config_.level_lookback(l); k >= 1; --k) {
        const std::int64_t at = static_cast<std::int64_t>(g * chunk) - k;
        before.push_back(at >= 0 ? content[static_cast<std::size_t>(at)] : Vector(content[0].size(), 0.0));
      }
      const Matrix units(content.begin() + static_cast<std::ptrdiff_t>(g * chunk),
                         content.begin() + static_cast<std::ptrdiff_t>((g + 1) * chunk));
      const Matrix out = decode_group(l, c, units, before);
      s.y[i - 1].insert(s.y[i - 1].end(), out.begin(), out.end());
    }
  }
  return s;
}

Matrix ReferenceModel::hidden(const std::vector<int>& tokens) const {
  if (config_.type == ModelType::vanilla) {
    Matrix in = {embedding(start_token_)};
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) in.push_back(embedding(tokens[t]));
    return stack(config_.stack, "model.", in);
  }
  Matrix y = states(tokens).y[0];
  y.resize(tokens.size());
  return y;
}

Matrix ReferenceModel::recgen_hidden(const std::vector<int>& tokens, int prompt) const {
  const auto num_levels = static_cast<int>(config_.num_levels());
  const int group = static_cast<int>(config_.group_tokens());
  const int start = (prompt + group - 1) / group * group;
  Matrix y = hidden(tokens);
  if (start >= static_cast<int>(tokens.size())) return y;
  // The top stream's input units A(L): true ones before P', rolled out ones behind.
  const std::string top = level_prefix(num_levels);
  const LevelConfig& top_level = config_.levels.back();
  Matrix a;
  if (start > 0) {
    const std::vector<int> known(tokens.begin(), tokens.begin() + start);
    const Matrix below = states(known).x[static_cast<std::size_t>(num_levels - 1)];
    const auto chunk = static_cast<std::size_t>(top_level.chunk);
    for (std::size_t g = 0; g < below.size() / chunk; ++g)
      a.push_back(product(top + "chunker.weight", concat(below, g * chunk, chunk)));
  }
  const auto chunk_1 = static_cast<std::size_t>(config_.levels[0].chunk);
  for (std::size_t t = static_cast<std::size_t>(start); t < tokens.size();) {
    const Vector c = a.empty() ? weights_.at("start_latent") : stack(top_level.encoder, top + "encoder.", a).back();
    Matrix units = decode_own(num_levels, c);
    a.push_back(product(top + "chunker.weight", concat(units, 0, units.size())));
    for (int l = num_levels - 1; l >= 2; --l) {
      Matrix finer;
      for (const Vector& unit : units) {
        const Matrix rendered = decode_own(l, unit);
        finer.insert(finer.end(), rendered.begin(), rendered.end());
      }
      units = finer;
    }
    for (const Vector& unit : units) {
      Matrix content;
      for (std::size_t j = 0; j < chunk_1; ++j) content.push_back(embedding(t + j < tokens.size() ? tokens[t + j] : 0));
      const Matrix out = decode_group(1, unit, content, {});
      for (std::size_t j = 0; j < chunk_1 && t + j < tokens.size(); ++j) y[t + j] = out[j];
      t += chunk_1;
    }
  }
  return y;
}

Matrix ReferenceModel::logits(const Matrix& hidden) const {
  const bool vanilla = config_.type == ModelType::vanilla;
  const std::string tied = vanilla ? "model.embed_tokens.weight" : "embed.weight";
  Matrix out;
  for (const Vector& y : hidden) out.push_back(product(config_.tie_embeddings ? tied : "lm_head.weight", y));
  return out;
}

double reference_distance(RecDistance kind, const Vector& y, const Vector& x) {
  double dot = 0;
  double yy = 0;
  double xx = 0;
  double sum = 0;
  for (std::size_t d = 0; d < y.size(); ++d) {
    dot += y[d] * x[d];
    yy += y[d] * y[d];
    xx += x[d] * x[d];
    const double e = std::abs(y[d] - x[d]);
    if (kind == RecDistance::mse) sum += e * e;
    if (kind == RecDistance::smooth_l1) sum += e < 1 ? 0.5 * e * e : e - 0.5;
  }
  if (kind == RecDistance::cosine) return 1 - dot / std::max(std::sqrt(yy * xx), 1e-12);
  return sum / static_cast<double>(y.size());
}

ReferenceModel::Sums ReferenceModel::sums(const std::vector<int>& tokens, RecDistance kind) const {
  Sums result;
  const Matrix all = logits(hidden(tokens));
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const double top = *std::max_element(all[t].begin(), all[t].end());
    double sum = 0;
    for (const double z : all[t]) sum += std::exp(z - top);
    result.ce += top + std::log(sum) - all[t][static_cast<std::size_t>(tokens[t])];
  }
  if (config_.type == ModelType::vanilla) return result;
  const States s = states(tokens);
  for (int l = 1; l < static_cast<int>(config_.num_levels()); ++l) {
    const std::size_t whole = tokens.size() / static_cast<std::size_t>(config_.cumulative_chunk(l));
    double sum = 0;
    for (std::size_t m = 0; m < whole; ++m) {
      sum += reference_distance(kind, s.y[static_cast<std::size_t>(l)][m], s.x[static_cast<std::size_t>(l)][m]);
    }
    result.rec.push_back(sum);
  }
  return result;
}

}  // namespace photon::testing
