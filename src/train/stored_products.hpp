// The algorithms that measurement chose for matrix products (kernels/product_choices.hpp), kept in the run folder: a
// tuned run that goes on computes the same bits as before it was stopped.
#pragma once

#include <filesystem>
#include <string>

namespace photon {

class StoredProducts {
 public:
  // Files, which need not exist yet: `own` of this rank, and `other`, which stands in where it has none, e.g. where the
  // run goes on with more ranks.
  StoredProducts(std::filesystem::path own, std::filesystem::path other);

  // Takes over what is stored; returns how many choices. Errors: InputError for a file that is none.
  int restore();
  // Publishes the choices of this process where they are others than those stored. Errors: Error, e.g. on a full disk.
  void store();

 private:
  std::filesystem::path own_;
  std::filesystem::path other_;
  std::string stored_;  // what `own` holds; empty: unknown
};

}  // namespace photon
