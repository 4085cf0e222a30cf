#include "arbiter/generator/render.hpp"

#include "arbiter/error.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

std::string render_text(std::string_view text, const Context& context, TemplateMap templates = {}) {
  templates["t.mustache"] = text;
  return render("t", context, templates);
}

std::string render_text(std::string_view text, const Keys& keys = {}, TemplateMap templates = {}) {
  return render_text(text, Context{keys, {}, {}}, std::move(templates));
}

TEST(Render, TextPassesUnchanged) {
  const std::string_view text = "a < b && \"c\" > 'd';\n#define X(a) \\\n  a##a }}\n\ttab\r\nlast line without end";
  EXPECT_EQ(render_text(text), text);
  EXPECT_EQ(render_text(""), "");
}

TEST(Render, ValuesAreNeverEscapedNorInterpreted) {
  const std::string value = "<a & \"b\" 'c'> {{x}} {{/y}} \xC3\xA4";
  EXPECT_EQ(render_text("[{{x}}][{{ x }}]", Keys{{"x", value}}), "[" + value + "][" + value + "]");
}

TEST(Render, NumbersKeepAllDigits) {
  EXPECT_EQ(render_text("{{n}}", Keys{{"n", std::to_string(1048576)}}), "1048576");
  EXPECT_EQ(render_text("{{n}}", Keys{{"n", "18446744073709551615"}}), "18446744073709551615");
}

TEST(Render, SectionsFollowTheValue) {
  const std::string_view text = "{{#x}}yes{{/x}}{{^x}}no{{/x}}";
  EXPECT_EQ(render_text(text, Keys{{"x", ""}}), "no");
  EXPECT_EQ(render_text(text, Keys{{"x", "0"}}), "no");
  EXPECT_EQ(render_text(text, Keys{{"x", "1"}}), "yes");
  EXPECT_EQ(render_text(text, Keys{{"x", "00"}}), "yes");
  EXPECT_EQ(render_text(text, Keys{{"x", "false"}}), "yes");
  EXPECT_EQ(render_text("{{#x}}{{x}}{{#y}}{{x}}{{y}}{{/y}}{{/x}}", Keys{{"x", "7"}, {"y", "8"}}), "778");
}

TEST(Render, LinesWithOnlyASectionTagVanish) {
  EXPECT_EQ(render_text("a\n{{#x}}\nb\n{{/x}}\n{{^x}}\nc\n{{/x}}\nd\n", Keys{{"x", "1"}}), "a\nb\nd\n");
  EXPECT_EQ(render_text("a\n{{! gone }}\nb\n", Keys{}), "a\nb\n");
}

TEST(Render, ListsRepeat) {
  Context context;
  context.keys = {{"name", "k"}};
  context.lists["ranks"] = {{{"rank", "0"}}, {{"rank", "1"}}, {{"rank", "2"}}};
  EXPECT_EQ(render_text("{{#ranks}}{{name}}{{rank}};{{#rank}}+{{/rank}}{{/ranks}}", context), "k0;k1;+k2;+");
  EXPECT_EQ(render_text("{{^ranks}}none{{/ranks}}", context), "");
  context.lists["ranks"].clear();
  EXPECT_EQ(render_text("{{#ranks}}x{{/ranks}}{{^ranks}}none{{/ranks}}", context), "none");
}

TEST(Render, PartialsAreFilesByPath) {
  const TemplateMap templates{{"device/memory.cuh", "[{{x}}]\n"}, {"device/memory.h", "other"}, {"a.b.c", "dots\n"}};
  EXPECT_EQ(render_text("{{> device/memory.cuh}}\n{{>a.b.c}}\nend", Keys{{"x", "1"}}, templates), "[1]\ndots\nend");
}

TEST(Render, PartialsSeeTheListAroundThem) {
  Context context;
  context.lists["ranks"] = {{{"rank", "0"}}, {{"rank", "1"}}};
  const TemplateMap templates{{"p", "<{{rank}}>"}};
  EXPECT_EQ(render_text("{{#ranks}}{{> p}}{{/ranks}}", context, templates), "<0><1>");
  expect_error<CompileError>([&] { render_text("{{#ranks}}{{> p}}{{/ranks}}{{> p}}", context, templates); },
                             {"templates/p:1", "unknown key 'rank'"});
}

TEST(Render, PartialsInSectionsSeeAllKeys) {
  const TemplateMap templates{{"p", "<{{x}}{{#y}}{{> q}}{{/y}}>\n"}, {"q", "{{x}}"}};
  const Keys keys{{"x", "0"}, {"y", "1"}, {"off", ""}};
  EXPECT_EQ(render_text("{{#y}}\n{{> p}}\n{{/y}}\n{{^off}}{{> q}}{{/off}}{{#off}}{{> p}}{{/off}}", keys, templates),
            "<00>\n0");
  EXPECT_EQ(render_text("a {{> q}}\nb", keys, templates), "a 0\nb");
}

TEST(Render, AliasesChooseAPartial) {
  Context context;
  context.aliases = {{"epilogue", "epilogues/none.mustache"}};
  const TemplateMap templates{{"epilogues/none.mustache", "none\n"}};
  EXPECT_EQ(render_text("{{> @epilogue}}\n", context, templates), "none\n");
  expect_error<CompileError>([&] { render_text("\n{{> @epilog}}", context, templates); },
                             {"templates/t.mustache:2", "'epilog'", "did you mean 'epilogue'?"});
}

// The library's syntax tree refers to the text it parsed; with short texts a dangling reference may go unnoticed.
TEST(Render, LongTemplatesSurvive) {
  std::string expected, text, partial;
  for (int i = 0; i < 5000; ++i) {
    partial += "line " + std::to_string(i) + " of the partial {{x}}\n";
    expected += "line " + std::to_string(i) + " of the partial 1\n";
  }
  for (int i = 0; i < 5000; ++i) {
    text += "line " + std::to_string(i) + " of the text {{x}}\n";
    expected += "line " + std::to_string(i) + " of the text 1\n";
  }
  EXPECT_EQ(render_text("{{> p}}\n" + text, Keys{{"x", "1"}}, {{"p", partial}}), expected);
}

TEST(Render, UnknownKeysAreErrorsEverywhere) {
  const Keys keys{{"world", "4"}, {"off", ""}};
  expect_error<CompileError>([&] { render_text("a\nb {{wrold}}", keys); },
                             {"templates/t.mustache:2", "unknown key 'wrold'", "off, world", "did you mean 'world'?"});
  EXPECT_THROW(render_text("{{#wrold}}{{/wrold}}", keys), CompileError);
  EXPECT_THROW(render_text("{{^wrold}}{{/wrold}}", keys), CompileError);
  expect_error<CompileError>([&] { render_text("{{#off}}{{wrold}}{{/off}}", keys); }, {"unknown key 'wrold'"});
}

TEST(Render, SectionsMustBalance) {
  const Keys keys{{"a", "1"}, {"b", "1"}};
  expect_error<CompileError>([&] { render_text("x\n{{/a}}\nrest", keys); },
                             {"t.mustache:2", "{{/a}}", "was not opened"});
  expect_error<CompileError>([&] { render_text("{{#a}}\n\nx", keys); }, {"t.mustache:1", "'a' is not closed"});
  expect_error<CompileError>([&] { render_text("{{#a}}\n{{#b}}\n{{/a}}{{/b}}", keys); },
                             {"t.mustache:3", "{{/a}} closes the section 'b' opened in line 2"});
  // A section cannot be closed by a partial.
  expect_error<CompileError>([&] { render_text("{{#a}}{{> p}}", keys, {{"p", "{{/a}}"}}); }, {"not closed"});
  expect_error<CompileError>([&] { render_text("{{> p}}", keys, {{"p", "\n{{/a}}"}}); }, {"templates/p:2"});
}

TEST(Render, TagsMustBeClosedAndKnown) {
  const Keys keys{{"a", "1"}};
  expect_error<CompileError>([&] { render_text("x\n{{a", keys); }, {"t.mustache:2", "'{{a' is not closed"});
  EXPECT_THROW(render_text("{{", keys), CompileError);
  EXPECT_THROW(render_text("{{}}", keys), CompileError);
  EXPECT_THROW(render_text("{{!", keys), CompileError);
  expect_error<CompileError>([&] { render_text("{{{a}}}", keys); }, {"'{{{' is not allowed"});
  expect_error<CompileError>([&] { render_text("{{&a}}", keys); }, {"write {{key}}"});
  expect_error<CompileError>([&] { render_text("{{=<% %>=}}", keys); }, {"delimiters"});
  expect_error<CompileError>([&] { render_text("int x[2][2] = {{1, 2}, {3, 4}};", keys); }, {"braces of C++"});
  expect_error<CompileError>([&] { render_text("{{a.b}}", keys); }, {"'{{a.b}}' is not a tag"});
  for (const char* text : {"{{.}}", "{{#.}}{{/.}}", "{{a b}}", "{{# a b}}", "{{>}}", "{{> }}", "{{> a b}}", "{{A}}",
                           "{{$a}}", "{{<a}}{{/a}}", "{{>*a}}", "{{@a}}", "{{\n a}}"})
    EXPECT_THROW(render_text(text, keys, {{"a b", ""}}), CompileError) << text;
  EXPECT_EQ(render_text("{{ a }}{ {{a}} }{{a}}}", keys), "1{ 1 }1}");
}

TEST(Render, PartialsMustExistAndEnd) {
  expect_error<CompileError>(
      [] {
        render_text("{{> device/memry.cuh}}", Keys{}, {{"device/memory.cuh", ""}});
      },
      {"t.mustache:1", "unknown partial 'device/memry.cuh'", "did you mean 'device/memory.cuh'?"});
  expect_error<CompileError>([] { render_text("{{> t.mustache}}"); }, {"includes itself"});
  expect_error<CompileError>(
      [] {
        render_text("{{> a}}", Keys{}, {{"a", "\n{{> b}}"}, {"b", "{{> a}}"}});
      },
      {"templates/b:1", "includes itself: t.mustache -> a -> b -> a"});
  Context context;
  context.aliases = {{"self", "t.mustache"}};
  EXPECT_THROW(render_text("{{> @self}}", context), CompileError);
  // Even where it would not be taken: rendering does not decide what is checked.
  EXPECT_THROW(render_text("{{#x}}{{> t.mustache}}{{/x}}", Keys{{"x", ""}}), CompileError);
}

TEST(Render, PartialsThatMultiplyAreRefused) {
  std::map<std::string, std::string> texts;
  for (int i = 0; i < 40; ++i) {
    const std::string next = "{{> p" + std::to_string(i + 1) + "}}";
    texts["p" + std::to_string(i)] = next + next + "x";
  }
  texts["p40"] = "x";
  const TemplateMap templates(texts.begin(), texts.end());
  expect_error<CompileError>([&] { render_text("{{> p0}}", Keys{}, templates); }, {"64 MiB"});

  texts.clear();
  for (int i = 0; i < 200; ++i) texts["p" + std::to_string(i)] = "{{> p" + std::to_string(i + 1) + "}}";
  texts["p200"] = "x";
  expect_error<CompileError>([&] { render_text("{{> p0}}", Keys{}, TemplateMap(texts.begin(), texts.end())); },
                             {"nested deeper"});
}

TEST(Render, BadContextsAreRefused) {
  EXPECT_THROW(render_text("", Keys{{"a.b", "1"}}), CompileError);
  EXPECT_THROW(render_text("", Keys{{"", "1"}}), CompileError);
  expect_error<CompileError>([] { render_text("{{a}}", Keys{{"a", "\xff"}}); }, {"'a'", "UTF-8"});
  Context context;
  context.lists["l"] = {{{"a", "1"}}, {{"b", "1"}}};
  expect_error<CompileError>([&] { render_text("", context); }, {"'l'", "same keys"});
  context.lists["l"] = {{{"a", "1"}}};
  expect_error<CompileError>([&] { render_text("{{l}}", context); }, {"'l' is a list"});
  context.keys["l"] = "1";
  EXPECT_THROW(render_text("", context), CompileError);
}

TEST(Render, UnknownTemplate) {
  expect_error<CompileError>(
      [] {
        render("kernl", Keys{}, {{"kernel.mustache", ""}});
      },
      {"unknown template 'kernl.mustache'", "did you mean 'kernel.mustache'?"});
}

}  // namespace
}  // namespace arbiter
