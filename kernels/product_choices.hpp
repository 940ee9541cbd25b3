// Which algorithms measurement chose for matrix products. Tuned runs choose on the first call of each product; a run
// that stores its choices and takes them over when it resumes computes the same bits again.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace photon {

// An algorithm in the library's own encoding, valid for one version of it on one kind of GPU.
using ProductAlgorithm = std::array<std::uint64_t, 8>;

struct ProductChoice {
  ProductAlgorithm algorithm;
  double microseconds;  // what one product took when it was chosen
};

// The choices of this process, shared by its threads. `machine` names GPU and library, `product` shape and types.
std::optional<ProductChoice> find_product_choice(const std::string& machine, const std::string& product);
void keep_product_choice(const std::string& machine, const std::string& product, const ProductChoice& choice);

std::int64_t num_product_choices();
// All of them as JSON text, to be stored with a run.
std::string product_choices();
// Takes over stored choices; returns how many. Those of other machines are kept, and used by nobody here. A choice that
// this process already made stands. Errors: InputError when `json` is no such text, or of a newer format.
int use_product_choices(const std::string& json);

}  // namespace photon
