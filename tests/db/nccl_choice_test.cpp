// NCCL configurations: their spelling, and the best ones as they are stored, copied and refused.
#include <sstream>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "db/fixtures.hpp"
#include "sqlite/schema.hpp"

namespace arbiter::test {
namespace {

using db::Access;
using db::Connection;

Candidate classic(const std::string& parameters) {
  Candidate candidate = nccl_candidate();
  if (!parameters.empty()) candidate.name += ":" + parameters;
  return candidate;
}

std::vector<NcclChoice> example_choices() {
  return {{2, 1, 4096, classic(""), 6.5, classic("algo=tree,channels=4,proto=ll"), 6.6},
          {2, 4097, 1 << 20, classic("algo=ring,channels=16,proto=ll128"), 9.25,
           classic("algo=ring,channels=16,proto=ll128"), 9.25},
          {4, 1, 65536, classic("algo=ring,proto=simple"), 11, {}, 0}};
}

void nothing(WorkDatabase&, const Environment&) {}

TEST(NcclConfiguration, HasOneSpelling) {
  for (const char* text : {"", "channels=1", "algo=ring,channels=8,proto=ll128", "algo=tree,proto=ll",
                           "algo=nvls_tree,channels=64,proto=simple", "algo=collnet_direct,proto=simple"}) {
    EXPECT_EQ(NcclConfiguration::parse(text).text(), text);
  }
  const NcclConfiguration ring = NcclConfiguration::parse("algo=ring,channels=8,proto=ll128");
  EXPECT_EQ(static_cast<int>(ring.algorithm), 1) << "NCCL's number";
  EXPECT_EQ(static_cast<int>(ring.protocol), 1);
  EXPECT_TRUE(ring.complete());
  EXPECT_FALSE(NcclConfiguration::parse("algo=ring,proto=ll").complete());
  EXPECT_TRUE(NcclConfiguration::parse("channels=2").forces());
  EXPECT_FALSE(NcclConfiguration().forces());
}

TEST(NcclConfiguration, RefusesWhatNcclCouldNotTake) {
  for (const auto& [text, part] : {std::pair{"algo=ring", "together"},
                                   {"proto=ll", "together"},
                                   {"algo=ring,proto=ll129", "did you mean"},
                                   {"algo=rng,proto=ll", "ring"},
                                   {"channels=0", "between 1 and 64"},
                                   {"channels=65", "between 1 and 64"},
                                   {"channels=8x", "between 1 and 64"},
                                   {"channels=", "between 1 and 64"},
                                   {"channels", "parameter=value"},
                                   {"channels=8,algo=ring,proto=ll", "in the order"},
                                   {"channels=8,channels=8", "in the order"},
                                   {"channels=8,", "comma"},
                                   {"threads=8", "parameter"},
                                   {",", "parameter=value"}}) {
    try {
      NcclConfiguration::parse(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << text << ": " << error.what();
    }
  }
}

TEST(NcclConfiguration, OfACandidate) {
  EXPECT_EQ(nccl_configuration(classic("")), NcclConfiguration());
  EXPECT_EQ(nccl_configuration(classic("channels=4"))->channels, 4);
  Candidate other = classic("channels=4");
  other.name += "+epilogue:threads=512";
  EXPECT_FALSE(nccl_configuration(other)) << "not the allreduce alone";
  other.name = "nccl/symmetric";
  EXPECT_FALSE(nccl_configuration(other));
  EXPECT_FALSE(nccl_configuration(classic("channels=400")));
  other.name = "nccl/classics";
  EXPECT_FALSE(nccl_configuration(other));
  EXPECT_FALSE(nccl_configuration(example_candidate()));
}

TEST(NcclChoice, TravelsWithTheDecisions) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  std::vector<NcclChoice> shuffled = example_choices();
  std::swap(shuffled.front(), shuffled.back());
  database.replace_nccl_choices(example_environment(), shuffled);
  ASSERT_EQ(database.decisions().size(), 1U) << "also without decisions";
  EXPECT_EQ(database.decisions()[0].nccl, example_choices());
  database.replace_decisions(example_environment(), example_decisions(5));
  EXPECT_EQ(database.decisions()[0].nccl, example_choices()) << "they are replaced separately";
  database.write_snapshot(scratch / "snapshot.db");
  const std::vector<DecisionSet> sets = read_decisions(scratch / "snapshot.db");
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].nccl, example_choices());
  EXPECT_EQ(sets, read_decisions_from_bytes(read_for_broadcast(scratch / "work.db"), "broadcast"));
  database.replace_nccl_choices(example_environment(), {});
  EXPECT_TRUE(database.decisions()[0].nccl.empty());
}

TEST(NcclChoice, IsExportedAndImported) {
  ScratchDirectory scratch;
  {
    WorkDatabase database = WorkDatabase::open(scratch / "work.db");
    database.replace_nccl_choices(example_environment(), example_choices());
    database.replace_decisions(other_environment(), example_decisions(2));
  }
  const Contents contents = read_contents(scratch / "work.db");
  ASSERT_EQ(contents.nccl.at(example_environment().key()), example_choices());
  std::ostringstream out;
  write_jsonl(out, contents);
  std::istringstream in(out.str());
  const Contents back = parse_jsonl(in, "text");
  EXPECT_EQ(back, contents);
  WorkDatabase::open(scratch / "again.db").import(back, nothing);
  EXPECT_EQ(read_decisions(scratch / "again.db"), read_decisions(scratch / "work.db"));

  std::string bad = out.str();
  bad.replace(bad.find("\"bytes_max\":4096"), 16, "\"bytes_max\":5096");
  std::istringstream damaged(bad);
  EXPECT_CONTAINS(message_of([&] { parse_jsonl(damaged, "text"); }), "'key' does not match");
}

TEST(NcclChoice, ExportsOfTheFirstSchemaAreRead) {
  Contents contents;
  contents.environments.emplace(example_environment().key(), example_environment());
  std::ostringstream out;
  write_jsonl(out, contents);
  std::string text = out.str();
  text.replace(text.find("\"schema\":" + std::to_string(jsonl_schema_version)), 10, "\"schema\":1");
  const std::string counter = ",\"nccl_choices\":0";
  std::istringstream with_counter(text);
  EXPECT_CONTAINS(message_of([&] { parse_jsonl(with_counter, "text"); }), "nccl_choices") << "schema 1 had none";
  text.erase(text.find(counter), counter.size());
  std::istringstream in(text);
  EXPECT_EQ(parse_jsonl(in, "text"), contents);
}

TEST(NcclChoice, NonsenseIsRefused) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.replace_nccl_choices(example_environment(), example_choices());
  const auto refused = [&](auto change, const char* part) {
    std::vector<NcclChoice> choices = example_choices();
    change(choices);
    EXPECT_CONTAINS(message_of([&] { database.replace_nccl_choices(example_environment(), choices); }), part);
    EXPECT_EQ(database.decisions()[0].nccl, example_choices());
  };
  refused([](auto& c) { c[1].bytes_min = 4096; }, "overlaps");
  refused([](auto& c) { c[0].candidate = example_candidate(); }, "backend nccl");
  refused([](auto& c) { c[0].forced = example_candidate(); }, "backend nccl");
  refused([](auto& c) { c[0].world = 0; }, "world is 0");
  refused([](auto& c) { c[0].bytes_max = 0; }, "bytes_max");
  refused([](auto& c) { c[2].forced_median_us = 1; }, "forced is not");
  refused([](auto& c) { c[2].median_us = -1; }, "median_us");
}

TEST(NcclChoice, EveryDamagedColumnIsNoticed) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.replace_nccl_choices(example_environment(), example_choices());
  database.write_snapshot(scratch / "good.db");
  for (const char* change :
       {"world = 3", "bytes_min = 2", "bytes_max = bytes_max + 1", "median_us = 1.5", "forced = NULL",
        "forced_median_us = 1.5", "candidate = (SELECT max(key) FROM candidate WHERE key <> candidate)",
        "key = replace(key, substr(key, 1, 1), 'x')"}) {
    const auto path = scratch / "bad.db";
    std::filesystem::copy_file(scratch / "good.db", path, std::filesystem::copy_options::overwrite_existing);
    Connection::open(path, Access::write, "raw")
        .execute("UPDATE nccl_choice SET " + std::string(change) + " WHERE world = 2 AND bytes_min = 1");
    EXPECT_CONTAINS(message_of([&] { read_decisions(path); }), "bad.db") << change;
  }
}

TEST(NcclChoice, WithoutItsMeasurementsItCannotBeMerged) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.replace_nccl_choices(example_environment(), example_choices());
  EXPECT_CONTAINS(message_of([&] { database.merge(Contents(), nothing); }), "NCCL configurations for world=2");
  EXPECT_EQ(database.decisions()[0].nccl, example_choices());
}

TEST(NcclChoice, AFileOfTheFirstSchemaHasNone) {
  ScratchDirectory scratch;
  const auto path = scratch / "old.db";
  {
    Connection old = Connection::open(path, Access::write, "raw");
    db::migrate(old, db::migrations().first(1));
  }
  EXPECT_TRUE(read_decisions(path).empty());
  WorkDatabase database = WorkDatabase::open(path);
  database.replace_nccl_choices(example_environment(), example_choices());
  EXPECT_EQ(database.decisions()[0].nccl, example_choices());
}

}  // namespace
}  // namespace arbiter::test
