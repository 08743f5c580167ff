// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include <xxhash.h>

#include <bit>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "gqa/core/error.hpp"
#include "gqa/kv/file_io.hpp"

namespace uptrain {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are written as they are");
constexpr const char* format = "uptrain checkpoint 1";
constexpr std::size_t digits = 16;

void append(std::string& bytes, const std::vector<float>& x) {
  bytes.append(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float));
}

/// The next `count` floats of `bytes`, which has as many.
std::vector<float> take(std::string_view& bytes, std::size_t count) {
  std::vector<float> x(count);
  if (count > 0) std::memcpy(x.data(), bytes.data(), count * sizeof(float));
  bytes.remove_prefix(count * sizeof(float));
  return x;
}

/// What precedes the digest. Throws gqa::format_error where that is of other bytes.
std::string_view checked_body(const std::filesystem::path& path, std::string_view bytes) {
  const std::size_t body = bytes.size() < digits ? 0 : bytes.size() - digits;
  GQA_CHECK(bytes.size() > digits && digest(bytes.substr(0, body)) == bytes.substr(body), gqa::format_error,
            path.string() << ": the checkpoint is damaged: its digest is not that of its contents; remove it "
                             "to train this anew");
  return bytes.substr(0, body);
}

}  // namespace

std::string digest(std::string_view bytes) {
  char text[digits + 1];
  std::snprintf(text, sizeof text, "%016llx",
                static_cast<unsigned long long>(XXH3_64bits(bytes.data(), bytes.size())));
  return text;
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  gqa::detail::Replacement file(path);
  file.file().write(std::as_bytes(std::span(bytes)));
  file.commit();
}

void save_checkpoint(const std::filesystem::path& path, const std::string& of, const Training& training) {
  const nlohmann::ordered_json header{{"format", format},
                                      {"of", of},
                                      {"step", training.step},
                                      {"losses", training.losses},
                                      {"parameters", training.parameters.size()},
                                      {"moments", training.moments.first.size()}};
  std::string bytes = header.dump() + "\n";
  append(bytes, training.parameters);
  append(bytes, training.moments.first);
  append(bytes, training.moments.second);
  bytes += digest(bytes);
  write_file(path, bytes);
}

std::optional<Training> load_checkpoint(const std::filesystem::path& path, const std::string& of) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return std::nullopt;
  const std::string bytes = read_text(path);
  std::string_view body = checked_body(path, bytes);
  const auto check = [&](bool holds) {
    GQA_CHECK(holds, gqa::format_error, path.string() << ": not a checkpoint of this program");
  };
  const std::size_t line = body.find('\n');
  check(line != std::string_view::npos);
  const auto header = nlohmann::json::parse(body.substr(0, line), nullptr, false);
  body.remove_prefix(line + 1);
  try {
    check(header.is_object() && header.at("format") == format);
    GQA_CHECK(header.at("of") == of, std::invalid_argument,
              path.string() << ": a checkpoint of other settings or another text; choose another --out, or "
                               "remove it to train this anew");
    const auto parameters = header.at("parameters").get<std::size_t>();
    const auto moments = header.at("moments").get<std::size_t>();
    const std::size_t floats = body.size() / sizeof(float);
    check(body.size() % sizeof(float) == 0 && parameters <= floats && moments <= floats &&
          parameters + 2 * moments == floats && (moments == 0 || moments == parameters));
    Training training{.step = header.at("step").get<Index>(),
                      .parameters = {},
                      .moments = {},
                      .losses = header.at("losses").get<std::vector<double>>()};
    training.parameters = take(body, parameters);
    training.moments.first = take(body, moments);
    training.moments.second = take(body, moments);
    return training;
  } catch (const nlohmann::json::exception&) {
    check(false);
  }
  return std::nullopt;
}

}  // namespace uptrain
