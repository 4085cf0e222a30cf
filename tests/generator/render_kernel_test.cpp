#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/generator/variant.hpp"
#include "expect_error.hpp"
#include "sample_catalogue.hpp"

namespace arbiter {
namespace {

using test::expect_error;
using test::sample_templates;

const TargetLimits hopper{90, 1024, {}};

class RenderKernel : public ::testing::Test {
 protected:
  const Catalogue catalogue = Catalogue::parse(test::sample_json, sample_templates());
  const Variant rows = enumerate(catalogue, "allreduce_norm", Dtype::bf16, 2, 2048, hopper).variants.front();
  const Variant flat = enumerate(catalogue, "allreduce", Dtype::fp32, 4, 2048, hopper).variants.front();
};

TEST_F(RenderKernel, CudaHasOneRank) {
  const Source source = render_kernel(catalogue, rows, 1, Dialect::cuda, sample_templates());
  EXPECT_EQ(source.text,
            "// trtllm/push:cluster=2,threads=128 allreduce_norm bf16 world=2 hidden=2048\n"
            "device bf16\n"
            "plain\n"
            "no residual\nnorm 1\nno quantisation\nhidden=2048 row_vectors=256 rows=1\n"
            "push threads=128 cluster=2 world=2\n"
            "kernel rank=1\n");
  EXPECT_EQ(source.entry, "arbiter_kernel");
  EXPECT_EQ(source.hash, sha256_hex(source.text));
}

TEST_F(RenderKernel, HostHasAllRanks) {
  const Source source = render_kernel(catalogue, flat, 3, Dialect::host, sample_templates());
  EXPECT_EQ(source.text,
            "// trtllm/push:cluster=1,threads=128 allreduce fp32 world=4\n"
            "host fp32\n"
            "plain\n"
            "sum 0\n"  // a constant that only a stage sets
            "push threads=128 cluster=1 world=4\n"
            "kernel rank=0 host\nkernel rank=1 host\nkernel rank=2 host\nkernel rank=3 host\n");
  EXPECT_EQ(source.entry, "arbiter_kernel_rank");
}

TEST_F(RenderKernel, FlatPatternsHaveNoHiddenSize) {
  TemplateMap templates = sample_templates();
  templates["kernel.mustache"] =
      "[{{hidden}}|{{row_vectors}}|{{rows}}|{{#rows}}rows{{/rows}}|{{#cuda}}cuda{{/cuda}}{{#host}}host{{/"
      "host}}|{{dtype_fp32}}{{dtype_bf16}}]";
  EXPECT_EQ(render_kernel(catalogue, flat, 0, Dialect::cuda, templates).text, "[0|0|0||cuda|1]");
  EXPECT_EQ(render_kernel(catalogue, rows, 0, Dialect::host, templates).text, "[2048|256|1|rows|host|1]");
}

TEST_F(RenderKernel, LaunchAxesAreNotCompiledIn) {
  TemplateMap templates = sample_templates();
  templates["kernel.mustache"] = "{{blocks}}";
  expect_error<CompileError>([&] { render_kernel(catalogue, flat, 0, Dialect::cuda, templates); },
                             {"unknown key 'blocks'"});
}

TEST_F(RenderKernel, RankOutsideOfRanksIsAnErrorOnTheHost) {
  TemplateMap templates = sample_templates();
  templates["kernel.mustache"] = "{{rank}}";
  EXPECT_EQ(render_kernel(catalogue, flat, 2, Dialect::cuda, templates).text, "2");
  expect_error<CompileError>([&] { render_kernel(catalogue, flat, 2, Dialect::host, templates); },
                             {"unknown key 'rank'"});
}

TEST_F(RenderKernel, RefusesBadRequests) {
  const auto render_changed = [&](auto change, int rank) {
    Variant variant = rows;
    change(variant);
    render_kernel(catalogue, variant, rank, Dialect::cuda, sample_templates());
  };
  const auto same = [](Variant&) {};
  for (const int rank : {-1, 2})
    expect_error<InvalidArgument>([&] { render_changed(same, rank); }, {"rank " + std::to_string(rank), "0 to 1"});
  EXPECT_THROW(render_changed([](Variant& v) { v.algorithm = "pull"; }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.pattern = "pull"; }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.parameters.clear(); }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.hidden = 2047; }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.hidden = 0; }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.world = 17; }, 0), InvalidArgument);
  EXPECT_THROW(render_changed([](Variant& v) { v.world = 0; }, 0), InvalidArgument);
}

TEST_F(RenderKernel, MissingTemplatesAreNamed) {
  TemplateMap templates = sample_templates();
  templates.erase("stages/norm.mustache");
  expect_error<CompileError>([&] { render_kernel(catalogue, rows, 0, Dialect::cuda, templates); },
                             {"templates/epilogues/composed.cuh:1", "'stages/norm.mustache'"});
}

TEST(BuiltinKernels, AllRenderAndDiffer) {
  const Catalogue& catalogue = Catalogue::builtin();
  std::set<std::string> hashes;
  std::size_t count = 0;
  const std::clock_t begin = std::clock();  // of this process: what else the machine does is not counted
  for (const std::string& pattern : catalogue.usual_patterns()) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
      if (impossible(catalogue.pattern(pattern), dtype, 4096)) continue;
      std::vector<Variant> variants = enumerate(catalogue, pattern, dtype, 3, 4096, hopper).variants;
      for (Variant& variant : enumerate_standalone(catalogue, pattern, dtype, 4096, hopper).variants)
        variants.push_back(std::move(variant));
      for (const Variant& variant : variants) {
        for (const Dialect dialect : {Dialect::cuda, Dialect::host}) {
          // The host source holds all ranks; a kernel of the first and of the last rank must differ.
          for (const int rank : std::set<int>{0, dialect == Dialect::cuda ? variant.world - 1 : 0}) {
            const Source source = render_kernel(catalogue, variant, rank, dialect);
            EXPECT_EQ(source.text.find("{{"), std::string::npos) << variant.full_name();
            EXPECT_EQ(source.text.find("#include"), std::string::npos) << variant.full_name();
            EXPECT_NE(source.text.find(variant.full_name()), std::string::npos);
            hashes.insert(source.hash);
            ++count;
          }
        }
      }
    }
  }
  EXPECT_EQ(hashes.size(), count);
  const double milliseconds = 1000.0 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  RecordProperty("milliseconds_per_kernel", std::to_string(milliseconds / static_cast<double>(count)));
  EXPECT_LT(milliseconds / static_cast<double>(count), 20) << "rendering should take less than 1 ms";
}

// A file has tags if and only if it is a .mustache; everything else is plain code, for editors too.
TEST(BuiltinTemplates, SuffixSaysWhetherAFileHasTags) {
  for (const auto& [path, text] : builtin_templates())
    EXPECT_EQ(text.find("{{") != std::string_view::npos, std::string_view(path).ends_with(".mustache")) << path;
}

TEST(BuiltinTemplates, AlgorithmsBeginWithHowTheyWork) {
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    std::istringstream text{std::string(builtin_templates().at(entry.template_name))};
    int comment = 0;
    for (std::string line; std::getline(text, line) && line.starts_with("//");) ++comment;
    EXPECT_GE(comment, 5) << entry.template_name;
    EXPECT_LE(comment, 12) << entry.template_name;
  }
}

TEST(BuiltinKernels, EveryAxisIsAConstant) {
  const Catalogue& catalogue = Catalogue::builtin();
  for (const Variant& variant : enumerate(catalogue, "allreduce", Dtype::bf16, 4, 4096, hopper).variants) {
    const std::string text = render_kernel(catalogue, variant, 0, Dialect::cuda).text;
    const std::string config = text.substr(text.find("namespace config {"), text.find("}  // namespace config"));
    for (const auto& [axis, value] : variant.parameters)
      EXPECT_NE(config.find("constexpr unsigned " + axis + " = " + std::to_string(value) + ";"), std::string::npos)
          << variant.full_name() << " " << axis;
  }
}

// Golden files: a change of templates or renderer shows as a difference that can be reviewed. The first of each dialect
// is a whole source. A later one has only what no earlier one has, so a change of what all share is reviewed once or
// twice and not in every file: "// ..." stands where it left something out.
struct Golden {
  const char* file;  // begins with the algorithm, ends with the dialect
  Backend backend;
  const char* pattern;
  Dtype dtype;
  int world;
  int hidden;

  Dialect dialect() const { return std::string_view(file).ends_with(".cu") ? Dialect::cuda : Dialect::host; }
};

const Golden goldens[] = {
    {"oneshot_push-allreduce-bf16-4.cu", Backend::trtllm, "allreduce", Dtype::bf16, 4, 0},
    {"twoshot_barrier-allreduce-fp32-2.cpp", Backend::trtllm, "allreduce", Dtype::fp32, 2, 0},
    {"oneshot_push-cluster-fp16-2.cu", Backend::mnnvl, "allreduce_residual_rmsnorm", Dtype::fp16, 2, 8192},
    {"twoshot_rows-residual_rmsnorm-bf16-4.cu", Backend::mnnvl, "allreduce_residual_rmsnorm", Dtype::bf16, 4, 8192},
    {"twoshot_pull-allreduce-bf16-2.cu", Backend::custom, "allreduce", Dtype::bf16, 2, 0},
    {"twoshot_push-residual_rmsnorm-bf16-3.cu", Backend::mnnvl, "allreduce_residual_rmsnorm", Dtype::bf16, 3, 2880},
    {"standalone-residual_rmsnorm-bf16.cu", Backend::custom, "allreduce_residual_rmsnorm", Dtype::bf16, 1, 4096},
    {"standalone-moe_nvfp4-fp16.cpp", Backend::custom, "moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4", Dtype::fp16,
     1, 4096},
};

std::filesystem::path golden_path(const char* file) { return std::filesystem::path(ARBITER_GOLDEN_FOLDER) / file; }

std::string rendered(const Golden& golden) {
  const Catalogue& catalogue = Catalogue::builtin();
  const Enumeration all =
      golden.world == 1
          ? enumerate_standalone(catalogue, golden.pattern, golden.dtype, golden.hidden, hopper)
          : enumerate(catalogue, golden.pattern, golden.dtype, golden.world, golden.hidden, hopper, golden.backend);
  const std::string algorithm(golden.file, std::string_view(golden.file).find('-'));
  const auto variant = std::find_if(all.variants.begin(), all.variants.end(),
                                    [&](const Variant& v) { return v.algorithm == algorithm; });
  if (variant == all.variants.end()) throw InvalidArgument("no variant of " + algorithm);
  return render_kernel(catalogue, *variant, golden.world - 1, golden.dialect()).text;
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> found;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(separator, at), text.size());
    found.push_back(text.substr(at, end - at));
    at = end + separator.size();
  }
  return found;
}

constexpr const char* left_out = "// ...";

// The paragraphs that no earlier text has. One that is mostly an earlier one, as the constants of `config` are, keeps
// its first line and those that the earlier one has not.
class NewParts {
 public:
  std::string of(const std::string& text) {
    std::vector<std::string> kept;
    const std::vector<std::string> paragraphs = split(text, "\n\n");
    for (const std::string& paragraph : paragraphs) {
      const std::string part = known_.contains(paragraph) ? left_out : new_lines(paragraph);
      if (part != left_out || kept.empty() || kept.back() != left_out) kept.push_back(part);
    }
    for (const std::string& paragraph : paragraphs) {
      known_.insert(paragraph);
      const std::vector<std::string> lines = split(paragraph, "\n");
      if (!lines.empty()) lines_[lines.front()].insert(lines.begin(), lines.end());
    }
    std::string result;
    for (const std::string& part : kept) result += (result.empty() ? "" : "\n\n") + part;
    return result + "\n";
  }

 private:
  std::string new_lines(const std::string& paragraph) const {
    const std::vector<std::string> lines = split(paragraph, "\n");
    const auto earlier = lines.empty() ? lines_.end() : lines_.find(lines.front());
    if (earlier == lines_.end()) return paragraph;
    const auto known = [&](const std::string& line) { return earlier->second.contains(line); };
    if (static_cast<std::size_t>(std::count_if(lines.begin(), lines.end(), known)) * 2 <= lines.size())
      return paragraph;
    std::string result = lines.front();
    for (std::size_t i = 1; i < lines.size(); ++i) {
      if (!known(lines[i])) {
        result += "\n" + lines[i];
      } else if (i == 1 || !known(lines[i - 1])) {
        result += std::string("\n") + left_out;
      }
    }
    return result;
  }

  std::set<std::string> known_;
  std::map<std::string, std::set<std::string>> lines_;  // of earlier paragraphs, by the first line
};

TEST(NewParts, AreWhatNoEarlierTextHas) {
  NewParts parts;
  EXPECT_EQ(parts.of("one\n\nf {\n1\n2\n}\n\ntwo\n"), "one\n\nf {\n1\n2\n}\n\ntwo\n\n");
  EXPECT_EQ(parts.of("one\n\nf {\n1\n3\n}\n\nthree\n\none\n\nf {\n1\n2\n}\n\nfour"),
            "// ...\n\nf {\n// ...\n3\n// ...\n\nthree\n\n// ...\n\nfour\n");
  EXPECT_EQ(parts.of("four\n\nf {\n3\n}"), "// ...\n\nf {\n// ...\n") << "as lines, nothing of the second is new";
  EXPECT_EQ(parts.of("f {\n7\n8\n9\n}"), "f {\n7\n8\n9\n}\n") << "it only begins alike";
}

// Every golden text, in order.
std::vector<std::string> golden_texts() {
  std::map<Dialect, bool> whole;
  NewParts parts;
  std::vector<std::string> texts;
  for (const Golden& golden : goldens) {
    const std::string text = rendered(golden);
    const std::string part = parts.of(text);
    texts.push_back(std::exchange(whole[golden.dialect()], true) ? part : text);
  }
  return texts;
}

class GoldenKernels : public ::testing::TestWithParam<std::size_t> {};

TEST_P(GoldenKernels, RenderAsRecorded) {
  static const std::vector<std::string> texts = golden_texts();
  const std::string& text = texts.at(GetParam());
  const Golden& golden = goldens[GetParam()];
  const std::filesystem::path path = golden_path(golden.file);
  if (const char* update = std::getenv("ARBITER_UPDATE_GOLDEN"); update != nullptr && std::string(update) == "1") {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    GTEST_SKIP() << "written, not compared: " << path;
  }
  std::ifstream stream(path, std::ios::binary);
  ASSERT_TRUE(stream) << path << " is missing; run this test with ARBITER_UPDATE_GOLDEN=1 and review what it writes";
  const std::string recorded(std::istreambuf_iterator<char>(stream), {});
  EXPECT_NE(text.find("// " + std::string(to_string(golden.backend))), std::string::npos) << "it names its variant";
  if (recorded == text) return;
  const auto difference = std::mismatch(recorded.begin(), recorded.end(), text.begin(), text.end());
  const auto line = 1 + std::count(recorded.begin(), difference.first, '\n');
  FAIL() << path << " differs from line " << line
         << " on; if that is meant, run this test with ARBITER_UPDATE_GOLDEN=1 "
         << "and review the change";
}

TEST(GoldenFiles, AreThoseAndNoOthers) {
  std::set<std::string> expected, found;
  for (const Golden& golden : goldens) expected.insert(golden.file);
  for (const auto& entry : std::filesystem::directory_iterator(ARBITER_GOLDEN_FOLDER))
    found.insert(entry.path().filename());
  EXPECT_EQ(found, expected);
}

INSTANTIATE_TEST_SUITE_P(, GoldenKernels, ::testing::Range(std::size_t{0}, std::size(goldens)),
                         [](const ::testing::TestParamInfo<std::size_t>& param) {
                           std::string name = goldens[param.param].file;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace arbiter
