// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

#include <cmath>
#include <limits>

#include "small_architectures.hpp"

namespace look {
namespace {

using Json = nlohmann::json;

class Program : public generate::test::Program {
 protected:
  /// A file's text, which must be there.
  std::string file(const std::string& name) const {
    EXPECT_TRUE(std::filesystem::exists(path(name))) << name;
    return generate::test::read(path(name));
  }
  void refused(std::vector<std::string> arguments, const std::string& part) const {
    expect_refused(run_tiny(std::move(arguments)), part);
  }
};

/// With what HTML and JSON would take for their own, and a letter whose bytes are tokens of their own.
const std::string text = "the fox and the fox & the <fox> \xF0\x9F\xA6\x8A </script><!--";

TEST_F(Program, PrintsMeasuresInTheirRanges) {
  const Json look = json({"--text", text});
  const auto n = look["token_ids"].size();
  EXPECT_EQ(look["tokens"].size(), n);
  EXPECT_EQ(look["layers"].size(), look["num_layers"]);
  const double ln2 = std::log(2.0);
  for (const Json& layer : look["layers"]) {
    EXPECT_EQ(layer["heads"].size(), look["num_q_heads"]);
    for (const Json& head : layer["heads"]) {
      EXPECT_GE(head["entropy"], 0);
      EXPECT_LE(head["entropy"], std::log(static_cast<double>(n)));
      EXPECT_LE(head["distance"], static_cast<double>(n) - 1);
      for (const char* mass : {"sinks", "window", "diagonal", "previous", "induction"}) {
        EXPECT_GE(head[mass], 0) << mass;
        EXPECT_LE(head[mass], 1 + 1e-5) << mass;
      }
      EXPECT_FALSE(head.contains("importance"));
    }
    for (const Json& js : layer["divergence"]) {
      EXPECT_GE(js, 0);
      EXPECT_LE(js, ln2);
    }
    double sum = 0;
    for (const Json& part : layer["rollout_of_last_token"]) sum += part.get<double>();
    EXPECT_NEAR(sum, 1, 1e-9);
  }
  EXPECT_FALSE(std::filesystem::exists(path("look.html")));
}

TEST_F(Program, SaysTheSameWithAnyThreads) {
  EXPECT_EQ(json({"--text", text, "--threads", "1"}), json({"--text", text, "--threads", "3"}));
}

TEST_F(Program, SeesOneTokenAlone) {
  const Json look = json({"--text", "a", "--importance"});
  ASSERT_EQ(look["token_ids"].size(), 1U);
  for (const Json& head : look["layers"][0]["heads"]) {
    EXPECT_EQ(head["entropy"], 0);
    EXPECT_EQ(head["diagonal"], 1);
    EXPECT_EQ(head["induction"], nullptr);
    EXPECT_EQ(head["importance"], 0);  // nothing is predicted
  }
}

TEST_F(Program, LeavesHeadsOut) {
  const Json look = json({"--text", text, "--importance"});
  EXPECT_GT(look["loss"], 0);
  bool some = false;
  for (const Json& layer : look["layers"])
    for (const Json& head : layer["heads"]) some = some || head["importance"] != 0;
  EXPECT_TRUE(some);
}

std::vector<int> bytes_of_base64(const std::string& code) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<int> bytes;
  unsigned bits = 0;
  int count = 0;
  for (const char c : code) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<unsigned>(digits.find(c));
    if ((count += 6) >= 8) bytes.push_back(static_cast<int>(bits >> (count -= 8) & 255));
  }
  return bytes;
}

/// What a page holds, and that the rows of its heat maps sum to 1: a byte is 255 sqrt(p) but for rounding by
/// a half, which moves p by at most sqrt(p) / 255, and those of a row by sqrt(n) / 255, and a little.
Json data_of(const std::string& page) {
  const std::string begin = R"(<script type="application/json" id="data">)";
  const auto at = page.find(begin) + begin.size();
  const Json data = Json::parse(page.substr(at, page.find("</script>", at) - at));
  const auto n = data["num_cells"].get<std::size_t>(), heads = data["num_q_heads"].get<std::size_t>();
  for (const Json& layer : data["layers"]) {
    const auto bytes = bytes_of_base64(layer["maps"].get<std::string>());
    EXPECT_EQ(bytes.size(), heads * n * (n + 1) / 2);
    if (bytes.size() != heads * n * (n + 1) / 2) break;
    auto next = bytes.begin();
    for (std::size_t row = 0; row < heads * n; ++row) {
      double sum = 0;
      for (std::size_t column = 0; column <= row % n; ++column) sum += std::pow(*next++ / 255.0, 2);
      EXPECT_NEAR(sum, 1, std::sqrt(static_cast<double>(n)) / 255 + 1e-3) << row;
    }
  }
  return data;
}

TEST_F(Program, WritesOnePageThatAsksForNothing) {
  const Result result = run_tiny({"--text", text, "--html", path("page.html")});
  ASSERT_EQ(result.code, 0) << result.err;
  const std::string page = file("page.html");
  EXPECT_EQ(page.find("{{"), std::string::npos);
  EXPECT_EQ(page.find(" src="), std::string::npos);
  for (const char* asks : {"@import", "fetch(", "XMLHttpRequest", "<link rel=\"stylesheet"})
    EXPECT_EQ(page.find(asks), std::string::npos) << asks;
  // What the text says ends no element.
  const Json data = data_of(page);
  EXPECT_EQ(data["num_cells"], data["tokens"].size());
  std::string whole;
  for (const Json& token : data["tokens"]) whole += token.get<std::string>();
  EXPECT_NE(whole.find("<fox>"), std::string::npos);
}

TEST_F(Program, JoinsTokensWhereThereAreMoreThanCells) {
  ASSERT_EQ(run_tiny({"--text", text, "--html", path("page.html"), "--cells", "4"}).code, 0);
  const Json data = data_of(file("page.html"));
  const auto n = data["tokens"].size(), cell = data["cell"].get<std::size_t>();
  EXPECT_EQ(cell, (n + 3) / 4);
  EXPECT_EQ(data["num_cells"], (n + cell - 1) / cell);
  EXPECT_EQ(data["layers"][0]["rollout_of_last_token"].size(), 0U);
}

TEST_F(Program, DrawsPictures) {
  for (const char* picture : {"divergence", "head", "mask"}) {
    const Result result =
        run_tiny({"--text", text, "--svg", "-", "--picture", picture, "--layer", "1", "--head", "1"});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out.find("<svg xmlns"), 0U) << picture;
    EXPECT_EQ(result.out.find("><</text>"), std::string::npos) << "a token is spelled as a tag";
    EXPECT_NE(result.out.find("</svg>"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists("look.html"));
}

TEST_F(Program, ExplainsMasks) {
  const Result result = run_tiny({"--text", text, "--explain"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("% of pairs attend"), std::string::npos) << result.out;
}

TEST_F(Program, ReadsWindowedModels) {
  // Layers 0 to 4 see 8 keys. The first bytes are all the words there are, and one that is made of two.
  auto model = generate::test::small_architecture("gemma3", 6);
  generate::test::TinyVocabulary vocabulary;
  vocabulary.tokens.resize(96);
  vocabulary.tokens.push_back("12");
  vocabulary.types.resize(97);
  model.text("tokenizer.ggml.model", "gpt2");
  model.text("tokenizer.ggml.pre", "smollm");
  model.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  model.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  model.texts("tokenizer.ggml.merges", {"1 2"});
  model.integer("tokenizer.ggml.eos_token_id", 2);
  write("gemma.gguf", model);
  const Result result =
      run({"--model", path("gemma.gguf"), "--text", "1,2,3,4,5,6,7,8,9", "--html", path("page.html")});
  ASSERT_EQ(result.code, 0) << result.err;
  const Result json =
      run({"--model", path("gemma.gguf"), "--text", "1,2,3,4,5,6,7,8,9", "--window", "8", "--json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const Json look = Json::parse(json.out);
  for (std::size_t l = 0; l < 6; ++l) {
    EXPECT_EQ(look["layers"][l]["window"], l == 5 ? Json() : Json(8));
    for (const Json& head : look["layers"][l]["heads"])
      EXPECT_TRUE(l == 5 ? head["window"] < 1 - 1e-5 : std::abs(head["window"].get<double>() - 1) < 1e-5);
  }
  EXPECT_NE(file("page.html").find("\"local\":\"\\u003csvg"), std::string::npos);
}

TEST_F(Program, RefusesWhatCannotBe) {
  refused({}, "--text or --text-file is required");
  refused({"--text", ""}, "--text is empty");
  refused({"--text", "\xFF"}, "UTF-8");
  refused({"--text-file", path("none")}, "none");
  refused({"--text", std::string(5000, 'x')}, "expected at most the model's context");
  refused({"--text", text, "--layer", "99"}, "--layer is 99, expected less than the model's");
  refused({"--text", text, "--head", "99"}, "--head is 99, expected less than the model's");
  refused({"--text", text, "--cells", "0"}, "--cells");
  refused({"--text", text, "--picture", "head"}, "--picture");
  refused({"--text", text, "--json", "--svg", "-"}, "one at a time");
  refused({"--text", text, "--html", path("no/page.html")}, "no/page.html: No such file");
  refused({"--text", text, "--svg", path("no/page.svg")}, "no/page.svg: No such file");
  refused({"--text", text, "--html", folder_.string()}, "Is a directory");
  refused({"--text", text, "--svg", folder_.string()}, "Is a directory");
  refused({"--text-file", folder_.string()}, "Is a directory");
  refused({"--text", text, "--html", ""}, "--html needs a file's name");
  refused({"--text", text, "--threads", "0"}, "--threads");
  refused({"--text", text, "extra"}, "extra");
  std::ofstream(path("empty.txt")).flush();
  refused({"--text-file", path("empty.txt")}, "is empty");
  std::ofstream(path("text.gguf")) << "this is no model";
  expect_refused(run({"--model", path("text.gguf"), "--text", text}), "text.gguf: ");
  expect_refused(run({"--model", path("none.gguf"), "--text", text}), "none.gguf");
  std::ofstream(path("config.json")) << "{\"num_hidden_layers\": 3}";
  expect_refused(run({"--model", path("config.json"), "--text", text}), "config.json: this is no GGUF file");
  std::ofstream(path("nothing.gguf")).flush();
  expect_refused(run({"--model", path("nothing.gguf"), "--text", text}), "nothing.gguf: the file ends");
  expect_refused(run({"--model", folder_.string(), "--text", text}), "Is a directory");
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    EXPECT_NE(entry.path().filename(), "look.html") << "a mistake leaves nothing behind";
}

TEST_F(Program, RefusesFullDisks) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  refused({"--text", text, "--svg", "/dev/full"}, "/dev/full: No space left");
  refused({"--text", text, "--html", "/dev/full"}, "/dev/full: No space left");
}

#ifdef LOOK_BROWSER
/// Goes through the page as a person would and tells the page around it what was wrong.
const std::string person = R"(<script>
window.wrong = [];
window.addEventListener('error', (e) => wrong.push(e.message));
console.error = (...what) => wrong.push(what.join(' '));
window.addEventListener('load', () => {
  const at = (id) => document.getElementById(id);
  const check = (what, holds) => { if (!holds) wrong.push(what); };
  const press = (id, key) => at(id).dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
  const pixels = (id) => at(id).toDataURL();
  const last = JSON.parse(at('data').textContent).tokens.length - 1;
  check('wider than the window', document.scrollingElement.scrollWidth <= innerWidth);
  check('first place', at('readout').textContent.startsWith('Layer 0, head 0 (group 0)'));
  let before = pixels('heat');
  press('heat', 'j');
  check('j', at('layer').value === '1' && at('readout').textContent.startsWith('Layer 1, head 0'));
  press('heat', 'n');
  check('n', at('head').value === '1');
  check('the heat map changes', before !== pixels('heat'));
  press('heat', 'k'); press('heat', 'k'); press('heat', 'p');
  check('k and p end at 0', at('layer').value === '0' && at('head').value === '0');
  const place = at('readout').textContent;
  press('heat', 'ArrowRight');
  check('right', at('readout').textContent !== place);
  press('heat', 'ArrowLeft');
  check('left', at('readout').textContent === place);
  press('map', 'ArrowDown');
  check('down', at('layer').value === '1');
  const box = at('heat').getBoundingClientRect();
  at('heat').dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 4, clientY: box.top + box.width / 4 + 2}));
  // Random heads are too much alike for the digits shown.
  const layers = JSON.parse(at('data').textContent).layers;
  const rows = () => [...at('heads').tBodies[0].rows].map(
      ({cells}) => layers[+cells[0].textContent].heads[+cells[1].textContent].entropy);
  const sorted = (list, sign) => list.every((x, i) => i === 0 || sign * (list[i - 1] - x) > 0);
  check('down by entropy', sorted(rows(), 1));
  at('heads').querySelector('button[data-key=entropy]').click();
  check('up by entropy', sorted(rows(), -1) && at('heads').querySelector('[aria-sort=ascending]').cellIndex === 3);
  at('heads').tBodies[0].rows[2].click();
  check('row chosen', at('heads').tBodies[0].rows[2].className === 'chosen');
  before = pixels('map');
  at('measure').value = 'sinks';
  at('measure').dispatchEvent(new Event('change'));
  check('the measure changes', before !== pixels('map'));
  at('only').click();
  check('one layer', new Set([...at('heads').tBodies[0].rows].map((row) => row.cells[0].textContent)).size === 1);
  check('the text', at('strip').textContent.includes('<fox>'));
  check('masks drawn', [...document.querySelectorAll('#masks img')].length > 0);
  // Letters stand out from what is behind them, and the heat map from the page: 4.5 and 3 to 1, as WCAG asks.
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((x) => x / 255).map((x) => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
      .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3) return colour;
      if (colour[3] > 0) return null;  // one shines through
    }
    return null;
  };
  for (const node of document.querySelectorAll('body, h1, h2, h3, p, th, td, button, select, label, kbd')) {
    const ground = behind(node);
    if (ground && contrast(numbers(getComputedStyle(node).color), ground) < 4.5)
      wrong.push(`${node.tagName} ${node.id} is hard to read`);
  }
  const page = behind(document.body);
  check('a page of its theme', (light(page) < .2) === dark);
  const cells = at('heat').getContext('2d').getImageData(0, 0, at('heat').width, at('heat').height).data;
  let clearest = 0;
  for (let i = 0; i < cells.length; i += 4) {
    const share = cells[i + 3] / 255;
    clearest = Math.max(clearest, contrast([0, 1, 2].map((c) => cells[i + c] * share + page[c] * (1 - share)), page));
  }
  check('a heat map to be seen', clearest >= 3);
  check('nothing asked for', performance.getEntriesByType('resource').every((e) => e.name.startsWith('data:')));
  parent.postMessage(`${innerWidth} ${dark ? 'dark' : 'light'}: ` + (wrong.join('; ') || 'well'), '*');
});
</script>)";

TEST_F(Program, WorksInABrowserNarrowAndWideLightAndDark) {
  ASSERT_EQ(run_tiny({"--text", text, "--html", path("page.html")}).code, 0);
  std::string page = file("page.html");
  page.insert(page.find("<style>"), person);
  std::ofstream(path("page.html")) << page;
  std::ofstream(path("frames.html")) << "<!DOCTYPE html><body><script>addEventListener('message', (e) => {"
                                        "const p = document.createElement('p'); p.textContent = e.data;"
                                        "document.body.append(p); });</script>";
  {
    std::ofstream frames(path("frames.html"), std::ios::app);
    for (const char* scheme : {"light", "dark"})
      frames << "<iframe src='page.html' width=320 height=640 style='color-scheme: " << scheme
             << "'></iframe><iframe src='page.html' width=1920 height=1000 style='color-scheme: " << scheme
             << "'></iframe>";
  }
  const std::string command = std::string("timeout 100 ") + LOOK_BROWSER +
                              " --headless --no-sandbox --disable-gpu --user-data-dir=" + path("profile") +
                              " --virtual-time-budget=20000 --dump-dom file://" + path("frames.html") + " >" +
                              path("dom") + " 2>" + path("log");
  ASSERT_EQ(std::system(command.c_str()), 0) << generate::test::read(path("log"));
  const std::string dom = file("dom");
  for (const char* frame : {"320 light", "1920 light", "320 dark", "1920 dark"})
    EXPECT_NE(dom.find("<p>" + std::string(frame) + ": well</p>"), std::string::npos) << frame << dom;
}
#endif

}  // namespace
}  // namespace look
