// The conformance cases on the CPU device: what CI runs of `arbiter verify`.
#include "arbiter/tuner/conformance.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "tuner/misbehaving.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using testing::Misbehaving;

ConformanceReport run(int world, const ConformanceOptions& options,
                      std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
  ConformanceReport report;
  testing::on_devices(world, [&](std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device) {
    GroupOptions group;
    group.variables = testing::test_variables(timeout);
    group.nccl = false;
    const int rank = bootstrap->rank();
    ConformanceReport mine = run_conformance(std::move(bootstrap), std::move(device), group, options);
    if (rank == 0) report = std::move(mine);
  });
  return report;
}

std::string text_of(const CaseResult& item) {
  return item.area + " " + std::string(to_string(item.backend)) + "/" + item.algorithm + " " + item.pattern + " " +
         std::string(to_string(item.dtype)) + " hidden=" + std::to_string(item.hidden) +
         " tokens=" + std::to_string(item.tokens) + " " + item.detail + " [" + item.candidate + "]: " + item.reason;
}

void expect_clean(const ConformanceReport& report) {
  for (const CaseResult& item : report.cases) {
    if (item.status == CaseStatus::failed) ADD_FAILURE() << text_of(item);
    if (item.status == CaseStatus::skipped) {
      EXPECT_FALSE(item.reason.empty()) << text_of(item);
    }
  }
  EXPECT_GT(report.count(CaseStatus::passed), 0U);
}

TEST(Conformance, EveryAreaHasCasesThatPass) {
  // One algorithm, so that the test is quick: the rest is run by `arbiter verify`, as tests of their own. Areas that
  // mix algorithms have none when one is asked for.
  std::vector<std::string> mixed{"grid changes", "several communicators"}, others;
  for (const std::string_view area : conformance_areas()) {
    if (std::find(mixed.begin(), mixed.end(), area) == mixed.end()) others.emplace_back(area);
  }
  for (const auto& [areas, algorithms] : {std::pair{mixed, std::vector<std::string>{}},
                                          std::pair{others, std::vector<std::string>{"trtllm/oneshot_push"}}}) {
    ConformanceOptions options;
    options.areas = areas;
    options.algorithms = algorithms;
    const ConformanceReport report = run(2, options);
    expect_clean(report);
    for (const std::string& area : areas) {
      const auto passed = std::count_if(report.cases.begin(), report.cases.end(), [&](const CaseResult& item) {
        return item.area == area && item.status == CaseStatus::passed;
      });
      EXPECT_GT(passed, 0) << "nothing was checked in area '" << area << "'";
    }
  }
}

TEST(Conformance, ACaseThatFailsOrHangsDoesNotEndTheRun) {
  ConformanceOptions options;
  options.areas = {"numerics"};
  // One algorithm never gets an answer from rank 1, another is wrong there; the rest is sound.
  options.load = [](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
    std::unique_ptr<RunnableCandidate> real = load_candidate(group, spec, family);
    if (spec.algorithm() == "oneshot_push") {
      return std::unique_ptr<RunnableCandidate>(std::make_unique<Misbehaving>(
          std::move(real), [&group](RunnableCandidate& candidate, const CallTensors& tensors, std::int64_t elements,
                                    StreamHandle stream) {
            if (group.rank() != 1) candidate.enqueue(tensors, elements, stream);
          }));
    }
    if (spec.algorithm() == "twoshot_push") {
      return std::unique_ptr<RunnableCandidate>(std::make_unique<Misbehaving>(
          std::move(real), [&group](RunnableCandidate& candidate, const CallTensors& tensors, std::int64_t elements,
                                    StreamHandle stream) {
            candidate.enqueue(tensors, elements, stream);
            group.device().synchronize(stream);
            void* written = tensors.output != nullptr ? tensors.output : tensors.norm_out;
            if (group.rank() == 1) static_cast<unsigned char*>(written)[5] ^= 2;
          }));
    }
    return real;
  };
  const ConformanceReport report = run(2, options, std::chrono::milliseconds(200));
  std::size_t sound = 0;
  for (const CaseResult& item : report.cases) {
    if (item.status == CaseStatus::skipped) continue;
    if (item.algorithm != "oneshot_push" && item.algorithm != "twoshot_push") {
      EXPECT_EQ(item.status, CaseStatus::passed) << text_of(item);
      ++sound;
    } else {
      EXPECT_EQ(item.status, CaseStatus::failed) << text_of(item);
      const char* expected = item.algorithm == "twoshot_push" ? "rank 1: " : "rank 0: ";
      EXPECT_NE(item.reason.find(expected), std::string::npos) << text_of(item);
    }
  }
  EXPECT_GT(sound, 0U);
  EXPECT_GT(report.count(CaseStatus::failed), 5U);
}

TEST(Conformance, FiltersByAreaAndAlgorithm) {
  ConformanceOptions options;
  options.areas = {"numerics"};
  options.algorithms = {"mnnvl/twoshot_push"};
  const ConformanceReport report = run(3, options);
  expect_clean(report);
  for (const CaseResult& item : report.cases) {
    EXPECT_EQ(item.area, "numerics");
    EXPECT_EQ(item.algorithm, "twoshot_push");
    EXPECT_EQ(item.world, 3);
  }
}

TEST(Conformance, RefusesAnUnknownAreaAndSuggestsTheNearest) {
  ConformanceOptions options;
  options.areas = {"numeric"};
  try {
    run(2, options);
    FAIL() << "expected InvalidArgument";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'numerics'"), std::string::npos) << error.what();
  }
  options.areas.clear();
  options.algorithms = {"threeshot_push"};
  EXPECT_THROW(run(2, options), InvalidArgument);
}

TEST(Conformance, JsonHasThePromisedShape) {
  CaseResult item;
  item.area = "plain";
  item.backend = Backend::trtllm;
  item.algorithm = "oneshot_push";
  item.pattern = "allreduce";
  item.world = 2;
  item.hidden = 8;
  item.tokens = 64;
  item.status = CaseStatus::failed;
  item.cpu_only = true;
  item.reason = "rank 1: a \"quoted\" reason";
  ConformanceReport report;
  report.cases = {item};
  const std::string text = conformance_json({report, report}, "arbiter verify");
  for (const char* part :
       {"\"schema\": 1", "\"environment\"", "\"passed\": 0", "\"failed\": 2", "\"skipped\": 0", "\"cpu_only\": true",
        "\"backend\": \"trtllm\"", "\"status\": \"failed\"", "\\\"quoted\\\"", "\"command\": \"arbiter verify\""}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in " << text;
  }
  EXPECT_THROW(conformance_json({}), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
