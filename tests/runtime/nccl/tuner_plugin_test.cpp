// libarbiter-nccl-tuner.so, loaded and called as NCCL does it, without NCCL.
#include "nccl/tuner_plugin.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "db/fixtures.hpp"
#include "db/hostile.hpp"
#include "file_limit.hpp"
#include "plugin_abi.hpp"

namespace arbiter::test {
namespace {

using nccl_plugin::ignored;
using nccl_plugin::TunerV4;
using nccl_plugin::TunerV5;
using nccl_plugin::TunerV6;

constexpr int algorithms = 7, protocols = 3;
constexpr int tree = 0, ring = 1, collnet_direct = 2, nvls = 4;
constexpr int ll = 0, ll128 = 1, simple = 2;

struct Message {
  int level;
  std::string text;
};
std::mutex messages_mutex;
std::vector<Message> messages;

__attribute__((format(printf, 5, 6))) void log(int level, unsigned long flags, const char* file, int line,
                                               const char* format, ...) {
  EXPECT_NE(flags, 0U);
  EXPECT_NE(file, nullptr);
  EXPECT_GT(line, 0);
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const std::lock_guard lock(messages_mutex);
  messages.push_back({level, text});
}

/// The only message so far; forgets it.
Message message() {
  const std::lock_guard lock(messages_mutex);
  EXPECT_EQ(messages.size(), 1U);
  Message first = messages.empty() ? Message{} : messages.front();
  messages.clear();
  return first;
}

/// What NCCL shows to a plugin: everything costs something, except what it does not offer.
struct CostTable {
  float us[algorithms][protocols];
  CostTable() {
    for (int a = 0; a < algorithms; ++a) {
      for (int p = 0; p < protocols; ++p) us[a][p] = 10.0F + static_cast<float>(a * protocols + p);
    }
  }
  bool operator==(const CostTable&) const = default;
  /// What NCCL takes.
  std::pair<int, int> cheapest() const {
    std::pair<int, int> best{-1, -1};
    float least = 1e9F;
    for (int a = 0; a < algorithms; ++a) {
      for (int p = 0; p < protocols; ++p) {
        if (us[a][p] >= 0 && us[a][p] < least) {
          least = us[a][p];
          best = {a, p};
        }
      }
    }
    return best;
  }
};

Candidate classic(const std::string& parameters) {
  Candidate candidate = nccl_candidate();
  if (!parameters.empty()) candidate.name += ":" + parameters;
  return candidate;
}

DecisionSet example_set(const Environment& environment = example_environment()) {
  return {environment,
          example_decisions(3),
          {{2, 1, 4096, classic("algo=ring,channels=4,proto=ll"), 6, {}, 0},
           {2, 4097, 65536, classic(""), 8, classic("algo=ring,channels=8,proto=ll"), 8.1},
           {2, 65537, 1 << 20, classic("algo=ring,channels=16,proto=simple"), 12, {}, 0},
           {4, 1, 1 << 20, classic("algo=nvls,channels=16,proto=simple"), 12, {}, 0},
           {8, 1, 1 << 20, classic("channels=2"), 12, {}, 0}}};
}

class NcclTunerPlugin : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    EXPECT_FALSE(NcclTuner::find()) << "it must not be found before it is loaded";
    library = dlopen(ARBITER_NCCL_TUNER, RTLD_NOW | RTLD_LOCAL);  // as NCCL does it
    ASSERT_NE(library, nullptr) << dlerror();
    v5 = static_cast<const TunerV5*>(dlsym(library, "ncclTunerPlugin_v5"));
    ASSERT_NE(v5, nullptr);
  }
  void SetUp() override {
    messages.clear();
    ::unsetenv("ARBITER_DB");
    ::unsetenv("ARBITER_ENVIRONMENT");
    ::unsetenv("NCCL_TUNER_PLUGIN");
  }
  void TearDown() override { SetUp(); }

  void serve(const std::vector<DecisionSet>& sets) {
    write_snapshot(scratch / "snapshot.db", sets);
    ::setenv("ARBITER_DB", (scratch / "snapshot.db").c_str(), 1);
  }

  /// A communicator, from its creation to its end.
  class Communicator {
   public:
    explicit Communicator(std::size_t ranks, std::size_t nodes = 1, nccl_plugin::Logger logger = log) {
      EXPECT_EQ(v5->init(&context_, 17, ranks, nodes, logger, nullptr, nullptr), 0);
    }
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;
    ~Communicator() { EXPECT_EQ(v5->finalize(context_), 0); }

    struct Answer {
      CostTable table;
      int channels = 0;
      bool untouched() const { return table == CostTable() && channels == 0; }
    };
    Answer ask(std::size_t bytes, int function = nccl_plugin::all_reduce, int pipelined = 1, int registered = 0) const {
      Answer answer;
      ask(answer, bytes, function, pipelined, registered);
      return answer;
    }
    void ask(Answer& answer, std::size_t bytes, int function = nccl_plugin::all_reduce, int pipelined = 1,
             int registered = 0) const {
      EXPECT_EQ(v5->get_coll_info(context_, function, bytes, pipelined, reinterpret_cast<float**>(answer.table.us),
                                  algorithms, protocols, registered, &answer.channels),
                0);
    }
    void* context() const { return context_; }

   private:
    void* context_ = nullptr;
  };

  ScratchDirectory scratch;
  static void* library;
  static const TunerV5* v5;
};
void* NcclTunerPlugin::library = nullptr;
const TunerV5* NcclTunerPlugin::v5 = nullptr;

using Pair = std::pair<int, int>;

TEST_F(NcclTunerPlugin, ServesTheSnapshotBySize) {
  serve({example_set()});
  const Communicator two(2);
  const Message loaded = message();
  EXPECT_EQ(loaded.level, nccl_plugin::log_info);
  EXPECT_CONTAINS(loaded.text, "2 ranks on 1 nodes: 3 intervals up to 1048576 bytes");
  EXPECT_CONTAINS(loaded.text, "Symmetric kernels do not ask tuner plugins");
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{4096}}) {
    const auto answer = two.ask(bytes);
    EXPECT_EQ(answer.table.cheapest(), Pair(ring, ll)) << bytes;
    EXPECT_EQ(answer.channels, 4);
  }
  for (const std::size_t bytes :
       {std::size_t{4097}, std::size_t{65536}, std::size_t{(1 << 20) + 1}, std::size_t{1} << 62, ~std::size_t{0}}) {
    EXPECT_TRUE(two.ask(bytes).untouched()) << bytes << ": NCCL's own choice won, or nothing was measured";
  }
  EXPECT_EQ(two.ask(65537).table.cheapest(), Pair(ring, simple));
  EXPECT_EQ(two.ask(1 << 20).channels, 16);

  const Communicator four(4);
  EXPECT_EQ(four.ask(4096).table.cheapest(), Pair(nvls, simple));
  const Communicator eight(8);
  EXPECT_EQ(eight.ask(4096).table, CostTable()) << "only the channels are forced";
  EXPECT_EQ(eight.ask(4096).channels, 2);
}

TEST_F(NcclTunerPlugin, ChangesOneEntryAndNoMore) {
  serve({example_set()});
  const Communicator two(2);
  CostTable expected;
  expected.us[ring][ll] = 0;
  EXPECT_EQ(two.ask(100).table, expected);
}

TEST_F(NcclTunerPlugin, LeavesOtherCallsAlone) {
  serve({example_set()});
  const Communicator two(2);
  for (const int function : {-1, 0, 1, 2, 3, 5, 6, 14, 1000}) EXPECT_TRUE(two.ask(100, function).untouched());
  EXPECT_TRUE(two.ask(100, nccl_plugin::all_reduce, 2).untouched()) << "groups of calls were not measured";
  EXPECT_FALSE(two.ask(100, nccl_plugin::all_reduce, 1, 1).untouched()) << "registration differs between ranks";
}

TEST_F(NcclTunerPlugin, DoesNotForceWhatNcclDoesNotOffer) {
  serve({example_set()});
  const Communicator two(2);
  messages.clear();
  for (const float absent : {ignored, -2.5F, std::numeric_limits<float>::quiet_NaN()}) {
    Communicator::Answer answer;
    answer.table.us[ring][ll] = absent;
    two.ask(answer, 100);
    EXPECT_EQ(answer.channels, 0) << "channels that were measured with another algorithm";
    EXPECT_NE(answer.table.cheapest(), Pair(ring, ll));
  }
  const Message said = message();
  EXPECT_EQ(said.level, nccl_plugin::log_warn);
  EXPECT_CONTAINS(said.text, "does not offer algo=ring,channels=4,proto=ll");

  // A table with fewer rows or columns than the plugin knows.
  CostTable table;
  int channels = 0;
  const auto small = [&](void* context, float** costs, int a, int p) {
    EXPECT_EQ(v5->get_coll_info(context, nccl_plugin::all_reduce, 100, 1, costs, a, p, 0, &channels), 0);
  };
  const Communicator four(4);
  small(four.context(), reinterpret_cast<float**>(table.us), nvls, protocols);
  small(four.context(), reinterpret_cast<float**>(table.us), algorithms, simple);
  small(four.context(), nullptr, algorithms, protocols);
  EXPECT_EQ(table, CostTable());
  EXPECT_EQ(channels, 0);
}

TEST_F(NcclTunerPlugin, WithoutASnapshotNcclChooses) {
  const Communicator two(2);
  const Message said = message();
  EXPECT_EQ(said.level, nccl_plugin::log_info);
  EXPECT_CONTAINS(said.text, "ARBITER_DB names no snapshot");
  EXPECT_TRUE(two.ask(100).untouched());
  const Communicator again(2);
  EXPECT_TRUE(messages.empty()) << "said once";
}

TEST_F(NcclTunerPlugin, SaysWhyAFileIsNotServed) {
  const auto refused = [&](const std::filesystem::path& path, const char* part, std::size_t ranks = 2,
                           std::size_t nodes = 1) {
    ::setenv("ARBITER_DB", path.c_str(), 1);
    const Communicator communicator(ranks, nodes);
    const Message said = message();
    EXPECT_EQ(said.level, nccl_plugin::log_warn);
    EXPECT_CONTAINS(said.text, part);
    EXPECT_CONTAINS(said.text, path.filename().string());
    EXPECT_TRUE(communicator.ask(100).untouched());
  };
  refused(scratch / "missing.db", "does not exist");
  write_file(scratch / "text.db", "not a database at all, but long enough to be looked at as if it were one\n");
  refused(scratch / "text.db", "not an SQLite database");
  write_file(scratch / "empty.db", "");
  refused(scratch / "empty.db", "");
  serve({example_set()});
  const std::string good = read_file(scratch / "snapshot.db");
  write_file(scratch / "short.db", good.substr(0, good.size() / 2));
  refused(scratch / "short.db", "");
  std::string newer = good;
  newer[63] = 99;  // PRAGMA user_version, big-endian at 60
  write_file(scratch / "newer.db", newer);
  refused(scratch / "newer.db", "newer Arbiter");
  DecisionSet none = example_set();
  none.nccl.clear();
  write_snapshot(scratch / "none.db", {none});
  refused(scratch / "none.db", "no NCCL configurations");
  {
    WorkDatabase database = WorkDatabase::open(scratch / "work.db");
    database.begin_run(example_environment(), {});
    database.replace_nccl_choices(example_environment(), example_set().nccl);
  }
  refused(scratch / "work.db", "work database");
  std::filesystem::copy_file(scratch / "snapshot.db", scratch / "other.db");
  refused(scratch / "other.db", "nothing for 3 ranks on 1 nodes, only for these numbers of ranks on nodes: 2 on 1, 4",
          3);
  refused(scratch / "other.db", "nothing for 2 ranks on 2 nodes", 2, 2);
  DecisionSet unknown = example_set();
  unknown.nccl[0].candidate.name = "nccl/classic:algo=quantum,channels=4,proto=ll";
  write_snapshot(scratch / "unknown.db", {unknown});
  refused(scratch / "unknown.db", "algo=quantum");
}

TEST_F(NcclTunerPlugin, AFileMadeToHangOrCrashItsReaderDoesNeither) {
  serve({example_set()});
  const auto good = scratch / "snapshot.db", evil = scratch / "evil.db";
  const auto refused = [&](const char* part) {
    ::setenv("ARBITER_DB", evil.c_str(), 1);
    const Communicator two(2);
    const Message said = message();
    EXPECT_EQ(said.level, nccl_plugin::log_warn);
    EXPECT_CONTAINS(said.text, part);
    EXPECT_TRUE(two.ask(100).untouched());
  };
  write_file(evil, with_shared_pages(good, "nccl_choice"));
  refused("is damaged");
  write_with_json(good, evil, "{\"a\":" + std::string(100'000, '['));
  refused("nested deeper");
}

TEST_F(NcclTunerPlugin, AFileThatMayNotGrowIsAMessageAndNotTheProgramsEnd) {
  // What a crash left is read from a copy, which is all that the plugin ever writes.
  const auto work = scratch / "work.db", crashed = scratch / "crashed.db";
  WorkDatabase database = WorkDatabase::open(work);
  database.replace_decisions(example_environment(), example_decisions(200));
  database.replace_nccl_choices(example_environment(), example_set().nccl);
  for (const char* suffix : {"", "-wal"}) write_file(crashed.native() + suffix, read_file(work.native() + suffix));
  ::setenv("ARBITER_DB", crashed.c_str(), 1);
  EXPECT_EQ(with_file_limit(4096,
                            [] {
                              const Communicator two(2);
                              const std::string text = message().text;
                              std::fprintf(stderr, "child: %s\n", text.c_str());
                              return text.find("no room") != std::string::npos && two.ask(100).untouched() ? 0 : 1;
                            }),
            0);
}

TEST_F(NcclTunerPlugin, SeveralMachinesNeedAName) {
  DecisionSet other = example_set(other_environment());
  other.nccl = {{2, 1, 100, classic("algo=tree,channels=1,proto=simple"), 1, {}, 0}};
  serve({example_set(), other});
  {
    const Communicator two(2);
    const std::string text = message().text;
    EXPECT_CONTAINS(text, "several kinds of machines");
    EXPECT_CONTAINS(text, other_environment().key().substr(0, 12));
    EXPECT_TRUE(two.ask(100).untouched());
  }
  ::setenv("ARBITER_ENVIRONMENT", other_environment().key().substr(0, 8).c_str(), 1);
  EXPECT_EQ(Communicator(2).ask(100).table.cheapest(), Pair(tree, simple));
  messages.clear();
  ::setenv("ARBITER_ENVIRONMENT", "nonsense", 1);
  EXPECT_TRUE(Communicator(2).ask(100).untouched());
  EXPECT_CONTAINS(message().text, "ARBITER_ENVIRONMENT");
}

TEST_F(NcclTunerPlugin, OfOneMachineTheNewestNcclCounts) {
  Environment older = example_environment();
  older.nccl_version = "2.9.8";  // which is older than 2.28.3
  DecisionSet old = example_set(older);
  old.nccl = {{2, 1, 100, classic("algo=tree,channels=1,proto=simple"), 1, {}, 0}};
  serve({old, example_set()});
  EXPECT_EQ(Communicator(2).ask(100).table.cheapest(), Pair(ring, ll));
}

TEST_F(NcclTunerPlugin, SizesThatWereNotMeasuredAreLeftToNccl) {
  DecisionSet gaps = example_set();
  gaps.nccl = {{2, 100, 200, classic("algo=ring,channels=4,proto=ll"), 6, {}, 0},
               {2, 300, 400, classic("algo=tree,channels=4,proto=ll"), 6, {}, 0}};
  serve({gaps});
  const Communicator two(2);
  for (const std::size_t bytes : {1U, 99U, 201U, 299U, 401U}) EXPECT_TRUE(two.ask(bytes).untouched()) << bytes;
  for (const std::size_t bytes : {100U, 200U}) EXPECT_EQ(two.ask(bytes).table.cheapest(), Pair(ring, ll)) << bytes;
  for (const std::size_t bytes : {300U, 400U}) EXPECT_EQ(two.ask(bytes).table.cheapest(), Pair(tree, ll)) << bytes;
}

TEST_F(NcclTunerPlugin, EveryVersionDoesTheSame) {
  serve({example_set()});
  const auto* v4 = static_cast<const TunerV4*>(dlsym(library, "ncclTunerPlugin_v4"));
  const auto* v6 = static_cast<const TunerV6*>(dlsym(library, "ncclTunerPlugin_v6"));
  const auto* v7 = static_cast<const TunerV6*>(dlsym(library, "ncclTunerPlugin_v7"));
  ASSERT_TRUE(v4 != nullptr && v6 != nullptr && v7 != nullptr);
  EXPECT_EQ(v6->get_chunk_size, nullptr) << "NCCL's own chunks";
  void* contexts[3] = {};
  EXPECT_EQ(v4->init(2, 1, log, &contexts[0]), 0);
  EXPECT_EQ(v6->init(&contexts[1], 1, 2, 1, log, nullptr, nullptr), 0);
  EXPECT_EQ(v7->init(&contexts[2], 1, 2, 1, log, nullptr, nullptr), 0);
  int i = 0;
  for (const auto get : {v4->get_coll_info, v6->get_coll_info, v7->get_coll_info}) {
    CostTable table;
    int channels = 0;
    EXPECT_EQ(get(contexts[i++], nccl_plugin::all_reduce, 100, 1, reinterpret_cast<float**>(table.us), algorithms,
                  protocols, 0, &channels),
              0);
    EXPECT_EQ(table.cheapest(), Pair(ring, ll));
    EXPECT_EQ(channels, 4);
  }
  EXPECT_EQ(v4->destroy(contexts[0]), 0);
  EXPECT_EQ(v6->finalize(contexts[1]), 0);
  EXPECT_EQ(v7->finalize(contexts[2]), 0);
}

TEST_F(NcclTunerPlugin, SurvivesNulls) {
  serve({example_set()});
  EXPECT_EQ(v5->init(nullptr, 0, 2, 1, nullptr, nullptr, nullptr), 0);
  EXPECT_EQ(v5->finalize(nullptr), 0);
  CostTable table;
  EXPECT_EQ(v5->get_coll_info(nullptr, nccl_plugin::all_reduce, 100, 1, reinterpret_cast<float**>(table.us), algorithms,
                              protocols, 0, nullptr),
            0);
  EXPECT_EQ(table, CostTable());
  const Communicator silent(2, 1, nullptr);
  EXPECT_FALSE(silent.ask(100).untouched());
  EXPECT_EQ(v5->get_coll_info(silent.context(), nccl_plugin::all_reduce, 100, 1, reinterpret_cast<float**>(table.us),
                              algorithms, protocols, 0, nullptr),
            0);
  EXPECT_EQ(table.cheapest(), Pair(ring, ll));
}

TEST_F(NcclTunerPlugin, TheRuntimeForcesItsOwnCalls) {
  serve({example_set()});
  const std::optional<NcclTuner> tuner = NcclTuner::find();
  ASSERT_TRUE(tuner) << "loaded by somebody else, with local symbols";
  const unsigned long long before = tuner->announced();
  EXPECT_CONTAINS(nccl_tuner_problem(tuner, before), "NCCL_TUNER_PLUGIN is not set");
  const Communicator two(2);
  EXPECT_EQ(nccl_tuner_problem(tuner, before), "");
  EXPECT_CONTAINS(nccl_tuner_problem(std::nullopt, 0), "NCCL_TUNER_PLUGIN is not set");
  {
    const NcclTuner::Request request(*tuner, NcclConfiguration::parse("algo=tree,channels=7,proto=ll128"));
    EXPECT_FALSE(request.applied()) << "NCCL has not asked";
    const auto answer = two.ask(100);
    EXPECT_EQ(answer.table.cheapest(), Pair(tree, ll128));
    EXPECT_EQ(answer.channels, 7);
    EXPECT_TRUE(request.applied());
    EXPECT_EQ(two.ask(std::size_t{1} << 40, nccl_plugin::all_reduce, 3).channels, 7) << "any size, any group";
    EXPECT_TRUE(two.ask(100, 0).untouched()) << "not a broadcast";
    EXPECT_TRUE(request.applied());
    Communicator::Answer absent;
    absent.table.us[tree][ll128] = ignored;
    two.ask(absent, 100);
    EXPECT_EQ(absent.channels, 0);
    EXPECT_FALSE(request.applied()) << "not every time";
  }
  EXPECT_EQ(two.ask(100).table.cheapest(), Pair(ring, ll)) << "the snapshot again";
  const NcclTuner::Request own(*tuner, NcclConfiguration{});
  EXPECT_TRUE(two.ask(100).untouched()) << "the runtime's own choice for NCCL is none, whatever the snapshot says";
  EXPECT_TRUE(own.applied());
}

TEST_F(NcclTunerPlugin, SetsNoChannelsWhereNcclDoesNotLimitThem) {
  const NcclTuner::Request request(*NcclTuner::find(),
                                   NcclConfiguration::parse("algo=collnet_direct,channels=64,proto=simple"));
  const auto answer = Communicator(2).ask(100);
  EXPECT_EQ(answer.table.cheapest(), Pair(collnet_direct, simple));
  EXPECT_EQ(answer.channels, 0);
}

TEST_F(NcclTunerPlugin, ThreadsForceIndependently) {
  serve({example_set()});
  const Communicator two(2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const NcclTuner tuner = *NcclTuner::find();
        const NcclConfiguration wanted{t % 2 == 0 ? NcclAlgorithm::tree : NcclAlgorithm::ring, NcclProtocol::simple,
                                       1 + t};
        if (t == 3) {  // this one forces nothing
          EXPECT_EQ(two.ask(100).channels, 4);
          continue;
        }
        const NcclTuner::Request request(tuner, wanted);
        const auto answer = two.ask(100);
        EXPECT_EQ(answer.channels, 1 + t);
        EXPECT_EQ(answer.table.cheapest(), Pair(t % 2 == 0 ? tree : ring, simple));
        EXPECT_TRUE(request.applied());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(NcclTunerPlugin, CommunicatorsComeAndGoAtTheSameTime) {
  serve({example_set()});
  std::vector<std::thread> threads;
  for (const std::size_t ranks : {2U, 2U, 4U, 5U}) {
    threads.emplace_back([ranks] {
      for (int i = 0; i < 15; ++i) {
        const Communicator communicator(ranks);
        const auto answer = communicator.ask(100);
        EXPECT_EQ(answer.channels, ranks == 2 ? 4 : ranks == 4 ? 16 : 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(messages.size(), 3U) << "for each number of ranks, once";
}

TEST_F(NcclTunerPlugin, StaysLoaded) {
  // NCCL closes the library with its last communicator, and the runtime holds functions of it.
  const std::optional<NcclTuner> tuner = NcclTuner::find();
  dlclose(library);
  ASSERT_TRUE(NcclTuner::find());
  EXPECT_EQ(tuner->announced(), NcclTuner::find()->announced());
  library = dlopen(ARBITER_NCCL_TUNER, RTLD_NOW | RTLD_LOCAL);
}

TEST(NcclTunerProblem, SaysWhatToDo) {
  ::setenv("NCCL_TUNER_PLUGIN", "/opt/theirs/libnccl-tuner-theirs.so", 1);
  EXPECT_CONTAINS(nccl_tuner_problem(std::nullopt, 0), "another plugin ('/opt/theirs/libnccl-tuner-theirs.so')");
  ::setenv("NCCL_TUNER_PLUGIN", "/opt/lib/libarbiter-nccl-tuner.so", 1);
  EXPECT_CONTAINS(nccl_tuner_problem(std::nullopt, 0), "did not open");
  ::unsetenv("NCCL_TUNER_PLUGIN");
  EXPECT_TRUE(is_own_nccl_tuner("/opt/lib/libarbiter-nccl-tuner.so"));
  EXPECT_TRUE(is_own_nccl_tuner("libarbiter-nccl-tuner.so"));
  EXPECT_FALSE(is_own_nccl_tuner("none"));
  EXPECT_FALSE(is_own_nccl_tuner("/opt/libarbiter-nccl-tuner.so/other.so"));
}

}  // namespace
}  // namespace arbiter::test
