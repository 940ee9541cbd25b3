// What every op is told besides its tensors.
#pragma once

#include "tensor/buffer.hpp"
#include "tensor/device.hpp"

namespace photon {

// deterministic: an op's result for a row does not depend on how many rows stand beside it, nor on the number of
// threads. tuned: whatever is fastest; still repeatable for equal calls on an equal machine with the same number of
// threads.
enum class Numerics { deterministic, tuned };

struct Context {
  Space space = Space::host;
  Numerics numerics = Numerics::tuned;
  Stream stream;             // device ops are queued here
  Arena* scratch = nullptr;  // device ops take their workspace here; host ops need none
};

}  // namespace photon
