#include "train/stored_products.hpp"

#include <utility>

#include "kernels/product_choices.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {

StoredProducts::StoredProducts(std::filesystem::path own, std::filesystem::path other)
    : own_(std::move(own)), other_(std::move(other)) {}

int StoredProducts::restore() {
  const bool has_own = std::filesystem::exists(own_);
  const std::filesystem::path& file = has_own ? own_ : other_;
  if (!std::filesystem::exists(file)) return 0;
  const std::string text = read_text_file(file);
  int count = 0;
  try {
    count = use_product_choices(text);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{} cannot be used", file.string()), error.what(),
                     "restore it, or remove it: the run then measures again and goes on with other rounding");
  }
  if (has_own) stored_ = text;
  return count;
}

void StoredProducts::store() {
  if (num_product_choices() == 0) return;
  const std::string now = product_choices();
  if (now == stored_) return;
  std::error_code code;
  std::filesystem::create_directories(own_.parent_path(), code);
  if (code) throw_io_error("make the folder", own_.parent_path(), code.value());
  publish_file(own_, now, "products");
  stored_ = now;
}

}  // namespace photon
