// What the rows of a job are known by, in little memory: a hash of 128 bits, which no two ids of a job will share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace photon {

struct RowKey {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  bool operator==(const RowKey&) const = default;
};

RowKey key_of_id(std::string_view id);  // as JSON
// Of rows whose id does not tell them apart: lines that are no rows, and rows whose id an earlier one has.
RowKey key_of_line(std::int64_t line);

std::string key_text(const RowKey& key);  // 32 hexadecimal digits
// What key_text() made; false: it is something else.
bool parse_key(std::string_view text, RowKey& key);

// A set of keys: 16 bytes a place, and between half and seven eighths of the places are taken.
class KeySet {
 public:
  bool insert(const RowKey& key);  // false: it was there
  bool contains(const RowKey& key) const;
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return places_.size() * sizeof(RowKey); }

 private:
  std::size_t find(const RowKey& key) const;  // its place, or the empty one where it belongs
  void grow();
  std::vector<RowKey> places_;  // a power of two; {0, 0}: empty
  std::size_t size_ = 0;
};

}  // namespace photon
