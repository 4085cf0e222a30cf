// arbiter report: the page, opened in a headless browser where there is one (tools/check installs Chromium).
#include <gtest/gtest.h>
#include <llvm/Support/Base64.h>

#include <fstream>

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
  static Seen look(const std::string& text, const std::string& script, Scheme scheme = Scheme::light) {
    const std::string file = scratch->file("looked-at.html");
    const std::string probe = "<script>(function () { var seen = btoa(unescape(encodeURIComponent(JSON.stringify(" +
                              script + ")))); document.body.setAttribute('data-seen', seen); })();</script>";
    const std::size_t end = text.rfind("</body>");
    std::ofstream(file) << text.substr(0, end) << probe << text.substr(end);
    const Outcome outcome =
        run_program("timeout", {"60", "chromium", "--headless", "--no-sandbox", "--disable-gpu",
                                "--disable-dev-shm-usage", "--user-data-dir=" + scratch->file("browser"),
                                "--enable-logging=stderr", "--v=0", "--window-size=1400,1000",
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
    explain: document.getElementById('curves-explain').textContent, areas: document.querySelectorAll('#maps rect.area').length,
    runs: document.querySelector('#environment h3').textContent})");
  expect_quiet(seen);
  EXPECT_GT(*member(seen.result, "curves")->getAsInteger(), 0);
  EXPECT_GT(*member(seen.result, "areas")->getAsInteger(), 0);
  EXPECT_NE(member(seen.result, "explain")->getAsString()->find("snapshot"), llvm::StringRef::npos);
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
