#include "decode/row_key.hpp"

#include <fmt/format.h>

#include <charconv>

#include "storage/publish.hpp"

namespace photon {
namespace {

RowKey key_of(char kind, std::string_view text) {
  std::string bytes(1, kind);
  bytes += text;
  const Checksum128 sum = checksum_128(bytes.data(), bytes.size());
  RowKey key{sum.high, sum.low};
  if (key == RowKey{}) key.low = 1;  // a set's empty place
  return key;
}

}  // namespace

RowKey key_of_id(std::string_view id) {
  return key_of('i', id);
}

RowKey key_of_line(std::int64_t line) {
  return key_of('l', std::to_string(line));
}

std::string key_text(const RowKey& key) {
  return fmt::format("{:016x}{:016x}", key.high, key.low);
}

bool parse_key(std::string_view text, RowKey& key) {
  if (text.size() != 32) return false;
  const char* middle = text.data() + 16;
  const auto high = std::from_chars(text.data(), middle, key.high, 16);
  const auto low = std::from_chars(middle, middle + 16, key.low, 16);
  return high.ec == std::errc() && high.ptr == middle && low.ec == std::errc() && low.ptr == middle + 16;
}

std::size_t KeySet::find(const RowKey& key) const {
  const std::size_t mask = places_.size() - 1;
  std::size_t place = static_cast<std::size_t>(key.low) & mask;
  while (!(places_[place] == RowKey{}) && !(places_[place] == key)) place = (place + 1) & mask;
  return place;
}

void KeySet::grow() {
  std::vector<RowKey> old(places_.empty() ? 64 : 2 * places_.size());
  old.swap(places_);
  for (const RowKey& key : old) {
    if (!(key == RowKey{})) places_[find(key)] = key;
  }
}

bool KeySet::insert(const RowKey& key) {
  if (8 * (size_ + 1) > 7 * places_.size()) grow();
  RowKey& place = places_[find(key)];
  if (place == key) return false;
  place = key;
  ++size_;
  return true;
}

bool KeySet::contains(const RowKey& key) const {
  return !places_.empty() && places_[find(key)] == key;
}

}  // namespace photon
