#include "kernels/product_choices.hpp"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>
#include <vector>

#include "support/error.hpp"

namespace photon {
namespace {

constexpr int format_version = 1;
constexpr std::size_t digits = 16;  // of a number in hexadecimal

struct Table {
  std::mutex lock;
  std::map<std::pair<std::string, std::string>, ProductChoice> choices;
};

Table& table() {
  static Table it;
  return it;
}

std::string encode(const ProductAlgorithm& algorithm) {
  std::string text;
  for (const std::uint64_t word : algorithm) text += fmt::format("{:016x}", word);
  return text;
}

ProductAlgorithm decode(const std::string& text) {
  ProductAlgorithm algorithm{};
  bool good = text.size() == digits * algorithm.size();
  for (std::size_t i = 0; good && i < algorithm.size(); ++i) {
    const char* const begin = text.data() + i * digits;
    const auto [end, error] = std::from_chars(begin, begin + digits, algorithm[i], 16);
    good = error == std::errc() && end == begin + digits;
  }
  if (!good) {
    throw InputError(fmt::format("a stored product choice has the algorithm '{}'", text), "not 128 hexadecimal digits",
                     "delete the file of product choices; the run measures again");
  }
  return algorithm;
}

}  // namespace

std::optional<ProductChoice> find_product_choice(const std::string& machine, const std::string& product) {
  const std::scoped_lock lock(table().lock);
  const auto found = table().choices.find({machine, product});
  if (found == table().choices.end()) return std::nullopt;
  return found->second;
}

void keep_product_choice(const std::string& machine, const std::string& product, const ProductChoice& choice) {
  const std::scoped_lock lock(table().lock);
  table().choices.emplace(std::pair(machine, product), choice);
}

std::int64_t num_product_choices() {
  const std::scoped_lock lock(table().lock);
  return static_cast<std::int64_t>(table().choices.size());
}

std::string product_choices() {
  const std::scoped_lock lock(table().lock);
  nlohmann::ordered_json products = nlohmann::ordered_json::array();
  for (const auto& [key, choice] : table().choices) {
    products.push_back({{"machine", key.first},
                        {"product", key.second},
                        {"algorithm", encode(choice.algorithm)},
                        {"microseconds", choice.microseconds}});
  }
  return nlohmann::ordered_json{{"format_version", format_version}, {"products", products}}.dump(2) + "\n";
}

int use_product_choices(const std::string& json) {
  std::vector<std::tuple<std::string, std::string, ProductChoice>> entries;
  try {
    const nlohmann::json stored = nlohmann::json::parse(json);
    const int version = stored.at("format_version").get<int>();
    if (version > format_version) {
      throw InputError(fmt::format("the product choices have format_version {}", version),
                       fmt::format("this photon reads up to {}", format_version), "use a newer photon, or delete them");
    }
    for (const nlohmann::json& entry : stored.at("products")) {
      entries.emplace_back(
          entry.at("machine").get<std::string>(), entry.at("product").get<std::string>(),
          ProductChoice{decode(entry.at("algorithm").get<std::string>()), entry.at("microseconds").get<double>()});
    }
  } catch (const nlohmann::json::exception& error) {
    throw InputError("the product choices cannot be read", error.what(),
                     "delete the file of product choices; the run measures again");
  }
  for (const auto& [machine, product, choice] : entries) keep_product_choice(machine, product, choice);
  return static_cast<int>(entries.size());
}

}  // namespace photon
