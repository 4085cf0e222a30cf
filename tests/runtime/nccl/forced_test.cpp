// On GPUs: NCCL with our tuner plugin takes the algorithm, protocol and channels it is told to take. A process of its
// own, because NCCL decides once for a process which plugin it has.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/cuda_kernels.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

constexpr std::size_t count = 100'000;
const std::vector<std::string> no_failures{"", ""};

class NcclForced : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("NCCL_TUNER_PLUGIN", ARBITER_NCCL_TUNER, 1);
    ARBITER_NEEDS_GPUS(2);
    if (nccl_version().empty()) GTEST_SKIP() << "needs NCCL";
  }
};

/// Every element of the result is the sum over the ranks.
struct Buffers {
  Buffers(Device& of, Bootstrap& bootstrap)
      : device(of), in(of, count * 4), out(of, count * 4), stream(of.create_stream()) {
    const std::vector<float> mine(count, static_cast<float>(bootstrap.rank() + 1));
    device.copy(in.data(), mine.data(), count * 4, stream);
    device.synchronize(stream);
    expected = static_cast<float>(bootstrap.size() * (bootstrap.size() + 1) / 2);
  }
  ~Buffers() { device.destroy_stream(stream); }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  bool right() {
    std::vector<float> sum(count);
    device.copy(sum.data(), out.data(), count * 4, stream);
    device.fill_words(out.data(), 0x7fc00000U, count, stream);
    device.synchronize(stream);
    return sum == std::vector<float>(count, expected);
  }
  Device& device;
  DeviceMemory in, out;
  StreamHandle stream;
  float expected = 0;
};

void reduce_forced(Bootstrap& bootstrap) {
  const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank());
  const std::unique_ptr<NcclCommunicator> nccl = make_nccl_communicator(*device, bootstrap);
  ASSERT_EQ(nccl->forcing_problem(), "");
  Buffers buffers(*device, bootstrap);
  std::set<std::string> offered;
  for (const char* text :
       {"algo=ring,channels=8,proto=simple", "algo=ring,channels=4,proto=ll", "algo=ring,channels=16,proto=ll128",
        "algo=tree,channels=8,proto=simple", "algo=tree,channels=4,proto=ll", "channels=2", "algo=ring,proto=simple"}) {
    const NcclConfiguration wanted = NcclConfiguration::parse(text);
    if (!nccl->offers(wanted, Dtype::fp32, buffers.out.data())) continue;
    offered.insert(text);
    const auto reduce = [&] {
      return nccl->all_reduce_forced(wanted, buffers.in.data(), buffers.out.data(), count, Dtype::fp32, buffers.stream);
    };
    EXPECT_TRUE(reduce()) << text;
    EXPECT_TRUE(buffers.right()) << text;
    device->begin_capture(buffers.stream);
    EXPECT_TRUE(reduce()) << text;
    const std::unique_ptr<Graph> graph = device->end_capture(buffers.stream);
    graph->launch(buffers.stream);
    EXPECT_TRUE(buffers.right()) << text << ", captured";
    nccl->check();
  }
  for (const std::string& text : offered) {
    if (bootstrap.rank() == 0) std::cout << "offered: " << text << "\n";
  }
  EXPECT_TRUE(offered.contains("algo=ring,channels=8,proto=simple"));
  EXPECT_TRUE(offered.contains("channels=2"));
  // NVLink SHARP across nodes does not exist in this protocol.
  const NcclConfiguration absent = NcclConfiguration::parse("algo=nvls_tree,channels=4,proto=ll");
  EXPECT_FALSE(nccl->offers(absent, Dtype::fp32, buffers.out.data()));
  EXPECT_FALSE(
      nccl->all_reduce_forced(absent, buffers.in.data(), buffers.out.data(), count, Dtype::fp32, buffers.stream));
  EXPECT_TRUE(buffers.right()) << "the call is made as NCCL chooses";
  nccl->all_reduce(buffers.in.data(), buffers.out.data(), count, Dtype::fp32, buffers.stream);
  EXPECT_TRUE(buffers.right());
  bootstrap.barrier();
}

TEST_F(NcclForced, TakesRingsAndTreesEagerAndCaptured) { EXPECT_EQ(test::run_threads(2, reduce_forced), no_failures); }

void run_candidates(Bootstrap& given) {
  // The group owns its bootstrap; this one outlives it.
  const std::shared_ptr<Bootstrap> bootstrap(&given, [](Bootstrap*) {});
  const std::shared_ptr<Device> device = make_cuda_device(given.rank());
  GroupOptions options;
  options.variables = test::quiet_options().variables;
  const std::unique_ptr<Group> group = make_group(bootstrap, device, options);
  ASSERT_EQ(group->capabilities().nccl_forcing_reason, "");
  EXPECT_FALSE(group->environment().nccl_variables.contains("NCCL_TUNER_PLUGIN"))
      << "our plugin is no other environment";
  const ProblemFamily family{"allreduce", Dtype::fp32, 1000, 100, Mode::eager};
  std::vector<LoadRequest> requests;
  for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
    if (spec.forced.forces()) requests.push_back({spec, family});
  }
  EXPECT_GE(requests.size(), 24U);
  CandidateSpec absent = CandidateSpec::classic_nccl();
  absent.forced = NcclConfiguration::parse("algo=nvls_tree,channels=4,proto=ll");
  requests.push_back({absent, family});
  const std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
  Buffers buffers(*device, given);
  Call call;
  call.dtype = Dtype::fp32;
  call.hidden = 1000;
  call.tokens = 100;
  call.input = buffers.in.data();
  call.output = buffers.out.data();
  std::size_t ran = 0;
  for (const LoadResult& result : loaded) {
    if (!result.candidate) {
      EXPECT_NE(result.reason.find("NCCL does not offer"), std::string::npos) << result.reason;
      continue;
    }
    EXPECT_EQ(result.candidate->record().numerics, Numerics::nccl);
    result.candidate->enqueue(call, buffers.stream);
    EXPECT_TRUE(buffers.right()) << result.candidate->record().name;
    ++ran;
  }
  EXPECT_FALSE(loaded.back().candidate);
  EXPECT_GE(ran, 8U);
  group->check();
  given.barrier();
}

TEST_F(NcclForced, CandidatesAreEnumeratedLoadedAndRun) {
  EXPECT_EQ(test::run_threads(2, run_candidates), no_failures);
}

void run_a_decision(Bootstrap& given) {
  const std::shared_ptr<Bootstrap> bootstrap(&given, [](Bootstrap*) {});
  const std::shared_ptr<Device> device = make_cuda_device(given.rank());
  Environment here;
  {
    CommunicatorOptions options = test::quiet_options();
    Communicator probe(bootstrap, device, options);
    here = probe.environment();
  }
  Decision decision;
  decision.pattern = "allreduce";
  decision.dtype = Dtype::fp32;
  decision.hidden = 1000;
  decision.world = 2;
  decision.mode = Mode::eager;
  decision.tokens_min = 1;
  decision.tokens_max = 100;
  decision.candidate = {Backend::nccl, "classic", "nccl/classic:algo=ring,channels=4,proto=simple", Numerics::nccl, ""};
  decision.median_us = 1;
  CommunicatorOptions options = test::quiet_options();
  options.decisions = share_decisions({{here, {decision}}});
  Communicator communicator(bootstrap, device, options);
  const ProblemFamily family{"allreduce", Dtype::fp32, 1000, 100, Mode::eager};
  communicator.prepare({&family, 1});
  const Problem problem{"allreduce", Dtype::fp32, 1000, 100, 2, Mode::eager, false};
  EXPECT_EQ(communicator.explain(problem).candidate.name, decision.candidate.name);
  EXPECT_EQ(communicator.explain(problem).rule, Rule::decision);
  Buffers buffers(*device, given);
  communicator.all_reduce(buffers.in.data(), buffers.out.data(), count, Dtype::fp32, buffers.stream);
  EXPECT_TRUE(buffers.right());
}

TEST_F(NcclForced, ADecisionForItIsUsed) { EXPECT_EQ(test::run_threads(2, run_a_decision), no_failures); }

}  // namespace
}  // namespace arbiter
