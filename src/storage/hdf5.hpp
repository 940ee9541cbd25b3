// A thin, owning layer over HDF5's C interface: files, data sets, attributes. File locking is off (network file systems);
// photon never opens one file twice for writing. Errors carry the file, the object and HDF5's own message.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/view.hpp"

namespace photon {

class Hdf5File {
 public:
  static Hdf5File create(const std::filesystem::path& path);  // fails when it exists
  static Hdf5File open(const std::filesystem::path& path);    // read only; InputError when missing or not HDF5
  ~Hdf5File();
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;

  // Whole contiguous data sets; intermediate groups are made. Host memory, contiguous views.
  void write(const std::string& name, const ConstTensorView& data);
  bool has(const std::string& name) const;
  Shape shape(const std::string& name) const;  // Errors: InputError when missing
  DType dtype(const std::string& name) const;
  void read(const std::string& name, const TensorView& data) const;  // shape and dtype must match
  // `count` units of dim 0 from `begin`.
  void read_rows(const std::string& name, std::int64_t begin, const TensorView& data) const;
  // Paths of all data sets, e.g. "/tokens", "/logits/0".
  std::vector<std::string> datasets() const;
  // Byte offset of a contiguous, allocated data set within the file, for mapping; -1 when it is not contiguous.
  std::int64_t file_offset(const std::string& name) const;

  // A 1-D contiguous data set of `count` elements made now and filled by write_rows.
  void create_dataset(const std::string& name, DType dtype, const Shape& shape);
  void write_rows(const std::string& name, std::int64_t begin, const ConstTensorView& data);

  void set_attribute(const std::string& name, std::int64_t value);
  void set_attribute(const std::string& name, double value);
  void set_attribute(const std::string& name, const std::string& value);
  std::int64_t attribute_int(const std::string& name) const;  // Errors: InputError when missing or of another type
  double attribute_double(const std::string& name) const;
  std::string attribute_text(const std::string& name) const;
  bool has_attribute(const std::string& name) const;

  void flush();
  // Closes and reports errors (the destructor cannot).
  void close();

 private:
  Hdf5File(std::int64_t id, std::filesystem::path path) : id_(id), path_(std::move(path)) {}
  std::int64_t id_ = -1;
  std::filesystem::path path_;
};

}  // namespace photon
