// SPDX-License-Identifier: Apache-2.0
#include "picture.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <numbers>
#include <sstream>

#include "page.hpp"

namespace look {
namespace {

/// A document on a ground of its own: it reads the same on light and dark pages.
std::string document(int width, int height, const std::string& content) {
  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height
      << "\" viewBox=\"0 0 " << width << " " << height
      << "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      << content << "</svg>\n";
  return out.str();
}

/// Text for XML: bytes that are no UTF-8 and control characters replaced.
std::string escaped(const std::string& bytes) {
  const std::string dumped =
      nlohmann::json(bytes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string out;
  for (const char c : nlohmann::json::parse(dumped).get<std::string>()) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\n':
        out += "\xE2\x86\xB5";
        break;
      default:
        out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return out;
}

/// Mean divergence by layer: a dark bar for heads of a group, a light one for heads of different groups.
std::string divergence(const Look& look, const generate::Hyperparameters& sizes) {
  constexpr int left = 52, top = 48, height = 200, bar = 8, gap = 6;
  const int layers = static_cast<int>(sizes.num_layers),
            width = std::max(left + layers * (2 * bar + gap) + 16, 460);
  const auto y = [&](double js) { return top + height * (1 - js / std::numbers::ln2); };
  std::ostringstream out;
  out << std::fixed << std::setprecision(3);
  out << "<text x=\"8\" y=\"18\" font-size=\"14\">" << escaped(sizes.name)
      << ": Jensen-Shannon divergence between heads, nats</text>\n"
      << "<rect x=\"8\" y=\"27\" width=\"10\" height=\"10\" fill=\"#1f4e79\"/><text x=\"22\" y=\"36\">same "
         "group: "
      << look.within() << "</text>\n"
      << "<rect x=\"150\" y=\"27\" width=\"10\" height=\"10\" fill=\"#e08214\"/><text x=\"164\" "
         "y=\"36\">different "
         "groups: "
      << look.between() << "</text>\n";
  for (const double js : {0.0, 0.2, 0.4, 0.6, std::numbers::ln2}) {
    out << "<line x1=\"" << left << "\" x2=\"" << width - 8 << "\" y1=\"" << y(js) << "\" y2=\"" << y(js)
        << "\" stroke=\"#ccc\"/><text x=\"" << left - 6 << "\" y=\"" << y(js) + 4
        << "\" text-anchor=\"end\">";
    if (js > 0.65)
      out << "ln 2";
    else
      out << std::setprecision(1) << js << std::setprecision(3);
    out << "</text>\n";
  }
  for (int l = 0; l < layers; ++l) {
    const LayerLook& layer = look.layers[static_cast<std::size_t>(l)];
    const int x = left + gap + l * (2 * bar + gap);
    const auto column = [&](int at, double js, const char* colour) {
      out << "<rect x=\"" << at << "\" y=\"" << y(js) << "\" width=\"" << bar << "\" height=\""
          << top + height - y(js) << "\" fill=\"" << colour << "\"/>\n";
    };
    column(x, layer.within, "#1f4e79");
    column(x + bar, layer.between, "#e08214");
    if (l % 5 == 0 || layers <= 12)
      out << "<text x=\"" << x + bar << "\" y=\"" << top + height + 15 << "\" text-anchor=\"middle\">" << l
          << "</text>\n";
  }
  out << "<text x=\"" << width / 2 << "\" y=\"" << top + height + 32
      << "\" text-anchor=\"middle\">layer</text>\n";
  return document(width, top + height + 42, out.str());
}

std::string heat_map(const Look& look, const generate::Hyperparameters& sizes,
                     const generate::Tokenizer& tokenizer, Index layer, Index head) {
  const int n = static_cast<int>(look.num_cells), size = std::clamp(480 / n, 3, 16), side = n * size;
  constexpr int left = 110, top = 118;
  const HeatMap& map = look.layers[static_cast<std::size_t>(layer)].maps[static_cast<std::size_t>(head)];
  const int step = (11 + size - 1) / size;  // of labels, which are 11 high
  std::ostringstream out;
  out << std::fixed << std::setprecision(3);
  out << "<text x=\"8\" y=\"18\" font-size=\"14\">" << escaped(sizes.name) << ", layer " << layer << ", head "
      << head << " (group " << head / (sizes.num_q_heads / sizes.num_kv_heads) << ")</text>\n<rect x=\""
      << left << "\" y=\"" << top << "\" width=\"" << side << "\" height=\"" << side
      << "\" fill=\"#f4f4f4\"/>\n";
  for (int a = 0; a < n; ++a) {
    const int at = a * size + size / 2 + 4;
    if (a % step == 0) {
      const std::string token =
          escaped(tokenizer.bytes(look.tokens[static_cast<std::size_t>(a * look.cell)]));
      out << "<text xml:space=\"preserve\" font-size=\"11\" text-anchor=\"end\" x=\"" << left - 6 << "\" y=\""
          << top + at << "\">" << token << "</text>\n"
          << "<text xml:space=\"preserve\" font-size=\"11\" transform=\"translate(" << left + at << " "
          << top - 6 << ") rotate(-90)\">" << token << "</text>\n";
    }
    for (int b = 0; b <= a; ++b) {
      const float p = map[static_cast<std::size_t>(a * (a + 1) / 2 + b)];
      if (p < 1e-4F) continue;
      out << "<rect x=\"" << left + b * size << "\" y=\"" << top + a * size << "\" width=\"" << size
          << "\" height=\"" << size << "\" fill=\"#1f4e79\" fill-opacity=\"" << std::sqrt(std::min(p, 1.0F))
          << "\"/>\n";
    }
  }
  return document(std::max(left + side + 16, 420), top + side + 16, out.str());
}

}  // namespace

void check_place(const generate::Hyperparameters& sizes, const Options& options) {
  GQA_CHECK(options.layer < sizes.num_layers, std::invalid_argument,
            "--layer is " << options.layer << ", expected less than the model's " << sizes.num_layers);
  GQA_CHECK(options.head < sizes.num_q_heads, std::invalid_argument,
            "--head is " << options.head << ", expected less than the model's " << sizes.num_q_heads);
}

std::string picture(const Look& look, const generate::Hyperparameters& sizes,
                    const generate::Tokenizer& tokenizer, const Options& options) {
  check_place(sizes, options);
  switch (options.picture) {
    case Picture::head:
      return heat_map(look, sizes, tokenizer, options.layer, options.head);
    case Picture::mask:
      return explain_mask(sizes, options.layer, std::ssize(look.tokens)).svg();
    case Picture::divergence:
      break;
  }
  return divergence(look, sizes);
}

}  // namespace look
