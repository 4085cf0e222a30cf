// The link model finds bugs: kernels that are broken on purpose, by small changes of the real templates, must fail
// within a bounded number of seeds, say which stores were to blame, and fail the same way again. (The same seeds pass
// with the kernels as they are: link_protocols_test.cpp.)
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/tuner/link_check.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

struct Change {
  const char* file;
  const char* from;
  const char* to;
};
struct Broken {
  const char* name;
  Backend backend;
  const char* algorithm;
  std::vector<Change> changes;
  std::vector<const char*> told;  ///< the explanation has one of these
};

constexpr std::uint64_t most_seeds = 500;

/// The built-in templates with changes. Fails the test when a template no longer has what is to be changed.
class ChangedTemplates {
 public:
  explicit ChangedTemplates(const std::vector<Change>& changes)
      : map_(std::make_shared<TemplateMap>(builtin_templates())) {
    for (const Change& change : changes) {
      std::string text(map_->at(change.file));
      const std::size_t at = text.find(change.from);
      if (at == std::string::npos) {
        ADD_FAILURE() << change.file << " no longer contains '" << change.from << "': break it in the new way";
        continue;
      }
      texts_.push_back(text.replace(at, std::string(change.from).size(), change.to));
      (*map_)[change.file] = texts_.back();
    }
  }
  const std::shared_ptr<TemplateMap>& map() const { return map_; }

 private:
  std::list<std::string> texts_;
  std::shared_ptr<TemplateMap> map_;
};

class BrokenKernels : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenKernels, AreFoundAndExplained) {
  const Broken& broken = GetParam();
  const ChangedTemplates templates(broken.changes);
  ASSERT_FALSE(HasFailure());
  LinkCheckOptions options;
  options.backend = broken.backend;
  options.algorithm = broken.algorithm;
  options.world = 3;
  options.variables = test::quiet_group_options().variables;
  options.templates = templates.map();
  options.alone = true;
  LinkCheck check(options);
  for (std::uint64_t seed = 1; seed <= most_seeds; ++seed) {
    const std::string wrong = check.run(seed);
    if (wrong.empty()) continue;
    const bool told = std::any_of(broken.told.begin(), broken.told.end(),
                                  [&](const char* text) { return wrong.find(text) != std::string::npos; });
    EXPECT_TRUE(told) << wrong;
    EXPECT_NE(wrong.find("seed " + std::to_string(seed) + ":"), std::string::npos) << wrong;
    EXPECT_EQ(check.run(seed), wrong) << "a seed replays";
    EXPECT_EQ(LinkCheck(options).run(seed), wrong) << "also elsewhere";
    RecordProperty("seed", std::to_string(seed));
    return;
  }
  FAIL() << most_seeds << " seeds found nothing";
}

// Words of the explanations.
constexpr const char* never_seen = "which arrived later and hid it";
constexpr const char* unread = "before anybody had read that";
constexpr const char* on_its_way = "nothing orders it before the load";
constexpr const char* another_call = "had stored for another call";
constexpr const char* in_vain = "waits in vain at rank ";

const Change no_push_fence{"push.h", "      fence_system();\n", ""};
const Change own_epoch_only{"layout.h",
                            "for (unsigned block = block_index() + grid_blocks() * thread_index(); block < max_blocks;",
                            "for (unsigned block = block_index(); block == block_index();"};
const Change no_wait{"run.h", "  grid_dependency_wait();\n", ""};

INSTANTIATE_TEST_SUITE_P(
    , BrokenKernels,
    ::testing::Values(
        Broken{"payload_not_sanitised",
               Backend::trtllm,
               "oneshot_push",
               {{"algorithms/oneshot_push.cuh", "sanitised(tile[k][0])", "tile[k][0]"}},
               {in_vain}},
        Broken{"scatter_not_sanitised",
               Backend::mnnvl,
               "twoshot_push",
               {{"algorithms/twoshot_push.cuh", "sanitised(tile[k][owner])", "tile[k][owner]"}},
               {in_vain}},
        Broken{"rows_scatter_not_sanitised",
               Backend::mnnvl,
               "twoshot_rows",
               {{"algorithms/twoshot_rows.cuh", "sanitised(tile[k][0])", "tile[k][0]"}},
               {in_vain}},
        Broken{"rows_without_fence", Backend::mnnvl, "twoshot_rows", {no_push_fence}, {never_seen, unread}},
        Broken{"rows_with_three_buffers",
               Backend::mnnvl,
               "twoshot_rows",
               {{"args.h", "push_buffers = 4", "push_buffers = 3"}},
               {never_seen, unread, another_call}},
        Broken{"rows_trigger_and_do_not_wait",
               Backend::mnnvl,
               "twoshot_rows",
               {no_wait},
               {"expected", on_its_way, never_seen, unread, another_call, in_vain}},
        Broken{"codes_not_sanitised",
               Backend::trtllm,
               "oneshot_push_fp8",
               {{"fp8_wire.h", "word == sentinel_word ? 0u : word", "word"}},
               {in_vain}},
        Broken{"codes_with_two_buffers",
               Backend::mnnvl,
               "twoshot_push_fp8",
               {{"args.h", "push_buffers = 4", "push_buffers = 2"}},
               {never_seen, unread, another_call}},
        Broken{"codes_trigger_and_do_not_wait",
               Backend::mnnvl,
               "twoshot_push_fp8",
               {no_wait},
               {"expected", on_its_way, never_seen, unread, another_call, in_vain}},
        // The scales of a warp are not waited for.
        Broken{"scales_not_waited_for",
               Backend::trtllm,
               "oneshot_push_fp8",
               {{"algorithms/oneshot_push_fp8.cuh", "wanted[r] = carries(from.arguments, row[0], k);",
                 "wanted[r] = carries(from.arguments, row[0], k) && thread_index() % 32 != scale_lane;"}},
               {"expected", never_seen, unread}},
        // Scales and codes share a slot.
        Broken{
            "scales_in_the_slot_of_codes",
            Backend::mnnvl,
            "twoshot_push_fp8",
            {{"fp8_wire.h", "lane == scale_lane ? 32 / lanes_per_wire_vector : lane", "lane == scale_lane ? 1 : lane"}},
            {"expected", never_seen, unread, in_vain}},
        // The sum may start from -0, which is neutral too, but then the result can look like nothing.
        Broken{"broadcast_not_sanitised",
               Backend::mnnvl,
               "twoshot_push",
               {{"numbers.mustache", "x.at[i] = 0.0f;", "x.at[i] = -0.0f;"},
                {"numbers.mustache", "return sanitised(pack(total));", "return pack(total);"}},
               {in_vain}},
        Broken{"vector_taken_for_atomic",
               Backend::trtllm,
               "oneshot_push",
               {{"numbers.mustache",
                 "v.word[0] != sentinel_word && v.word[1] != sentinel_word && v.word[2] != sentinel_word &&\n"
                 "         v.word[3] != sentinel_word;",
                 "v.word[0] != sentinel_word;"}},
               {"expected"}},
        Broken{"oneshot_without_fence", Backend::trtllm, "oneshot_push", {no_push_fence}, {never_seen, unread}},
        Broken{"twoshot_without_fence", Backend::mnnvl, "twoshot_push", {no_push_fence}, {never_seen, unread}},
        Broken{"two_buffers",
               Backend::trtllm,
               "oneshot_push",
               {{"args.h", "push_buffers = 4", "push_buffers = 2"}},
               {never_seen, unread, another_call}},
        Broken{"three_buffers_of_one_iteration",
               Backend::trtllm,
               "oneshot_push",
               {{"args.h", "push_buffers = 4", "push_buffers = 3"},
                {"push.h", "in_register(a.push_iterations)", "in_register(1u)"},
                {"push.h", "first + constants.push_epochs", "first + constants.iterations"}},
               {never_seen, unread, another_call}},
        Broken{"push_epochs_of_other_blocks_not_advanced",
               Backend::trtllm,
               "oneshot_push",
               {own_epoch_only},
               {in_vain, never_seen, unread, another_call}},
        Broken{"wrong_slot_polled",
               Backend::trtllm,
               "oneshot_push",
               {{"push.h", "load_polled(arguments.workspace[kRank] + slot(leg, kRank, peer, k))",
                 "load_polled(arguments.workspace[kRank] + slot(leg, peer, kRank, k))"}},
               {in_vain, "expected"}},
        Broken{"oneshot_triggers_and_does_not_wait",
               Backend::trtllm,
               "oneshot_push",
               {no_wait},
               {on_its_way, never_seen, unread, another_call}},
        Broken{"twoshot_triggers_and_does_not_wait",
               Backend::mnnvl,
               "twoshot_push",
               {no_wait},
               {on_its_way, never_seen, unread, another_call}},
        Broken{"barrier_triggers_and_does_not_wait",
               Backend::trtllm,
               "twoshot_barrier",
               {no_wait},
               {on_its_way, never_seen, unread, another_call}},
        // A slot is re-armed when it is used next, and not when its data has been taken.
        Broken{"rearmed_too_late",
               Backend::trtllm,
               "oneshot_push",
               {{"push.h", "if (comes_by_link(leg, r) && wanted[r]) data[r] = sentinel();",
                 "if (comes_by_link(leg, r) && wanted[r]) data[r] = sentinel();\n"
                 "      if (comes_by_link(leg, r) && wanted[r]) store_symmetric_local(arguments.workspace[kRank] + "
                 "slot(leg, kRank, r, k), sentinel());"}},
               {never_seen, unread}},
        // A slot is re-armed when the first word of its vector has arrived.
        Broken{"rearmed_too_early",
               Backend::trtllm,
               "oneshot_push",
               {{"push.h", "!arrived(data[r])) data[r] = poll(leg, r, k);",
                 "!arrived(data[r])) {\n          data[r] = poll(leg, r, k);\n"
                 "          if (data[r].word[0] != sentinel_word)\n"
                 "            store_symmetric_local(arguments.workspace[kRank] + slot(leg, kRank, r, k), sentinel());\n"
                 "        }"}},
               {never_seen, unread, in_vain}},
        Broken{"barrier_flag_not_released",
               Backend::trtllm,
               "twoshot_barrier",
               {{"barrier.h", "      fence_system();\n      store_release(", "      store_relaxed("}},
               {on_its_way}},
        Broken{"barrier_flag_not_acquired",
               Backend::trtllm,
               "twoshot_barrier",
               {{"barrier.h", "load_acquire(flag)", "load_relaxed(flag)"}},
               {on_its_way}},
        Broken{"barrier_of_one_thread",
               Backend::trtllm,
               "twoshot_barrier",
               {{"barrier.h", "    ++epoch;\n    block_barrier();\n", "    ++epoch;\n"}},
               {on_its_way}}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace arbiter
