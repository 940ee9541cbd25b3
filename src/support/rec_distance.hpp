// How the recursive loss measures a reconstruction's distance: named by the configuration, computed by an op. Of two
// vectors of width D, cosine is 1 - y.x / (|y| |x|); smooth_l1 (beta 1) and mse are means over the width.
#pragma once

namespace photon {

enum class RecDistance { cosine, smooth_l1, mse };

}  // namespace photon
