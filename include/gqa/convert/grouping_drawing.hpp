// SPDX-License-Identifier: Apache-2.0
// A grouping report as text and as a picture.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "gqa/convert/grouping_report.hpp"

namespace gqa::convert {

namespace detail {

/// With so many digits behind the point, whatever the locale.
inline std::string fixed(double x, int digits) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, digits);
  return std::string(text, end.ptr);
}
inline std::string padded(std::string text, std::size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

inline void check_report(const GroupingReport& r) {
  const Index heads = r.grouping.num_q_heads();
  const auto groups = static_cast<std::size_t>(r.grouping.num_kv_heads());
  for (const Matrix* m : {&r.similarity_before, &r.similarity_after}) {
    GQA_CHECK(m->rows() == heads && m->cols() == heads, std::invalid_argument,
              "report: similarities are " << m->rows() << " x " << m->cols() << ", expected " << heads
                                          << " x " << heads);
    check_finite(*m, "report: similarities");
  }
  for (const auto* d : {&r.divergence_before, &r.divergence_after}) {
    GQA_CHECK(d->size() == groups, std::invalid_argument,
              "report: divergences are of " << d->size() << " groups, expected " << groups);
    check_finite(*d, "report: divergences");
  }
}

/// The mean similarity of the pairs of different members; 1 of a lonely one.
inline double mean_similarity(const Matrix& similarity, const std::vector<Index>& members) {
  double sum = 0, pairs = 0;
  for (const Index h : members)
    for (const Index k : members)
      if (h < k) sum += similarity(h, k), pairs += 1;
  return pairs > 0 ? sum / pairs : 1;
}

}  // namespace detail

/// Writes a line for each group and one for all: its heads, how alike they are before and after alignment,
/// and what share of their squared norm a mean loses. Throws std::invalid_argument for a report whose parts
/// do not fit each other, nothing written.
inline void write_table(std::ostream& out, const GroupingReport& report) {
  using detail::fixed;
  using detail::padded;
  detail::check_report(report);
  const auto members = detail::members_of(report.grouping);
  std::vector<std::string> heads;
  std::size_t width = 5;
  for (const auto& group : members) {
    std::string list;
    for (const Index h : group) list += (list.empty() ? "" : " ") + std::to_string(h);
    width = std::max(width, list.size());
    heads.push_back(std::move(list));
  }
  std::string text = "group  " + std::string("heads") + std::string(width - 5, ' ') +
                     "  similarity  aligned  lost by mean  aligned\n";
  for (std::size_t g = 0; g < members.size(); ++g) {
    const auto similarity = [&](const Matrix& s) { return fixed(detail::mean_similarity(s, members[g]), 2); };
    const auto percent = [](double share) { return fixed(100 * share, 1) + " %"; };
    text += padded(std::to_string(g), 5) + "  " + heads[g] + std::string(width - heads[g].size(), ' ') +
            padded(similarity(report.similarity_before), 12) +
            padded(similarity(report.similarity_after), 9) +
            padded(percent(report.divergence_before[g]), 14) +
            padded(percent(report.divergence_after[g]), 9) + "\n";
  }
  text += "effective rank of keys " + fixed(report.key_rank_before, 1) + " -> " +
          fixed(report.key_rank_after, 1) + ", of values " + fixed(report.value_rank_before, 1) + " -> " +
          fixed(report.value_rank_after, 1) + "; cache " +
          std::to_string(report.cache_before.elements_per_token) + " -> " +
          std::to_string(report.cache_after.elements_per_token) + " elements a token\n";
  out << text;
}

/// Writes a standalone SVG document: the similarities of heads before and after alignment, of few heads as
/// numbers too, heads ordered by group and groups framed, a scale of their colours, and what each group loses
/// by a mean and by an aligned one. Throws as write_table() does.
inline void write_svg(std::ostream& out, const GroupingReport& report) {
  using detail::fixed;
  detail::check_report(report);
  const auto members = detail::members_of(report.grouping);
  const Index heads = report.grouping.num_q_heads(), groups = report.grouping.num_kv_heads();
  std::vector<Index> order;
  for (const auto& group : members) order.insert(order.end(), group.begin(), group.end());
  const int cell = std::clamp(static_cast<int>(320 / heads), 4, 40), side = cell * static_cast<int>(heads);
  const int margin = 40, gap = 50, bar = 14, bars_top = margin + side + 110;
  const int second = margin + std::max(side, 150) + gap;  // where the other map begins: titles need some room
  const int width = std::max(second + side + margin, 520);
  const int height = bars_top + static_cast<int>(groups) * (2 * bar + 8) + margin;
  const auto n = [](auto x) { return std::to_string(x); };
  const auto label = [&](int x, int y, const std::string& words, const char* anchor = "start",
                         const std::string& style = "") {
    return "<text x=\"" + n(x) + "\" y=\"" + n(y) + "\" text-anchor=\"" + anchor + "\"" + style + ">" +
           words + "</text>\n";
  };
  // White for 0 to blue for 1, to orange for -1.
  const auto colour_of = [](double s) {
    const double red = s > 0 ? 255 - 224 * s : 255, green = s > 0 ? 255 - 144 * s : 255 + 115 * s,
                 blue = s > 0 ? 255 - 96 * s : 255 + 220 * s;
    return "rgb(" + fixed(red, 0) + "," + fixed(green, 0) + "," + fixed(blue, 0) + ")";
  };
  const auto rect = [&](int x, int y, int w, int h, const std::string& style) {
    return "<rect x=\"" + n(x) + "\" y=\"" + n(y) + "\" width=\"" + n(w) + "\" height=\"" + n(h) + "\" " +
           style + "/>\n";
  };

  std::string text = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + n(width) + "\" height=\"" +
                     n(height) + "\" font-family=\"sans-serif\" font-size=\"12\">\n<title>" + n(heads) +
                     " heads in " + n(groups) +
                     " groups</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  const auto map = [&](const Matrix& similarity, int left, const char* name) {
    text += label(left, margin - 18, name);
    for (std::size_t i = 0; i < order.size(); ++i) {
      const int at = cell * static_cast<int>(i);
      if (cell >= 14) text += label(left + at + cell / 2, margin - 4, n(order[i]), "middle");
      if (cell >= 9)  // of many heads there is room for numbers on one side
        text += label(left - 4, margin + at + cell / 2 + 4, n(order[i]), "end",
                      cell < 14 ? " font-size=\"9\"" : "");
      for (std::size_t j = 0; j < order.size(); ++j) {
        const double s = std::clamp(similarity(order[i], order[j]), -1.0, 1.0);
        const int x = left + cell * static_cast<int>(j);
        text += rect(x, margin + at, cell, cell, "fill=\"" + colour_of(s) + "\"");
        if (cell >= 32)
          text += label(x + cell / 2, margin + at + cell / 2 + 4, fixed(s, 2), "middle",
                        s > 0.6 ? " font-size=\"11\" fill=\"white\"" : " font-size=\"11\"");
      }
    }
    int at = 0;
    for (const auto& group : members) {
      const int size = cell * static_cast<int>(group.size());
      text += rect(left + at, margin + at, size, size, "fill=\"none\" stroke=\"black\" stroke-width=\"1.5\"");
      at += size;
    }
  };
  map(report.similarity_before, margin, "similarity of heads");
  map(report.similarity_after, second, "after alignment");
  constexpr int steps = 20, step = 6;
  text += label(margin, margin + side + 26, "-1");
  for (int i = 0; i <= steps; ++i)
    text += rect(margin + 20 + step * i, margin + side + 16, step, 12,
                 "fill=\"" + colour_of(2.0 * i / steps - 1) + "\"");
  text += label(margin + 26 + step * (steps + 1), margin + side + 26,
                "1: cosine of keys and of values, their mean");

  text += label(margin, bars_top - 38,
                "effective rank: keys " + fixed(report.key_rank_before, 1) + " to " +
                    fixed(report.key_rank_after, 1) + ", values " + fixed(report.value_rank_before, 1) +
                    " to " + fixed(report.value_rank_after, 1));
  text +=
      label(margin, bars_top - 18, "lost by the mean (light) and by the aligned mean (dark), of each group:");
  const int room = width - 2 * margin - 110;
  for (Index g = 0; g < groups; ++g) {
    const int y = bars_top + static_cast<int>(g) * (2 * bar + 8);
    text += label(margin + 50, y + bar + 4, "group " + n(g), "end");
    int row = y;
    for (const auto& [share, colour] :
         {std::pair{report.divergence_before[static_cast<std::size_t>(g)], "#7fb4d4"},
          std::pair{report.divergence_after[static_cast<std::size_t>(g)], "#1f6f9f"}}) {
      const int length = static_cast<int>(std::lround(room * std::clamp(share, 0.0, 1.0)));
      text += rect(margin + 58, row, length, bar, "fill=\"" + std::string(colour) + "\"");
      text += label(margin + 62 + length, row + bar - 3, fixed(100 * share, 1) + " %");
      row += bar;
    }
  }
  out << text << "</svg>\n";
}

}  // namespace gqa::convert
