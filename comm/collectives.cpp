// Every rank exchanges with every other directly: traffic is the least possible, a rank that is missing is known by
// name, and arithmetic happens here, in rank order.
#include "comm/collectives.hpp"

#include <algorithm>
#include <cstring>

#include "comm/limits.hpp"
#include "comm/reduce.hpp"

namespace photon::comm {
namespace {

std::byte* bytes_of(const TensorView& view) {
  return static_cast<std::byte*>(view.data());
}
const std::byte* bytes_of(const ConstTensorView& view) {
  return static_cast<const std::byte*>(view.data());
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Calls f for every other rank, each rank beginning behind itself, so that not all talk to rank 0 first.
template <class F>
void for_others(const Group& group, const F& f) {
  for (int i = 1; i < group.size; ++i) f((group.rank + i) % group.size);
}

// Rows that the other ranks sent lie in scratch one after another, `bytes` each; this rank's own lies at `mine`.
std::vector<const std::byte*> rows_in(const Group& group, const std::byte* scratch, std::int64_t bytes,
                                      const std::byte* mine) {
  std::vector<const std::byte*> rows;
  for (int r = 0; r < group.size; ++r) rows.push_back(r == group.rank ? mine : scratch + r * bytes);
  return rows;
}

// `count` elements at `base`, all ranks' in one exchange, added up by everyone.
Piece reduce_directly(Group& group, DType dtype, Reduction op, std::byte* base, std::int64_t count) {
  const std::int64_t bytes = count * static_cast<std::int64_t>(size_of(dtype));
  Piece piece;
  piece.scratch = group.take_scratch(bytes * group.size);
  std::byte* scratch = piece.scratch.data();
  piece.steps.emplace_back([&group, base, bytes, scratch](Messages& messages, int tag) {
    for_others(group, [&](int r) { messages.receive(scratch + r * bytes, bytes, r, tag, "all_reduce"); });
    for_others(group, [&](int r) { messages.send(base, bytes, r, tag, "all_reduce"); });
  });
  piece.steps.emplace_back([&group, dtype, op, base, count, bytes, scratch](Messages&, int) {
    reduce_rows(dtype, op, rows_in(group, scratch, bytes, base), count, base);
  });
  return piece;
}

// Rank r reduces block r of everyone's elements, then all ranks collect the blocks.
Piece reduce_in_blocks(Group& group, DType dtype, Reduction op, std::byte* base, std::int64_t count) {
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const auto first = [&group, count](int r) { return count * r / group.size; };
  const auto begin = [base, first, element](int r) { return base + first(r) * element; };
  const auto bytes = [first, element](int r) { return (first(r + 1) - first(r)) * element; };
  const std::int64_t my_bytes = bytes(group.rank);
  Piece piece;
  piece.scratch = group.take_scratch(my_bytes * group.size);
  std::byte* scratch = piece.scratch.data();
  piece.steps.emplace_back([&group, begin, bytes, my_bytes, scratch](Messages& messages, int tag) {
    for_others(group, [&](int r) { messages.receive(scratch + r * my_bytes, my_bytes, r, tag, "all_reduce"); });
    for_others(group, [&](int r) { messages.send(begin(r), bytes(r), r, tag, "all_reduce"); });
  });
  piece.steps.emplace_back([&group, dtype, op, begin, bytes, my_bytes, element, scratch](Messages& messages, int tag) {
    std::byte* mine = begin(group.rank);
    reduce_rows(dtype, op, rows_in(group, scratch, my_bytes, mine), my_bytes / element, mine);
    for_others(group, [&](int r) { messages.receive(begin(r), bytes(r), r, tag, "all_reduce"); });
    for_others(group, [&](int r) { messages.send(mine, my_bytes, r, tag, "all_reduce"); });
  });
  return piece;
}

}  // namespace

std::shared_ptr<Operation> make_all_reduce(const std::shared_ptr<Group>& group, const TensorView& data, Reduction op) {
  const auto element = static_cast<std::int64_t>(size_of(data.dtype()));
  const std::int64_t step = std::max<std::int64_t>(1, limits().piece_bytes / element);
  const auto make = [g = group.get(), data, op, element, step](std::int64_t index) {
    const std::int64_t count = std::min(step, data.numel() - index * step);
    std::byte* base = bytes_of(data) + index * step * element;
    return count * element * g->size <= limits().direct_bytes ? reduce_directly(*g, data.dtype(), op, base, count)
                                                              : reduce_in_blocks(*g, data.dtype(), op, base, count);
  };
  return std::make_shared<Collective>(group, "all_reduce", data.bytes(), divide_up(data.numel(), step), make);
}

std::shared_ptr<Operation> make_reduce_scatter(const std::shared_ptr<Group>& group, const ConstTensorView& all,
                                               const TensorView& mine, Reduction op) {
  const auto element = static_cast<std::int64_t>(size_of(mine.dtype()));
  const std::int64_t step = std::max<std::int64_t>(1, limits().piece_bytes / element / group->size);
  const auto make = [g = group.get(), all, mine, op, element, step](std::int64_t index) {
    const std::int64_t count = std::min(step, mine.numel() - index * step);
    const std::int64_t bytes = count * element;
    const auto part = [all, offset = index * step * element, part_bytes = mine.bytes()](int r) {
      return bytes_of(all) + r * part_bytes + offset;
    };
    std::byte* result = bytes_of(mine) + index * step * element;
    Piece piece;
    piece.scratch = g->take_scratch(bytes * g->size);
    std::byte* scratch = piece.scratch.data();
    piece.steps.emplace_back([g, part, bytes, scratch](Messages& messages, int tag) {
      for_others(*g, [&](int r) { messages.receive(scratch + r * bytes, bytes, r, tag, "reduce_scatter"); });
      for_others(*g, [&](int r) { messages.send(part(r), bytes, r, tag, "reduce_scatter"); });
    });
    piece.steps.emplace_back([g, part, bytes, scratch, op, result, count, dtype = mine.dtype()](Messages&, int) {
      reduce_rows(dtype, op, rows_in(*g, scratch, bytes, part(g->rank)), count, result);
    });
    return piece;
  };
  return std::make_shared<Collective>(group, "reduce_scatter", all.bytes(), divide_up(mine.numel(), step), make);
}

std::shared_ptr<Operation> make_all_gather(const std::shared_ptr<Group>& group, const ConstTensorView& mine,
                                           const TensorView& all) {
  const auto make = [g = group.get(), mine, all](std::int64_t) {
    Piece piece;
    piece.steps.emplace_back([g, mine, all](Messages& messages, int tag) {
      const std::int64_t bytes = mine.bytes();
      for_others(*g, [&](int r) { messages.receive(bytes_of(all) + r * bytes, bytes, r, tag, "all_gather"); });
      for_others(*g, [&](int r) { messages.send(bytes_of(mine), bytes, r, tag, "all_gather"); });
      std::byte* place = bytes_of(all) + g->rank * bytes;
      if (place != bytes_of(mine)) std::memcpy(place, bytes_of(mine), static_cast<std::size_t>(bytes));
    });
    return piece;
  };
  return std::make_shared<Collective>(group, "all_gather", all.bytes(), mine.numel() == 0 ? 0 : 1, make);
}

std::shared_ptr<Operation> make_all_to_all(const std::shared_ptr<Group>& group, const ConstTensorView& from,
                                           const TensorView& to) {
  const auto make = [g = group.get(), from, to](std::int64_t) {
    Piece piece;
    piece.steps.emplace_back([g, from, to](Messages& messages, int tag) {
      const std::int64_t bytes = from.bytes() / g->size;
      for_others(*g, [&](int r) { messages.receive(bytes_of(to) + r * bytes, bytes, r, tag, "all_to_all"); });
      for_others(*g, [&](int r) { messages.send(bytes_of(from) + r * bytes, bytes, r, tag, "all_to_all"); });
      std::memcpy(bytes_of(to) + g->rank * bytes, bytes_of(from) + g->rank * bytes, static_cast<std::size_t>(bytes));
    });
    return piece;
  };
  return std::make_shared<Collective>(group, "all_to_all", from.bytes(), from.numel() == 0 ? 0 : 1, make);
}

std::shared_ptr<Operation> make_broadcast(const std::shared_ptr<Group>& group, const TensorView& data, int root) {
  const auto make = [g = group.get(), data, root](std::int64_t) {
    Piece piece;
    if (g->size == 2 || data.bytes() * g->size <= limits().direct_bytes) {
      piece.steps.emplace_back([g, data, root](Messages& messages, int tag) {
        if (g->rank != root) return messages.receive(bytes_of(data), data.bytes(), root, tag, "broadcast");
        for_others(*g, [&](int r) { messages.send(bytes_of(data), data.bytes(), r, tag, "broadcast"); });
      });
      return piece;
    }
    // The root deals out blocks, then everyone hands its block to all that lack it.
    const auto first = [g, bytes = data.bytes()](int r) {
      return bytes / g->size * r + std::min<std::int64_t>(r, bytes % g->size);
    };
    const auto block = [data, first](int r) { return bytes_of(data) + first(r); };
    const auto size = [first](int r) { return first(r + 1) - first(r); };
    piece.steps.emplace_back([g, root, block, size](Messages& messages, int tag) {
      const int me = g->rank;
      if (me != root) return messages.receive(block(me), size(me), root, tag, "broadcast");
      for_others(*g, [&](int r) { messages.send(block(r), size(r), r, tag, "broadcast"); });
    });
    piece.steps.emplace_back([g, root, block, size](Messages& messages, int tag) {
      for_others(*g, [&](int r) {
        if (g->rank != root) messages.receive(block(r), size(r), r, tag, "broadcast");
      });
      for_others(*g, [&](int r) {
        if (r != root) messages.send(block(g->rank), size(g->rank), r, tag, "broadcast");
      });
    });
    return piece;
  };
  return std::make_shared<Collective>(group, "broadcast", data.bytes(), data.numel() == 0 ? 0 : 1, make);
}

std::shared_ptr<Operation> make_barrier(const std::shared_ptr<Group>& group) {
  const auto make = [g = group.get()](std::int64_t) {
    Piece piece;
    piece.steps.emplace_back([g](Messages& messages, int tag) {
      for_others(*g, [&](int r) { messages.receive(nullptr, 0, r, tag, "barrier"); });
      for_others(*g, [&](int r) { messages.send(nullptr, 0, r, tag, "barrier"); });
    });
    return piece;
  };
  return std::make_shared<Collective>(group, "barrier", 0, 1, make);
}

}  // namespace photon::comm
