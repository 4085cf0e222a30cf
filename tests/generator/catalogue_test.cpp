#include "arbiter/generator/catalogue.hpp"

#include "arbiter/error.hpp"
#include "expect_error.hpp"
#include "sample_catalogue.hpp"

namespace arbiter {
namespace {

using test::expect_error;
using test::sample_json;
using test::sample_templates;
using test::sample_with;

Catalogue parse(std::string_view json) { return Catalogue::parse(json, sample_templates()); }

TEST(Catalogue, ReadsEveryField) {
  const Catalogue catalogue = parse(sample_json);
  ASSERT_EQ(catalogue.algorithms().size(), 3u);
  const AlgorithmEntry& push = catalogue.algorithm(Backend::trtllm, "push");
  EXPECT_EQ(push.template_name, "algorithms/push");
  EXPECT_EQ(push.summary, "Pushes.");
  EXPECT_EQ(push.numerics, Numerics::rank_order_fp32);
  EXPECT_TRUE(push.exchange);
  EXPECT_EQ(push.worlds, (std::vector<int>{2, 4}));
  EXPECT_EQ(push.axes,
            (std::vector<Axis>{{"threads", {128, 256}, false}, {"cluster", {1, 2}, false}, {"blocks", {0, 8}, true}}));
  ASSERT_EQ(push.constraints.size(), 3u);
  EXPECT_EQ(push.constraints[0], (Constraint{"threads <= max_threads", "too many threads"}));
  EXPECT_EQ(push.push_slots, "2 * world");
  EXPECT_EQ(push.shared_bytes, "4 * partials");
  EXPECT_NE(push.axis("blocks"), nullptr);
  EXPECT_EQ(push.axis("block"), nullptr);

  const AlgorithmEntry& multimem = catalogue.algorithm(Backend::nvls, "multimem");
  EXPECT_EQ(multimem.numerics, Numerics::multimem);
  EXPECT_EQ(multimem.capabilities, std::vector<std::string>{"multicast"});
  EXPECT_EQ(multimem.tile_rows, "1");  // defaults
  EXPECT_EQ(multimem.push_slots, "0");
  EXPECT_EQ(multimem.staging_copies, "0");
  EXPECT_EQ(multimem.shared_bytes, "0");
  EXPECT_FALSE(catalogue.standalone().exchange);

  const EpilogueEntry& norm = catalogue.epilogue("allreduce_norm");
  EXPECT_TRUE(norm.rows);
  EXPECT_TRUE(norm.needs(Tensor::gamma));
  EXPECT_FALSE(norm.needs(Tensor::output));
  EXPECT_EQ(norm.constants, (std::map<std::string, int>{{"norm_out", 1}}));
}

TEST(Catalogue, LookupsNameTheNearest) {
  const Catalogue catalogue = parse(sample_json);
  expect_error<InvalidArgument>([&] { catalogue.epilogue("allreduce_nrm"); },
                                {"unknown pattern 'allreduce_nrm'", "did you mean 'allreduce_norm'?"});
  expect_error<InvalidArgument>([&] { catalogue.algorithm(Backend::trtllm, "pull"); }, {"trtllm", "'pull'", "push"});
  EXPECT_THROW(catalogue.algorithm(Backend::mnnvl, "push"), InvalidArgument);
}

TEST(Catalogue, ErrorsSayWhereAndWhat) {
  struct Case {
    const char* from;
    const char* to;
    std::initializer_list<std::string_view> parts;
  };
  const Case cases[] = {
      {"\"schema\": 1", "\"schema\": 2", {"schema", "reads schema 1", "found 2"}},
      {"\"schema\": 1,", "", {"'schema' is missing"}},
      {"\"schema\": 1", "\"schema\": 1, \"extra\": 1", {"unknown key 'extra'"}},
      {"\"trtllm\"", "\"trtlm\"", {"algorithms[0].backend", "'trtlm'", "did you mean 'trtllm'?"}},
      {"\"trtllm\"", "\"nccl\"", {"algorithms[0].backend", "nccl"}},
      {"\"trtllm\"", "7", {"algorithms[0].backend", "expected a string", "the number 7"}},
      {"\"push\"", "\"Push\"", {"algorithms[0].name", "[a-z][a-z0-9_]*", "'Push'"}},
      {"\"push\"", "\"\"", {"algorithms[0].name", "not empty"}},
      {"algorithms/push", "../secret", {"algorithms[0].template", "'../secret'"}},
      {"algorithms/push", "/etc/passwd", {"algorithms[0].template"}},
      {"algorithms/push", "a.mustache", {"algorithms[0].template", "without '.mustache'"}},
      {"\"summary\": \"Pushes.\",", "", {"algorithms[0]", "'summary' is missing"}},
      {"\"exchange\": true", "\"exchange\": 1", {"algorithms[0].exchange", "true or false", "the number 1"}},
      {"\"rank_order_fp32\"", "\"nccl\"", {"algorithms[0].numerics"}},
      {"[2, 4]", "[]", {"algorithms[0].worlds", "at least one"}},
      {"[2, 4]", "[2, 1]", {"algorithms[0].worlds[1]", "from 2 to 16", "found 1"}},
      {"[2, 4]", "[2, 17]", {"algorithms[0].worlds[1]", "found 17"}},
      {"[2, 4]", "[2, 2]", {"algorithms[0].worlds[1]", "twice"}},
      {"[2, 4]", "[2, 4.5]", {"algorithms[0].worlds[1]", "integer"}},
      {"[2, 4]", "4", {"algorithms[0].worlds", "array"}},
      {"\"worlds\": [1]", "\"worlds\": [2]", {"algorithms[2].worlds[0]", "one rank"}},
      {"[\"multicast\"]", "[\"multicats\"]", {"algorithms[1].capabilities[0]", "did you mean 'multicast'?"}},
      {"\"values\": [1, 2]",
       "\"values\": [1, 2], \"capability\": \"multicats\"",
       {"algorithms[0].axes[1].capability", "did you mean 'multicast'?"}},
      {"\"launch\": true",
       "\"launch\": true, \"capability\": \"multicast\"",
       {"algorithms[0].axes[2].capability", "launch axis"}},
      {"\"threads\", \"values\": [128, 256]",
       "\"world\", \"values\": [1]",
       {"axes[0].name", "'world' already has a meaning"}},
      {"\"threads\", \"values\": [128, 256]", "\"sm\", \"values\": [1]", {"axes[0].name", "already has a meaning"}},
      {"\"threads\", \"values\": [128, 256]", "\"dtype\", \"values\": [1]", {"axes[0].name", "already has a meaning"}},
      {"\"cluster\", \"values\"", "\"threads\", \"values\"", {"axes[1].name", "listed twice"}},
      {"\"cluster\", \"values\": [1, 2]", "\"norm_out\", \"values\": [1]", {"unknown name 'cluster'"}},
      {"[128, 256]", "[]", {"axes[0].values", "at least one"}},
      {"[128, 256]", "[128, 128]", {"axes[0].values[1]", "twice"}},
      {"[128, 256]", "[99999999999]", {"axes[0].values[0]", "32 bits"}},
      {"threads <= max_threads", "threads <= blocks", {"constraints[0].require", "unknown name 'blocks'"}},
      {"threads <= max_threads", "threads <=", {"constraints[0].require", "expected a number"}},
      {"\"reason\": \"too many threads\"", "\"reasn\": \"x\"", {"constraints[0]", "did you mean 'reason'?"}},
      {"\"2 * world\"", "\"2 * wrld\"", {"algorithms[0].push_slots", "did you mean 'world'?"}},
      {"\"2 * world\"", "2", {"algorithms[0].push_slots", "expected a string"}},
      {"\"name\": \"multimem\"", "\"name\": \"multimem\", \"exchange\": false", {"algorithms[1].worlds[0]"}},
      {"\"pattern\": \"allreduce_norm\"", "\"pattern\": \"allreduce\"", {"epilogues[1].pattern", "twice"}},
      {"[\"output\"]", "[\"outptu\"]", {"epilogues[0].tensors[0]", "did you mean 'output'?"}},
      {"[\"output\"]", "[\"output\", \"output\"]", {"epilogues[0].tensors[1]", "twice"}},
      {"\"norm_out\": 1", "\"norm_out\": \"1\"", {"epilogues[1].constants.norm_out", "integer", "'1'"}},
      {"\"norm_out\": 1", "\"rank\": 1", {"epilogues[1].constants.rank", "already has a meaning"}},
      {"\"norm_out\": 1", "\"threads\": 1", {"'threads' is both an axis", "rename"}},
      {"\"rows\": true", "\"rows\": null", {"epilogues[1].rows", "null"}},
      {"\"rows\": true", "\"rows\": true, \"rows\": false", {"key 'rows' twice", "line "}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.to);
    expect_error<CompileError>([&] { parse(sample_with(c.from, c.to)); }, c.parts);
  }
}

TEST(Catalogue, RefusesWhatIsNotACatalogue) {
  expect_error<CompileError>([] { parse(""); }, {"not JSON"});
  expect_error<CompileError>([] { parse("{\"schema\": 1,"); }, {"not JSON"});
  expect_error<CompileError>([] { parse("[]"); }, {"top level", "expected an object", "an array"});
  expect_error<CompileError>([] { parse("{\"schema\": 1, \"algorithms\": [], \"epilogues\": []}"); },
                             {"algorithms", "none"});
  expect_error<CompileError>([] { parse(std::string(1000000, '[')); }, {"nested deeper"});
  expect_error<CompileError>([] { parse("{\"\xff\": 1}"); }, {"JSON"});
  EXPECT_THROW(parse(std::string("\0", 1)), CompileError);
  expect_error<CompileError>([] { parse(std::string((16u << 20) + 1, ' ')); }, {"16 MiB"});
}

TEST(Catalogue, TwoAlgorithmsOfOneNameAreRefused) {
  expect_error<CompileError>(
      [] { parse(sample_with("\"nvls\", \"name\": \"multimem\"", "\"trtllm\", \"name\": \"push\"")); },
      {"algorithms[1]", "twice"});
}

TEST(Catalogue, HashCoversTextAndReachableTemplates) {
  const std::string hash = parse(sample_json).hash();
  EXPECT_EQ(hash.size(), 64u);
  EXPECT_EQ(parse(sample_json).hash(), hash);
  EXPECT_NE(parse(sample_with("Pushes.", "Pushes!")).hash(), hash);

  TemplateMap changed = sample_templates();
  changed["epilogues/norm.mustache"] = "other\n";
  EXPECT_NE(Catalogue::parse(sample_json, changed).hash(), hash);

  TemplateMap more = sample_templates();
  more["unreachable.h"] = "nobody includes this";
  EXPECT_EQ(Catalogue::parse(sample_json, more).hash(), hash);
  more["device/primitives.cuh"] = "{{> unreachable.h}}";
  const std::string reached = Catalogue::parse(sample_json, more).hash();
  more["unreachable.h"] = "changed";
  EXPECT_NE(Catalogue::parse(sample_json, more).hash(), reached);
}

TEST(Catalogue, BuiltinIsValid) {
  const Catalogue& catalogue = Catalogue::builtin();
  EXPECT_FALSE(catalogue.algorithms().empty());
  EXPECT_NO_THROW(catalogue.epilogue("allreduce"));
  EXPECT_EQ(&catalogue, &Catalogue::builtin());
  EXPECT_EQ(builtin_templates().count("catalogue.json"), 1u);
  EXPECT_EQ(builtin_templates().count("args.h"), 1u);
}

}  // namespace
}  // namespace arbiter
