#include "eval/drift_json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace photon {
namespace {
using Json = nlohmann::ordered_json;

Json means(const DriftSums& sums, bool exact) {
  Json json{{"num_tokens", sums.num_tokens}};
  if (!exact) {
    json["agreement"] = sums.agreement();
    json["kl"] = sums.mean_kl();
    Json cosines = Json::array();
    for (std::size_t l = 1; l <= sums.cosine.size(); ++l)
      cosines.push_back(sums.mean_cosine(static_cast<std::int64_t>(l)));
    json["cosine"] = std::move(cosines);
  }
  json["loss"] = sums.mean_loss();
  json["perplexity"] = sums.perplexity();
  return json;
}

Json path_json(const PathDrift& path, std::int64_t bin, bool exact) {
  Json json{{"name", path.name}};
  if (path.window > 0) json["window"] = path.window;
  json.update(means(path.total, exact));
  Json distances = Json::array();
  for (std::size_t i = 0; i < path.bins.size(); ++i) {
    const DriftSums& sums = path.bins[i];
    if (sums.num_tokens == 0) continue;  // masked
    Json entry{{"distance", static_cast<std::int64_t>(i) * bin}};
    entry.update(means(sums, exact));
    distances.push_back(std::move(entry));
  }
  json["by_distance"] = std::move(distances);
  return json;
}

}  // namespace

std::string to_json(const DriftResult& result, const std::vector<std::pair<std::string, std::string>>& source) {
  Json json = Json::object();
  for (const auto& [key, value] : source) json[key] = Json::parse(value);
  json["num_rows"] = result.num_rows;
  json["bin"] = result.bin;
  json["exact"] = path_json(result.exact, result.bin, true);
  Json approximations = Json::array();
  for (const PathDrift& path : result.approximations) approximations.push_back(path_json(path, result.bin, false));
  json["approximations"] = std::move(approximations);
  return json.dump(1);
}

}  // namespace photon
