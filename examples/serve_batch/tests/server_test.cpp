// SPDX-License-Identifier: Apache-2.0
// A server under pressure against each of its texts alone, and what it shows of itself.
#include "server.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "alone.hpp"
#include "table.hpp"
#include "tiny_session.hpp"

namespace serve_batch {
namespace {

using generate::CacheType;
using generate::test::some_tokens;

std::vector<TokenId> operator+(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

template <class T>
constexpr CacheType type_of = std::is_same_v<T, gqa::half>       ? CacheType::f16
                              : std::is_same_v<T, gqa::bfloat16> ? CacheType::bf16
                                                                 : CacheType::f32;

template <class T>
class ServerOf : public testing::Test {
 protected:
  /// Prompts of different lengths that begin with the same 70 tokens, but for the third one.
  static std::vector<Request> requests(Index arrival) {
    const auto system = some_tokens(70, 1);
    std::vector<Request> all = {
        {system + some_tokens(9, 2)},  {system + some_tokens(58, 3)},
        {some_tokens(1, 4)},           {system + some_tokens(60, 3)},  // the second one's, and more
        {system + some_tokens(33, 6)}, {system}};
    for (std::size_t i = 0; i < all.size(); ++i) all[i].arrival = arrival * static_cast<Index>(i);
    return all;
  }

  /// Serves them to the end, and expects each text to be the one it is alone.
  Service serve(const std::vector<Request>& requests, const Settings& settings) {
    Server<T> server(tiny_.model, tiny_.tokenizer, tiny_.executor, requests, settings);
    while (server.step()) {
    }
    const Service& service = server.service();
    EXPECT_EQ(service.requests.size(), requests.size());
    EXPECT_EQ(service.pages.used, 0);
    EXPECT_EQ(server.cache().num_sequences(), 0);
    EXPECT_EQ(service.sequences.size(), requests.size() * static_cast<std::size_t>(settings.samples));
    for (std::size_t i = 0; i < service.sequences.size(); ++i) {
      const auto alone = continue_alone(tiny_.model, tiny_.tokenizer, tiny_.executor, type_of<T>,
                                        requests[i / static_cast<std::size_t>(settings.samples)], settings,
                                        static_cast<Index>(i));
      const auto& together = service.sequences[i].continuation;
      EXPECT_EQ(together.ids(), alone.output_ids) << "sequence " << i;
      EXPECT_EQ(together.text(), alone.text);
      EXPECT_EQ(together.stop(), alone.stop);
    }
    return service;
  }
  static Index swaps(const Service& service) {
    Index sum = 0;
    for (const auto& s : service.sequences) sum += s.swaps;
    return sum;
  }

  generate::test::TinyModel tiny_;
};
using Scalars = testing::Types<float, gqa::half, gqa::bfloat16>;
TYPED_TEST_SUITE(ServerOf, Scalars);

TYPED_TEST(ServerOf, GivesEachTextAsItIsAlone) {
  for (const Index arrival : {0, 1, 7, 200}) {
    SCOPED_TRACE(arrival);
    const Service service = this->serve(this->requests(arrival), {.max_tokens = 90, .num_pages = 30});
    EXPECT_EQ(this->swaps(service), 0);
    EXPECT_EQ(service.swapped_bytes, 0);
    EXPECT_EQ(service.most_at_once == 1, arrival == 200);
    // A page and a part of one, as the second one's whole second page was there.
    EXPECT_EQ(service.requests[0].found, 0);
    EXPECT_EQ(service.requests[2].found, 0);
    EXPECT_EQ(service.requests[3].found, 128);
    EXPECT_EQ(service.requests[5].found, 69);
  }
}

TYPED_TEST(ServerOf, GivesTheSameTextsWherePagesRunOut) {
  for (const Index pages : {4, 5, 7}) {
    for (const double temperature : {0.0, 1.5}) {
      SCOPED_TRACE(std::to_string(pages) + " pages at " + std::to_string(temperature));
      const Service service = this->serve(this->requests(3), {.samples = 3,
                                                              .max_tokens = 70,
                                                              .temperature = temperature,
                                                              .top_k = 9,
                                                              .seed = 5,
                                                              .num_pages = pages,
                                                              .limits = {5, 20}});
      EXPECT_GT(this->swaps(service), 0);
      EXPECT_GT(service.swapped_bytes, 0);
      EXPECT_LE(service.most_used, pages);
      EXPECT_GT(service.most_shared, 0);
      EXPECT_LE(service.most_at_once, 5);
    }
  }
}

TYPED_TEST(ServerOf, SamplesDiffer) {
  const Service service =
      this->serve({this->requests(0)[0]}, {.samples = 4, .max_tokens = 20, .temperature = 2, .num_pages = 8});
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < i; ++j)
      EXPECT_NE(service.sequences[i].continuation.ids(), service.sequences[j].continuation.ids());
  EXPECT_EQ(service.requests.size(), 1U);
  EXPECT_EQ(service.most_at_once, 4);
  EXPECT_EQ(service.pages.copied, 3);  // of the prompt's last page; the fourth one keeps it
}

TYPED_TEST(ServerOf, EndsWithOneTokenAndWithTheContext) {
  const Service one = this->serve(this->requests(0), {.samples = 2, .max_tokens = 1, .num_pages = 9});
  for (const auto& s : one.sequences) EXPECT_EQ(s.continuation.ids().size(), 1U);
  const Service full = this->serve({{some_tokens(199, 1)}, {some_tokens(200, 2)}},
                                   {.max_tokens = 50, .num_pages = 4, .limits = {2, 500}});
  EXPECT_EQ(full.sequences[0].continuation.stop(), "context");
  EXPECT_EQ(full.sequences[0].continuation.ids().size(), 2U);
  EXPECT_EQ(full.sequences[1].continuation.ids().size(), 1U);
}

class OneServer : public ServerOf<float> {};

TEST_F(OneServer, RefusesWhatItCouldNotServeAlone) {
  const auto make = [&](const std::vector<Request>& requests, const Settings& settings) {
    Server<float>(tiny_.model, tiny_.tokenizer, tiny_.executor, requests, settings);
  };
  EXPECT_THROW(make({{}}, {}), std::invalid_argument);
  EXPECT_THROW(make({{some_tokens(201, 1)}}, {}), std::invalid_argument);
  EXPECT_THROW(make({{some_tokens(5, 1), 3}, {some_tokens(5, 1), 2}}, {}), std::invalid_argument);
  EXPECT_THROW(make({{some_tokens(5, 1)}}, {.samples = 3, .limits = {2, 1}}), std::invalid_argument);
  EXPECT_THROW(make({{some_tokens(5, 1)}}, {.num_pages = 0}), std::invalid_argument);
  try {
    make({{some_tokens(5, 1)}, {some_tokens(60, 1)}}, {.max_tokens = 6, .num_pages = 1});
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "request 2: a sequence may need 2 pages, there are 1");
  }
  make({{some_tokens(60, 1)}}, {.max_tokens = 5, .num_pages = 1});
}

TEST_F(OneServer, LeavesTextsAsTheyAre) {
  Server<float> server(tiny_.model, tiny_.tokenizer, tiny_.executor, requests(3),
                       {.max_tokens = 40, .num_pages = 30});
  for (int i = 0; i < 10; ++i) server.step();
  server.interrupt();
  const Service& service = server.service();
  ASSERT_EQ(service.requests.size(), 4U);
  const auto alone = continue_alone(tiny_.model, tiny_.tokenizer, tiny_.executor, CacheType::f32,
                                    requests(3)[0], {.max_tokens = 10}, 0);
  EXPECT_EQ(service.sequences[0].continuation.ids(), alone.output_ids);
  EXPECT_EQ(service.sequences[0].continuation.stop(), "interrupt");
  EXPECT_EQ(service.passes, 10);
}

/// By the server's own clock, between the beginning and the end of a pass: no time is measured here.
TEST_F(OneServer, NotesWhenTheFirstTokensAndTheLastCame) {
  Server<float> server(tiny_.model, tiny_.tokenizer, tiny_.executor, requests(3),
                       {.samples = 2, .max_tokens = 12, .num_pages = 30, .limits = {64, 40}});
  const Service& service = server.service();
  std::vector<double> first(requests(3).size(), -1);
  for (bool more = true; more;) {
    const double before = service.seconds;
    more = server.step();
    for (std::size_t i = 0; i < service.requests.size(); ++i) {
      const Service::Request& request = service.requests[i];
      const bool begun = !service.sequences[2 * i].continuation.ids().empty();
      ASSERT_EQ(request.first_seconds >= 0, begun) << "request " << i;
      if (begun && first[i] < 0) {
        first[i] = request.first_seconds;
        EXPECT_GE(request.arrived + first[i], before);
        EXPECT_LE(request.arrived + first[i], service.seconds);
        EXPECT_EQ(request.seconds, first[i]);
      }
      EXPECT_EQ(request.first_seconds, first[i]) << "the first ones stay the first";
    }
  }
  for (const Service::Request& request : service.requests) {
    EXPECT_GT(request.seconds, request.first_seconds);
    EXPECT_LE(request.arrived + request.seconds, service.seconds);
  }
}

TEST_F(OneServer, IsShownInATable) {
  Server<float> server(tiny_.model, tiny_.tokenizer, tiny_.executor, requests(1),
                       {.samples = 3, .max_tokens = 60, .num_pages = 5, .limits = {5, 50}});
  std::string all;
  bool more = true;
  while (more) {
    const auto lines = table_lines(server.service(), 60, 7);
    ASSERT_GE(lines.size(), 1U);
    ASSERT_LE(lines.size(), 7U);
    for (const std::string& line : lines) {
      ASSERT_LE(line.size(), 60U);
      ASSERT_TRUE(std::ranges::all_of(line, [](char c) { return c >= ' ' && c <= '~'; })) << line;
      all += line + "\n";
    }
    more = server.step();
  }
  for (const char* part : {"    1.1  reads 50/79", "    1.2  waits", "decodes", "swapped out", "of 5 used"})
    EXPECT_NE(all.find(part), std::string::npos) << part;
  const auto last = table_lines(server.service(), 200, 5);
  ASSERT_EQ(last.size(), 1U);
  EXPECT_NE(last[0].find("pages: 0 of 5 used, 0 shared, "), std::string::npos) << last[0];
}

}  // namespace
}  // namespace serve_batch
