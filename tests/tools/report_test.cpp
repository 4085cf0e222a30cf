// arbiter report: the page, opened in a headless browser where there is one (tools/check installs Chromium).
#include <gtest/gtest.h>
#include <llvm/Support/Base64.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "arbiter/db/contents.hpp"
#include "db/fixtures.hpp"
#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

bool has_browser() {
  static const bool found = run_program("chromium", {"--version"}).exit_code == 0;
  return found;
}

enum class Scheme : char { dark = '0', light = '1' };

/// What a page and the script behind it had to say.
struct Seen {
  llvm::json::Value result = nullptr;  ///< the value of the script's last expression
  std::vector<std::string> console;    ///< errors and warnings
};

class Report : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    make_example_database(database());
    const Outcome outcome = run_arbiter({"report", "--db", database(), "--output", scratch->file("report.html")});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    page = read_text(scratch->file("report.html"));
  }
  static void TearDownTestSuite() { scratch.reset(); }
  static std::string database() { return scratch->file("example.db"); }

  /// Opens `text`, evaluates `script` in it when it is drawn, and listens to the console.
  static Seen look(const std::string& text, const std::string& script, Scheme scheme = Scheme::light,
                   int width = 1400) {
    const std::string file = scratch->file("looked-at.html");
    const std::string probe = "<script>(function () { var seen = btoa(unescape(encodeURIComponent(JSON.stringify(" +
                              script + ")))); document.body.setAttribute('data-seen', seen); })();</script>";
    const std::size_t end = text.rfind("</body>");
    std::ofstream(file) << text.substr(0, end) << probe << text.substr(end);
    const Outcome outcome =
        run_program("timeout", {"60", "chromium", "--headless", "--no-sandbox", "--disable-gpu",
                                "--disable-dev-shm-usage", "--user-data-dir=" + scratch->file("browser"),
                                "--enable-logging=stderr", "--v=0", "--window-size=" + std::to_string(width) + ",1000",
                                std::string("--blink-settings=preferredColorScheme=") + static_cast<char>(scheme),
                                "--dump-dom", "file://" + file});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    Seen seen;
    std::istringstream lines(outcome.err);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("CONSOLE") != std::string::npos) seen.console.push_back(line);
    }
    const std::string mark = "data-seen=\"";
    const std::size_t at = outcome.out.find(mark);
    if (at == std::string::npos) {
      ADD_FAILURE() << "the script did not finish";
      return seen;
    }
    const std::size_t from = at + mark.size();
    std::vector<char> decoded;
    llvm::cantFail(llvm::decodeBase64(outcome.out.substr(from, outcome.out.find('"', from) - from), decoded));
    seen.result = llvm::cantFail(llvm::json::parse({decoded.data(), decoded.size()}));
    return seen;
  }

  static void expect_quiet(const Seen& seen) {
    for (const std::string& line : seen.console) ADD_FAILURE() << line;
  }

  static std::unique_ptr<ScratchDirectory> scratch;
  static std::string page;
};

std::unique_ptr<ScratchDirectory> Report::scratch;
std::string Report::page;

TEST_F(Report, IsOneFileThatNeedsNoNetwork) {
  // D3 names namespaces of XML, which nobody fetches; nothing else names an address, and the policy forbids fetching.
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  const std::string without_d3 = page.substr(0, page.find("!function(){var d3")) + page.substr(page.rfind("<script>"));
  for (const char* fetching : {" src=", "@import", "url(http", "fetch(", "XMLHttpRequest", "<link"}) {
    EXPECT_EQ(without_d3.find(fetching), std::string::npos) << fetching;
  }
}

TEST_F(Report, CarriesTheLicenceOfItsLibrary) {
  EXPECT_NE(page.find("Michael Bostock"), std::string::npos);
  EXPECT_NE(page.find("Redistributions in binary form must reproduce the above copyright"), std::string::npos);
}

TEST_F(Report, EqualDatabasesGiveEqualPages) {
  EXPECT_EQ(run_arbiter({"report", "--db", database(), "--output", "-"}).out, page);
}

TEST_F(Report, SaysWhatItWroteOrWhyNot) {
  const Outcome json = run_arbiter({"report", "--db", database(), "--output", scratch->file("again.html"), "--json"});
  const llvm::json::Value document = parse_object(json.out);
  expect_keys(&document, {"schema", "file", "bytes"});
  EXPECT_EQ(member(document, "bytes")->getAsInteger(), static_cast<std::int64_t>(page.size()));
  EXPECT_EQ(run_arbiter({"report", "--db", database(), "--output", "-", "--json"}).exit_code, 2);
  const Outcome nowhere = run_arbiter({"report", "--db", database(), "--output", scratch->file("none/report.html")});
  EXPECT_EQ(nowhere.exit_code, 1);
  EXPECT_NE(nowhere.err.find("none/report.html"), std::string::npos) << nowhere.err;
  const Outcome cpu =
      run_arbiter({"report", "--db", database(), "--output", scratch->file("cpu.html"), "--device", "cpu"});
  EXPECT_EQ(cpu.exit_code, 1);
  EXPECT_NE(cpu.err.find("for this device"), std::string::npos) << cpu.err;
  EXPECT_FALSE(std::filesystem::exists(scratch->file("cpu.html")));
  WorkDatabase::open(scratch->file("empty.db"));
  const Outcome empty = run_arbiter({"report", "--db", scratch->file("empty.db"), "--output", scratch->file("e.html")});
  EXPECT_EQ(empty.exit_code, 1);
  EXPECT_NE(empty.err.find("arbiter tune"), std::string::npos) << empty.err;
}

TEST_F(Report, DrawsCurvesMapsAndTables) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(page, R"((function () {
    function count(what) { return document.querySelectorAll(what).length; }
    function text(what) { return Array.prototype.map.call(document.querySelectorAll(what), function (e) { return e.textContent; }); }
    function press(element, key) { element.dispatchEvent(new KeyboardEvent('keydown', {key: key, bubbles: true})); }
    function choose(name, value) {
      var box = document.getElementById('choose-' + name);
      box.value = value;
      box.dispatchEvent(new Event('change'));
    }
    var tooltip = document.getElementById('tooltip'), out = {};
    out.drawn = document.documentElement.getAttribute('data-drawn');
    out.curves = count('#curves .curve'); out.bands = count('#curves .band'); out.won = count('#curves circle.won');
    out.figures = text('#curves figcaption');
    out.families = text('#curves .legend button');
    out.nan = document.body.innerHTML.indexOf('NaN') >= 0 && count('[d*=NaN],[x*=NaN],[cx*=NaN]') > 0;
    out.areas = count('#maps rect.area'); out.maps = count('#maps figure');
    out.decisions = count('#decisions tbody tr'); out.runs = text('#environment tbody tr');
    out.facts = text('#environment dd');

    var chart = document.querySelectorAll('#curves svg[role=img]')[1];
    chart.focus(); press(chart, 'ArrowRight'); press(chart, 'ArrowRight');
    out.keyboard = tooltip.textContent;
    press(chart, 'Escape'); out.escaped = tooltip.hidden;
    var box = chart.getBoundingClientRect();
    chart.dispatchEvent(new MouseEvent('mousemove', {clientX: box.right - 20, clientY: box.top + 50, bubbles: true}));
    out.hover = tooltip.textContent;
    chart.dispatchEvent(new MouseEvent('mouseleave')); out.left = tooltip.hidden;

    var area = document.querySelector('#maps rect.area');
    area.focus(); out.area = tooltip.textContent;
    press(area, 'ArrowRight');
    out.moved = document.activeElement !== area && document.activeElement.getAttribute('aria-label');

    document.querySelector('#curves .legend button').click();
    out.switched = count('#curves .curve');
    document.querySelector('#curves .legend button').click();
    choose('view', 'speedup'); out.speedup = count('#curves .curve'); out.unit = text('#curves svg text').indexOf('times') >= 0;
    choose('view', 'latency');
    choose('pattern', 'allreduce_residual_rmsnorm');
    out.fused = text('#curves .legend button'); out.dashed = count('#curves .curve.dashed');
    var filter = document.getElementById('filter');
    filter.value = '4096 nccl'; filter.dispatchEvent(new Event('input'));
    out.filtered = Array.prototype.filter.call(document.querySelectorAll('#decisions tbody tr'), function (row) {
      return row.style.display !== 'none'; }).length;
    out.wide = document.documentElement.scrollWidth <= window.innerWidth;
    return out;
  })())");
  expect_quiet(seen);
  const auto text = [&](const char* name) { return member(seen.result, name)->getAsString().value_or("").str(); };
  const auto number = [&](const char* name) { return member(seen.result, name)->getAsInteger().value_or(-1); };
  const auto is_true = [&](const char* name) { return member(seen.result, name)->getAsBoolean().value_or(false); };
  const auto list = [&](const char* name) {
    std::vector<std::string> texts;
    for (const llvm::json::Value& value : *member(seen.result, name)->getAsArray()) {
      texts.push_back(value.getAsString()->str());
    }
    return texts;
  };
  EXPECT_EQ(text("drawn"), "yes");
  EXPECT_EQ(list("figures"), (std::vector<std::string>{"2 ranks", "4 ranks"}));
  EXPECT_EQ(list("families"), (std::vector<std::string>{"mnnvl/twoshot_push", "nccl/classic", "trtllm/oneshot_push",
                                                        "trtllm/twoshot_barrier"}));
  EXPECT_EQ(number("curves"), 8);  // four families on two numbers of ranks
  EXPECT_EQ(number("bands"), 8);
  EXPECT_EQ(number("won"), 14);  // one winner at each of seven sizes
  EXPECT_FALSE(is_true("nan"));
  const Contents contents = read_contents(database());
  const std::vector<Decision>& decisions = contents.decisions.begin()->second;
  EXPECT_EQ(number("decisions"), static_cast<std::int64_t>(decisions.size()));
  EXPECT_EQ(number("areas"), std::count_if(decisions.begin(), decisions.end(),
                                           [](const Decision& d) { return d.pattern == "allreduce"; }));
  EXPECT_EQ(number("maps"), 2);
  ASSERT_EQ(list("runs").size(), 1U);
  EXPECT_NE(list("runs")[0].find("2025-10-09 08:53118 sexample-host"), std::string::npos) << list("runs")[0];
  EXPECT_EQ(list("facts")[0], "Example GPU (cuda)");

  EXPECT_TRUE(text("keyboard").starts_with("16 tokens, 256 KiB, 4 ranks")) << text("keyboard");
  EXPECT_NE(text("keyboard").find("nccl/classic"), std::string::npos);
  EXPECT_NE(text("keyboard").find("6 candidates timed, 3 not"), std::string::npos) << text("keyboard");
  EXPECT_TRUE(is_true("escaped"));
  EXPECT_TRUE(text("hover").starts_with("4096 tokens, 64 MiB, 4 ranks")) << text("hover");
  EXPECT_TRUE(is_true("left"));
  EXPECT_NE(text("area").find("trtllm/oneshot_push"), std::string::npos) << text("area");
  EXPECT_NE(text("moved").find("hidden 4096"), std::string::npos) << text("moved");
  EXPECT_EQ(number("switched"), 6);
  EXPECT_EQ(number("speedup"), 8);
  EXPECT_TRUE(is_true("unit"));
  EXPECT_EQ(list("fused").size(), 5U);
  EXPECT_EQ(number("dashed"), 4);
  EXPECT_GT(number("filtered"), 0);
  EXPECT_LT(number("filtered"), number("decisions"));
  EXPECT_TRUE(is_true("wide")) << "the page scrolls sideways";
}

/// Everything that is written in charts lies inside the card they are in; what every check below wants.
constexpr const char* inside = R"(
  function inside() {
    var out = [];
    document.querySelectorAll('figure svg text').forEach(function (text) {
      var box = text.getBoundingClientRect(), card = text.closest('section').getBoundingClientRect();
      if (box.width && (box.left < card.left || box.right > card.right)) out.push(text.textContent);
    });
    return out;
  }
  function texts(what) { return Array.prototype.map.call(document.querySelectorAll(what), function (e) { return e.textContent; }); }
)";

TEST_F(Report, OneNumberOfRanksHasTheWholeWidthAndShortAxesHaveTicks) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  ExampleShape shape;
  shape.worlds = {4};
  shape.hiddens = {8192};
  shape.patterns = {"allreduce"};
  shape.tokens = {5, 6};  // neither powers of two nor times with a 1, 2 or 5 between
  shape.samples = 5;
  make_example_database(scratch->file("short.db"), shape);
  const Outcome outcome = run_arbiter({"report", scratch->file("short.db"), "-o", "-"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Seen seen = look(outcome.out, std::string("(function () {") + inside + R"(
    var figure = document.querySelector('#curves figure').getBoundingClientRect(), card = document.querySelector('#curves').getBoundingClientRect();
    return {share: figure.width / card.width, x: texts('#curves .axis.x text').length, y: texts('#curves .axis.y text').length,
            outside: inside()};
  })())");
  expect_quiet(seen);
  EXPECT_GT(*member(seen.result, "share")->getAsNumber(), 0.9);
  EXPECT_GE(*member(seen.result, "x")->getAsInteger(), 2);
  EXPECT_GE(*member(seen.result, "y")->getAsInteger(), 2);
  EXPECT_TRUE(member(seen.result, "outside")->getAsArray()->empty());
}

TEST_F(Report, CellsSayHowItStandsAgainstNcclAndTablesScroll) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(page, std::string("(function () {") + inside + R"(
    var scroll = document.querySelector('#decisions .scroll'), table = scroll.querySelector('table');
    return {cells: texts('#maps .area-name').join(' '), outside: inside(), wide: document.documentElement.scrollWidth <= window.innerWidth,
            head: texts('#decisions th').join(' '), scrolls: table.scrollWidth > scroll.clientWidth,
            overflow: getComputedStyle(scroll).overflowX, subtitle: document.getElementById('subtitle').textContent};
  })())",
                         Scheme::light, 500);
  expect_quiet(seen);
  const std::string cells = member(seen.result, "cells")->getAsString()->str();
  EXPECT_TRUE(std::regex_search(cells, std::regex("[0-9]\\.[0-9]\xc3\x97"))) << cells;
  EXPECT_TRUE(member(seen.result, "outside")->getAsArray()->empty());
  EXPECT_EQ(member(seen.result, "wide")->getAsBoolean(), true) << "the page scrolls sideways, not the table";
  EXPECT_EQ(member(seen.result, "scrolls")->getAsBoolean(), true);
  EXPECT_EQ(member(seen.result, "overflow")->getAsString(), "auto");
  EXPECT_NE(member(seen.result, "head")->getAsString()->find("timed at"), llvm::StringRef::npos);
  EXPECT_NE(member(seen.result, "head")->getAsString()->find("vs NCCL"), llvm::StringRef::npos);
  EXPECT_NE(member(seen.result, "subtitle")->getAsString()->find("times as fast as NCCL"), llvm::StringRef::npos);
}

/// The number of an algorithm's colour does not depend on what else is in a report.
TEST_F(Report, AnAlgorithmHasTheSameColourInEveryReport) {
  ExampleShape shape;
  shape.tokens = {4096};  // one-shot alone would be the first of others
  shape.patterns = {"allreduce"};
  shape.samples = 5;
  make_example_database(scratch->file("colour.db"), shape);
  ASSERT_EQ(run_arbiter({"snapshot", scratch->file("colour.db"), scratch->file("colour-snapshot.db")}).exit_code, 0);
  const auto colours = [](const std::string& text) {
    const std::string start = "id=\"data\">";
    const std::size_t from = text.find(start) + start.size();
    const llvm::json::Value data = parse_object(text.substr(from, text.find("</script>", from) - from));
    std::map<std::string, std::int64_t> all;
    for (const llvm::json::Value& family : *member(data, "families")->getAsArray()) {
      all[member(family, "name")->getAsString()->str()] = *member(family, "colour")->getAsInteger();
    }
    return all;
  };
  const auto many = colours(page);
  const auto few = colours(run_arbiter({"report", scratch->file("colour-snapshot.db"), "-o", "-"}).out);
  ASSERT_LT(few.size(), many.size());
  ASSERT_FALSE(few.empty());
  for (const auto& [name, colour] : few) EXPECT_EQ(many.at(name), colour) << name;
  std::set<std::int64_t> different;
  for (const auto& [name, colour] : many) {
    if (!name.starts_with("nccl") && name.find('+') == std::string::npos) different.insert(colour % 10);
  }
  EXPECT_EQ(different.size(), 3U);
}

TEST_F(Report, TwoDatabasesLieSideBySide) {
  ExampleShape shape;
  shape.tokens = {1, 64, 4096};
  shape.gpu_name = "Another GPU";
  shape.samples = 5;
  make_example_database(scratch->file("other.db"), shape);
  const Outcome outcome = run_arbiter({"report", database(), scratch->file("other.db"), "-o", "-"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(outcome.out, std::string("(function () {") + inside + R"(
    var out = {figures: texts('#curves figcaption'), maps: texts('#maps figcaption').length, head: texts('#decisions th')[0],
               outside: inside()};
    var box = document.getElementById('choose-beside');
    box.value = '-1'; box.dispatchEvent(new Event('change'));
    out.alone = texts('#curves figcaption');
    return out;
  })())");
  expect_quiet(seen);
  const auto list = [&](const char* name) {
    std::vector<std::string> all;
    for (const llvm::json::Value& value : *member(seen.result, name)->getAsArray())
      all.push_back(value.getAsString()->str());
    return all;
  };
  EXPECT_EQ(list("figures"), (std::vector<std::string>{
                                 "2 ranks, example.db: Example GPU (cuda)", "2 ranks, other.db: Another GPU (cuda)",
                                 "4 ranks, example.db: Example GPU (cuda)", "4 ranks, other.db: Another GPU (cuda)"}));
  EXPECT_EQ(member(seen.result, "maps")->getAsInteger(), 4);
  EXPECT_EQ(member(seen.result, "head")->getAsString(), "from");
  EXPECT_TRUE(list("outside").empty());
  EXPECT_EQ(list("alone"), (std::vector<std::string>{"2 ranks", "4 ranks"}));
}

TEST_F(Report, ReadsWhatBenchPrinted) {
  const auto row = [](int tokens, double us, double nccl) {
    return R"({"mode": "graph", "world": 2, "dtype": "bf16", "pattern": "allreduce", "hidden": 8192, "tokens": )" +
           std::to_string(tokens) + R"(, "bytes": )" + std::to_string(tokens * 16384) +
           R"(, "results": {"auto": {"median_us": )" + std::to_string(us) + R"(, "ci_low_us": 1, "ci_high_us": 9,
           "chosen": "trtllm/oneshot_push:threads=256,vectors=1", "rule": "decision"},
           "nccl": {"median_us": )" +
           std::to_string(nccl) + R"(, "ci_low_us": 1, "ci_high_us": 20, "chosen": "nccl/classic"},
           "trtllm/oneshot_push": {"median_us": 2.5, "ci_low_us": 2, "ci_high_us": 3,
           "chosen": "trtllm/oneshot_push:threads=256,vectors=1"}, "mnnvl/twoshot_push": {"unavailable": "why"}}})";
  };
  const std::string file = scratch->file("bench.json");
  std::ofstream(file)
      << R"({"schema": 1, "environment": {"device": "cuda", "gpu_name": "Benched GPU", "multicast": false,
    "sm_count": 132, "nccl_variables": {"NCCL_NVLS_ENABLE": "0"}}, "rows": [)"
      << row(1, 2, 8) << "," << row(2, 2, 6) << "," << row(16, 4, 4) << "]}";
  const Outcome outcome = run_arbiter({"report", file, "-o", "-"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string start = "id=\"data\">";
  const std::size_t from = outcome.out.find(start) + start.size();
  const llvm::json::Value data = parse_object(outcome.out.substr(from, outcome.out.find("</script>", from) - from));
  EXPECT_EQ(member(data, "environments[0].title")->getAsString(), "Benched GPU (cuda)");
  const llvm::json::Array& decisions = *member(data, "environments[0].decisions")->getAsArray();
  ASSERT_EQ(decisions.size(), 3U);
  const int least[] = {1, 2, 16}, most[] = {1, 15, 16};
  const double nccl[] = {8, 6, 4};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(member(decisions[i], "tokens_min")->getAsInteger(), least[i]);
    EXPECT_EQ(member(decisions[i], "tokens_max")->getAsInteger(), most[i]);
    EXPECT_EQ(member(decisions[i], "nccl_us")->getAsNumber(), nccl[i]);
    EXPECT_EQ(member(decisions[i], "bytes_timed")->getAsInteger(), least[i] * 16384);
  }
  std::ofstream(scratch->file("no-bench.json")) << R"({"rows": []})";
  const Outcome wrong = run_arbiter({"report", scratch->file("no-bench.json"), "-o", "-"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_NE(wrong.err.find("no-bench.json': it has no environment or no rows"), std::string::npos) << wrong.err;
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(outcome.out,
                         "{curves: document.querySelectorAll('#curves .curve').length, "
                         "areas: document.querySelectorAll('#maps rect.area').length}");
  expect_quiet(seen);
  EXPECT_EQ(member(seen.result, "curves")->getAsInteger(), 2);
  EXPECT_EQ(member(seen.result, "areas")->getAsInteger(), 3);
}

/// Contrast of text and background as WCAG defines it.
constexpr const char* contrast = R"((function () {
  function light(colour) {
    var parts = colour.match(/[0-9.]+/g).slice(0, 3).map(function (c) {
      c = Number(c) / 255;
      return c <= 0.04045 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4);
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  }
  function between(a, b) { a = light(a); b = light(b); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }
  function style(what, key) { return getComputedStyle(document.querySelector(what))[key]; }
  var card = style('section', 'backgroundColor'), worst = 99;
  document.querySelectorAll('#curves .curve').forEach(function (curve) {
    worst = Math.min(worst, between(getComputedStyle(curve).stroke, card));
  });
  return {dark: light(style('body', 'backgroundColor')) < 0.1, text: between(style('body', 'color'), card),
          soft: between(style('.explain', 'color'), card), axis: between(style('#curves svg text', 'fill'), card), curve: worst};
})())";

TEST_F(Report, IsReadableInLightAndDark) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  for (const Scheme scheme : {Scheme::light, Scheme::dark}) {
    const Seen seen = look(page, contrast, scheme);
    expect_quiet(seen);
    EXPECT_EQ(member(seen.result, "dark")->getAsBoolean(), scheme == Scheme::dark);
    EXPECT_GE(*member(seen.result, "text")->getAsNumber(), 7);
    EXPECT_GE(*member(seen.result, "soft")->getAsNumber(), 4.5);
    EXPECT_GE(*member(seen.result, "axis")->getAsNumber(), 4.5);
    EXPECT_GE(*member(seen.result, "curve")->getAsNumber(), 3);
  }
}

TEST_F(Report, NothingInTheDatabaseIsTakenForMarkup) {
  const std::string attack = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked=1'>";
  ExampleShape shape;
  shape.tokens = {1, 64};
  shape.samples = 5;
  shape.gpu_name = attack;
  shape.dropped = true;
  shape.patterns = {"allreduce<b>", attack};
  const std::string file = scratch->file("attack.db");
  make_example_database(file, shape);
  const Outcome outcome = run_arbiter({"report", "--db", file, "--output", "-"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("<script>window.attacked"), std::string::npos);
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(outcome.out, R"({attacked: String(window.attacked), images: document.images.length,
    drawn: document.documentElement.getAttribute('data-drawn'), subtitle: document.getElementById('subtitle').textContent,
    bold: document.querySelectorAll('b').length, option: document.querySelector('#choose-pattern').textContent,
    run: document.querySelector('#environment tbody tr').textContent})");
  expect_quiet(seen);
  EXPECT_EQ(member(seen.result, "attacked")->getAsString(), "undefined");
  EXPECT_NE(member(seen.result, "run")->getAsString()->find("1980 → 1965, dropped120 → 80, dropped"),
            llvm::StringRef::npos)
      << member(seen.result, "run")->getAsString()->str();
  EXPECT_EQ(member(seen.result, "images")->getAsInteger(), 0);
  EXPECT_EQ(member(seen.result, "bold")->getAsInteger(), 0);
  EXPECT_EQ(member(seen.result, "drawn")->getAsString(), "yes");
  EXPECT_TRUE(member(seen.result, "subtitle")->getAsString()->starts_with(attack));
  EXPECT_NE(member(seen.result, "option")->getAsString()->find("allreduce<b>"), llvm::StringRef::npos);
}

TEST_F(Report, OfASnapshotDrawsWhatItHolds) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  ASSERT_EQ(run_arbiter({"snapshot", "--db", database(), scratch->file("snapshot.db")}).exit_code, 0);
  const Outcome outcome = run_arbiter({"report", "--db", scratch->file("snapshot.db"), "--output", "-"});
  const Seen seen = look(outcome.out, R"({curves: document.querySelectorAll('#curves .curve').length,
    explain: document.getElementById('curves-explain').textContent,
    bandwidth: [...document.querySelectorAll('option')].some((option) => option.value === 'bandwidth'), areas: document.querySelectorAll('#maps rect.area').length,
    runs: document.querySelector('#environment h3').textContent})");
  expect_quiet(seen);
  EXPECT_GT(*member(seen.result, "curves")->getAsInteger(), 0);
  EXPECT_GT(*member(seen.result, "areas")->getAsInteger(), 0);
  EXPECT_NE(member(seen.result, "explain")->getAsString()->find("snapshot"), llvm::StringRef::npos);
  EXPECT_EQ(member(seen.result, "bandwidth")->getAsBoolean(), true) << "it knows the sizes that were timed";
  EXPECT_TRUE(member(seen.result, "runs")->getAsString()->starts_with("No runs"));
}

/// The tests above would say so if the page complained.
TEST_F(Report, ErrorsOnTheConsoleAreHeard) {
  if (!has_browser()) GTEST_SKIP() << "no Chromium: apt-get install chromium";
  const Seen seen = look(page, "(console.error('heard'), 1)");
  ASSERT_EQ(seen.console.size(), 1U);
  EXPECT_NE(seen.console[0].find("heard"), std::string::npos);
}

}  // namespace
}  // namespace arbiter::testing
