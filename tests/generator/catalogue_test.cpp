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
  EXPECT_EQ(push.template_name, "algorithms/push.mustache");
  EXPECT_EQ(push.summary, "Pushes.");
  EXPECT_EQ(push.numerics, Numerics::rank_order_fp32);
  EXPECT_TRUE(push.exchange);
  EXPECT_EQ(push.worlds, (std::vector<int>{2, 4}));
  EXPECT_EQ(push.axes,
            (std::vector<Axis>{{"threads", {128, 256}, false}, {"cluster", {1, 2}, false}, {"blocks", {0, 8}, true}}));
  ASSERT_EQ(push.constraints.size(), 3u);
  EXPECT_EQ(push.constraints[0], (Constraint{"threads <= max_threads", "too many threads"}));
  EXPECT_EQ(push.pruning, (std::vector<Constraint>{{"cluster == 1 || threads < 512", "large clusters never won"}}));
  EXPECT_EQ(push.steps, 1);
  EXPECT_EQ(push.protocol, "slots");
  EXPECT_EQ(push.arrays_before, 1 + 2 * max_world);  // those of "flags"
  EXPECT_EQ(catalogue.control_arrays(), 2 + 2 * max_world);
  EXPECT_EQ(push.link_messages(4), 3);
  EXPECT_TRUE(push.one_shot());
  EXPECT_FALSE(push.two_shot());
  EXPECT_EQ(push.push_slots, "2 * world");
  EXPECT_EQ(push.shared_bytes, "4 * partials");
  EXPECT_NE(push.axis("blocks"), nullptr);
  EXPECT_EQ(push.axis("block"), nullptr);

  const AlgorithmEntry& multimem = catalogue.algorithm(Backend::nvls, "multimem");
  EXPECT_EQ(multimem.numerics, Numerics::multimem);
  EXPECT_EQ(multimem.capabilities, std::vector<std::string>{"multicast"});
  EXPECT_FALSE(multimem.one_shot() || multimem.two_shot());
  EXPECT_EQ(multimem.tile_rows, "1");  // defaults
  EXPECT_EQ(multimem.push_slots, "0");
  EXPECT_EQ(multimem.staging_copies, "0");
  EXPECT_EQ(multimem.shared_bytes, "0");
  EXPECT_FALSE(catalogue.standalone().exchange);

  ASSERT_EQ(catalogue.parts().size(), 5u);
  const PartEntry& group = catalogue.parts()[4];
  EXPECT_EQ(group.kind, PartKind::quantisation);
  EXPECT_EQ(group.parameter, "group");
  EXPECT_EQ(group.template_name, "stages/fp8.mustache");
  EXPECT_EQ(group.writes, (std::vector<Tensor>{Tensor::quant_out, Tensor::scale_out}));
  EXPECT_EQ(group.problem, (std::vector<Constraint>{{"hidden % group == 0", "the group must divide the row"}}));
  EXPECT_EQ(group.constraints.size(), 1u);
  EXPECT_EQ(group.shared_bytes, "4 * hidden / group");
  EXPECT_EQ(group.scale_layout, ScaleLayout::packed_columns);
  EXPECT_EQ(catalogue.parts()[2].constants, (std::map<std::string, int>{{"centred", 1}}));
  EXPECT_EQ(catalogue.usual_patterns(), (std::vector<std::string>{"allreduce", "allreduce_norm"}));
}

TEST(Catalogue, LookupsNameTheNearest) {
  const Catalogue catalogue = parse(sample_json);
  expect_error<InvalidArgument>([&] { catalogue.pattern("allreduce_nrm"); },
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
      {"\"schema\": 3", "\"schema\": 2", {"schema", "reads schema 3", "found 2"}},
      {"\"schema\": 3,", "", {"'schema' is missing"}},
      {"\"schema\": 3", "\"schema\": 3, \"extra\": 1", {"unknown key 'extra'"}},
      {"\"trtllm\"", "\"trtlm\"", {"algorithms[0].backend", "'trtlm'", "did you mean 'trtllm'?"}},
      {"\"trtllm\"", "\"nccl\"", {"algorithms[0].backend", "nccl"}},
      {"\"trtllm\"", "7", {"algorithms[0].backend", "expected a string", "the number 7"}},
      {"\"push\"", "\"Push\"", {"algorithms[0].name", "[a-z][a-z0-9_]*", "'Push'"}},
      {"\"push\"", "\"\"", {"algorithms[0].name", "not empty"}},
      {"algorithms/push.mustache", "../secret", {"algorithms[0].template", "'../secret'"}},
      {"algorithms/push", "/etc/passwd", {"algorithms[0].template"}},
      {"algorithms/push.mustache", "algorithms/push", {"algorithms[0].template", "with its suffix"}},
      {"\"summary\": \"Pushes.\",", "", {"algorithms[0]", "'summary' is missing"}},
      {"\"transport\": \"push\", ", "", {"algorithms[0]", "needs 'transport'", "push, pull, staged or multicast"}},
      {"\"transport\": \"push\"", "\"transport\": \"pusch\"", {"algorithms[0].transport", "did you mean 'push'?"}},
      {"\"exchange\": false", "\"exchange\": false, \"transport\": \"pull\"", {"algorithms[2]", "has no 'transport'"}},
      {"\"steps\": 1, ", "", {"algorithms[0]", "needs 'steps'"}},
      {"\"steps\": 1", "\"steps\": 0", {"algorithms[0].steps", "at least 1"}},
      {"world * (world - 1)", "world * (hidden - 1)", {"algorithms[0].link_rows", "hidden"}},
      {"\"protocol\": \"slots\"", "\"protocol\": \"slot\"", {"algorithms[0].protocol", "did you mean 'slots'?"}},
      {"\"name\": \"slots\"", "\"name\": \"flags\"", {"protocols[1].name", "twice"}},
      {"\"flags\": 2", "\"flags\": 9", {"protocols[0].flags", "0 to 8"}},
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
      {"\"cluster\", \"values\": [1, 2]", "\"clusters\", \"values\": [1]", {"unknown name 'cluster'"}},
      {"[128, 256]", "[]", {"axes[0].values", "at least one"}},
      {"[128, 256]", "[128, 128]", {"axes[0].values[1]", "twice"}},
      {"[128, 256]", "[99999999999]", {"axes[0].values[0]", "32 bits"}},
      {"threads <= max_threads", "threads <= blocks", {"constraints[0].require", "unknown name 'blocks'"}},
      {"threads <= max_threads", "threads <=", {"constraints[0].require", "expected a number"}},
      {"\"reason\": \"too many threads\"", "\"reasn\": \"x\"", {"constraints[0]", "did you mean 'reason'?"}},
      {"\"2 * world\"", "\"2 * wrld\"", {"algorithms[0].push_slots", "did you mean 'world'?"}},
      {"\"2 * world\"", "2", {"algorithms[0].push_slots", "expected a string"}},
      {"\"name\": \"multimem\"", "\"name\": \"multimem\", \"exchange\": false", {"algorithms[1].worlds[0]"}},
      {"\"name\": \"multimem\"", "\"name\": \"multimem\", \"aliases\": [\"Old\"]", {"algorithms[1].aliases[0]", "Old"}},
      {"\"blocks\", \"values\"", "\"group\", \"values\"", {"'group' is both an axis", "rename"}},
      {"\"moe\"", "\"moe{n}\"", {"prologues[0].name", "no parameter"}},
      {"\"moe\"", "\"allreduce\"", {"prologues[0].name", "the allreduce itself"}},
      {"[\"moe_shared\"]", "[\"moe_shard\"]", {"prologues[0].optional[0]", "did you mean 'moe_shared'?"}},
      {"\"kind\": \"residual\"", "\"kind\": \"resdual\"", {"stages[0].kind", "did you mean 'residual'?"}},
      {"\"kind\": \"residual\"", "\"kind\": \"prologue\"", {"stages[0].kind", "'prologue'"}},
      {"[\"residual_out\"]", "[]", {"stages[0].writes", "at least one"}},
      {"[\"gamma\"]", "[\"gama\"]", {"stages[1].reads[0]", "did you mean 'gamma'?"}},
      {"[\"gamma\"]", "[\"gamma\", \"gamma\"]", {"stages[1].reads[1]", "twice"}},
      {"\"name\": \"norm\"", "\"name\": \"residual\"", {"stages[1].name", "twice"}},
      {"\"name\": \"norm\"", "\"name\": \"Norm\"", {"stages[1].name", "[a-z][a-z0-9_]*", "'Norm'"}},
      {"\"centred\": 1", "\"centred\": \"1\"", {"stages[1].constants.centred", "integer", "'1'"}},
      {"\"centred\": 1", "\"rank\": 1", {"stages[1].constants.rank", "already has a meaning"}},
      {"\"centred\": 1", "\"hidden\": 1", {"stages[1].constants.hidden", "already has a meaning"}},
      {"\"centred\": 1", "\"threads\": 1", {"'threads' is both an axis", "rename"}},
      {"\"summary\": \"Norm.\"", "\"summary\": \"Norm.\", \"quant_bits\": 8", {"stages[1]", "only a quantisation"}},
      {"\"quant_out\"], \"quant_bits\": 8", "\"quant_out\"]", {"stages[2]", "'quant_bits' is missing"}},
      {"\"quant_bits\": 8", "\"quant_bits\": 7", {"stages[2].quant_bits", "4 or 8"}},
      {"\"packed_columns\"", "\"packed\"", {"stages[3].scale_layout", "packed_columns"}},
      {"\"packed_columns\"", "\"token\"", {"stages[3]", "no scale layout with groups"}},
      {"fp8_group{group}", "fp8_groups", {"stages[3]", "needs a 'group'"}},
      {"fp8_group{group}", "fp8_group{group", {"stages[3].name", "not closed"}},
      {"fp8_group{group}", "fp8_group{Group}", {"stages[3].name", "'{Group}'"}},
      {"fp8_group{group}", "fp8_group{hidden}", {"stages[3]"}},
      {"hidden % group", "hidden % cluster", {"stages[3].problem[0].require", "unknown name 'cluster'"}},
      {"threads * elements", "blocks * elements", {"stages[3].constraints[0].require", "unknown name 'blocks'"}},
      {"4 * hidden / group", "4 * hiden", {"stages[3].shared_bytes", "did you mean 'hidden'?"}},
      {"\"allreduce_norm\"]", "\"allreduce_nrm\"]", {"usual_patterns[1]", "did you mean 'allreduce_norm'?"}},
      {"\"allreduce_norm\"]", "\"allreduce\"]", {"usual_patterns[1]", "twice"}},
      {"\"launch\": true", "\"launch\": null", {"axes[2].launch", "null"}},
      {"\"launch\": true", "\"launch\": true, \"launch\": false", {"key 'launch' twice", "line "}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.to);
    expect_error<CompileError>([&] { parse(sample_with(c.from, c.to)); }, c.parts);
  }
}

TEST(Catalogue, RefusesWhatIsNotACatalogue) {
  expect_error<CompileError>([] { parse(""); }, {"not JSON"});
  expect_error<CompileError>([] { parse("{\"schema\": 3,"); }, {"not JSON"});
  expect_error<CompileError>([] { parse("[]"); }, {"top level", "expected an object", "an array"});
  expect_error<CompileError>(
      [] { parse("{\"schema\": 3, \"algorithms\": [], \"prologues\": [], \"stages\": [], \"usual_patterns\": []}"); },
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

TEST(Catalogue, AnAlgorithmIsFoundByNamesThatItHad) {
  const Catalogue catalogue = parse(sample_with("\"name\": \"push\"", "\"name\": \"push\", \"aliases\": [\"old\"]"));
  EXPECT_EQ(catalogue.algorithm(Backend::trtllm, "old").name, "push");
  EXPECT_EQ(catalogue.algorithm(Backend::trtllm, "push").name, "push");
  EXPECT_THROW(catalogue.algorithm(Backend::nvls, "old"), InvalidArgument);
  expect_error<CompileError>(
      [] {
        parse(sample_with("\"nvls\", \"name\": \"multimem\"",
                          "\"trtllm\", \"name\": \"multimem\", \"aliases\": [\"push\"]"));
      },
      {"algorithms[1].aliases", "another algorithm"});
}

TEST(Catalogue, HashCoversTextAndReachableTemplates) {
  const std::string hash = parse(sample_json).hash();
  EXPECT_EQ(hash.size(), 64u);
  EXPECT_EQ(parse(sample_json).hash(), hash);
  EXPECT_NE(parse(sample_with("Pushes.", "Pushes!")).hash(), hash);

  TemplateMap changed = sample_templates();
  changed["stages/norm.mustache"] = "other\n";
  EXPECT_NE(Catalogue::parse(sample_json, changed).hash(), hash);

  TemplateMap more = sample_templates();
  more["unreachable.h"] = "nobody includes this";
  EXPECT_EQ(Catalogue::parse(sample_json, more).hash(), hash);
  more["device/primitives.cuh"] = "{{> unreachable.h}}";
  const std::string reached = Catalogue::parse(sample_json, more).hash();
  more["unreachable.h"] = "changed";
  EXPECT_NE(Catalogue::parse(sample_json, more).hash(), reached);
}

TEST(Catalogue, KindsOfTheBuiltinAlgorithms) {
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    EXPECT_EQ(entry.one_shot(), entry.name.starts_with("oneshot")) << entry.name;
    EXPECT_EQ(entry.two_shot(), entry.name.starts_with("twoshot")) << entry.name;
    EXPECT_EQ(entry.exchange, !entry.protocol.empty()) << entry.name;
  }
}

TEST(Catalogue, BuiltinIsValid) {
  const Catalogue& catalogue = Catalogue::builtin();
  EXPECT_FALSE(catalogue.algorithms().empty());
  EXPECT_NO_THROW(catalogue.pattern("allreduce"));
  EXPECT_EQ(&catalogue, &Catalogue::builtin());
  EXPECT_EQ(builtin_templates().count("catalogue.json"), 1u);
  EXPECT_EQ(builtin_templates().count("args.h"), 1u);
}

}  // namespace
}  // namespace arbiter
