// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "results.hpp"

namespace uptrain {

/// A chart and the name of its file.
struct Plot {
  std::string file, svg;
};

/// Method against share, for each G; G against loss; cache bytes against loss. MHA is the line.
std::vector<Plot> plots(const Results& results);

}  // namespace uptrain
