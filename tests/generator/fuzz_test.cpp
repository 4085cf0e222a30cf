// Random damage to catalogues, templates, expressions and logs: errors, never crashes, never another exception.
// Deterministic: a failing iteration fails again.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/generator/variant.hpp"
#include "compile/compile_log.hpp"
#include "compile/ptxas_log.hpp"
#include "sample_catalogue.hpp"

namespace arbiter {
namespace {

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  std::size_t below(std::size_t bound) { return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random_); }

  // One to eight edits; `words` are pieces that matter to the reader of the text.
  std::string mutate(std::string text, const std::vector<std::string>& words) {
    for (std::size_t edits = 1 + below(8); edits > 0; --edits) {
      const std::size_t at = below(text.size() + 1);
      const std::size_t length = std::min(below(24), text.size() - at);
      switch (below(7)) {
        case 0:
          text.erase(at, length);
          break;
        case 1:
          text.insert(at, words[below(words.size())]);
          break;
        case 2:
          text.replace(at, length, words[below(words.size())]);
          break;
        case 3:
          if (at < text.size()) text[at] = static_cast<char>(below(256));
          break;
        case 4:
          text.insert(at, text.substr(below(text.size() + 1), below(64)));
          break;
        case 5:
          text.insert(at, 1, static_cast<char>(below(256)));
          break;
        default:
          text.resize(at);
          break;
      }
    }
    return text;
  }

 private:
  std::mt19937 random_;
};

const std::vector<std::string> json_words{"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "null",
                                          "true",
                                          "-1",
                                          "1e999",
                                          "0.5",
                                          "\\u0000",
                                          "\"schema\"",
                                          "\"world\"",
                                          "\"threads\"",
                                          "(",
                                          ")",
                                          "/",
                                          "%",
                                          "||",
                                          "99999999999",
                                          "\xff",
                                          "\n",
                                          "\"launch\": true",
                                          "\"exchange\": false",
                                          "\"axes\": []"};
const std::vector<std::string> template_words{"{{",
                                              "}}",
                                              "{{{",
                                              "{{#",
                                              "{{/",
                                              "{{^",
                                              "{{>",
                                              "{{!",
                                              "{{=",
                                              "{{&",
                                              "{{#rows}}",
                                              "{{/rows}}",
                                              "{{#ranks}}",
                                              "{{/ranks}}",
                                              "{{rank}}",
                                              "{{dtype}}",
                                              "\n",
                                              "\r\n",
                                              "{{> kernel.mustache}}",
                                              "{{> @epilogue}}",
                                              "{{> @algorithm}}",
                                              " ",
                                              "\xff"};

TEST(Fuzz, DamagedCataloguesAreErrors) {
  std::size_t accepted = 0;
  for (unsigned seed = 0; seed < 6000; ++seed) {
    Mutator mutator(seed);
    const std::string json = mutator.mutate(std::string(test::sample_json), json_words);
    try {
      const Catalogue catalogue = Catalogue::parse(json, test::sample_templates());
      ++accepted;
      // What is accepted can be used.
      for (const std::string& pattern : catalogue.usual_patterns()) {
        try {
          const Enumeration all = enumerate(catalogue, pattern, Dtype::bf16, 2, 4096, {90, 1024, {}});
          for (const Variant& variant : all.variants)
            (void)render_kernel(catalogue, variant, 0, Dialect::host, test::sample_templates());
        } catch (const CompileError&) {
        }
      }
    } catch (const CompileError& error) {
      EXPECT_STRNE(error.what(), "");
    } catch (const std::exception& error) {
      FAIL() << "seed " << seed << ": " << error.what() << "\n" << json;
    }
  }
  EXPECT_GT(accepted, 0u);  // otherwise nothing behind the parser was reached
}

TEST(Fuzz, DamagedTemplatesAreErrors) {
  const Catalogue catalogue = Catalogue::parse(test::sample_json, test::sample_templates());
  const Variant variant = enumerate(catalogue, "allreduce_norm", Dtype::bf16, 2, 2048, {90, 1024, {}}).variants.front();
  std::size_t rendered = 0;
  for (unsigned seed = 0; seed < 6000; ++seed) {
    Mutator mutator(seed);
    std::map<std::string, std::string> texts;
    for (const auto& [path, text] : test::sample_templates()) {
      std::string changed(text);
      texts[path] = mutator.below(3) == 0 ? mutator.mutate(std::move(changed), template_words) : changed;
    }
    const TemplateMap templates(texts.begin(), texts.end());
    try {
      (void)render_kernel(catalogue, variant, 1, seed % 2 == 0 ? Dialect::host : Dialect::cuda, templates);
      ++rendered;
    } catch (const CompileError& error) {
      EXPECT_STRNE(error.what(), "");
    } catch (const std::exception& error) {
      FAIL() << "seed " << seed << ": " << error.what();
    }
  }
  EXPECT_GT(rendered, 100u);
  EXPECT_LT(rendered, 5000u);
}

TEST(Fuzz, DamagedExpressionsAreErrors) {
  const Bindings names{{"a", 3}, {"b", 0}, {"world", -9223372036854775807L - 1}};
  const std::vector<std::string> words{"(", ")", "||",    "&&", "!", "-", "/", "%",
                                       "a", "b", "world", "<=", "9", " ", "*", "=="};
  std::size_t evaluated = 0;
  for (unsigned seed = 0; seed < 20000; ++seed) {
    Mutator mutator(seed);
    const std::string text = mutator.mutate("a * (b + 2) >= world || !a && a % 2 == 1", words);
    try {
      (void)evaluate(text, names);
      ++evaluated;
    } catch (const CompileError&) {
    }
  }
  EXPECT_GT(evaluated, 100u);
}

TEST(Fuzz, LogsOfAnyShapeAreRead) {
  const std::string log =
      "k.cu(3): error: x\nk.cu:2:1: error\nptxas info : Compiling entry function 'k' for 'sm_90a'\n"
      "ptxas info : Used 30 registers, 16 bytes smem\n8 bytes spill stores, 4 bytes spill loads";
  for (unsigned seed = 0; seed < 5000; ++seed) {
    Mutator mutator(seed);
    const std::string text =
        mutator.mutate(log, {"k.cu(", "k.cu:", "99999999999999999999", "-1", " registers", "entry function 'k'"});
    (void)explain_log(text, "k.cu", "one\ntwo\nthree");
    (void)parse_ptxas_log(text, "k");
  }
}

}  // namespace
}  // namespace arbiter
