// What a program does with the C interface, on the CPU device.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "runtime/c/ranks.hpp"

namespace {

using arbiter::test::cpu_options;
using arbiter::test::explained;
using arbiter::test::family_of;
using arbiter::test::Ranks;
using arbiter::test::stats_of;
using arbiter::test::Tensor;

constexpr int hidden = 64;
constexpr std::int64_t max_tokens = 8;

float value(int rank, std::size_t i) { return static_cast<float>(rank + 1) * static_cast<float>(i % 7); }

TEST(CCalls, APlainFamilyReducesThroughItsHandleAndByCount) {
  for (const int size : {1, 2, 3}) {
    const Ranks ranks(size);
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    const float factor = static_cast<float>(size * (size + 1)) / 2;
    ranks.run([&](int rank, arbiter_communicator* communicator) {
      EXPECT_EQ(arbiter_rank(communicator), rank);
      EXPECT_EQ(arbiter_size(communicator), size);
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, max_tokens);
      arbiter_handle* handle = nullptr;
      ASSERT_EQ(arbiter_prepare_handle(communicator, &family, &handle), ARBITER_SUCCESS)
          << arbiter_last_error(communicator);
      arbiter_handle* again = nullptr;
      ASSERT_EQ(arbiter_prepare_handle(communicator, &family, &again), ARBITER_SUCCESS);
      EXPECT_EQ(handle, again);

      const Tensor<float> input(communicator, max_tokens * hidden), output(communicator, max_tokens * hidden);
      for (std::size_t i = 0; i < input.size(); ++i) input[i] = value(rank, i);
      arbiter_tensors tensors = ARBITER_TENSORS_INIT;
      tensors.input = input.data();
      tensors.output = output.data();
      for (const std::int64_t tokens : {std::int64_t{0}, std::int64_t{1}, max_tokens}) {
        ASSERT_EQ(arbiter_run(handle, &tensors, tokens, nullptr), ARBITER_SUCCESS) << arbiter_last_error(communicator);
        for (std::size_t i = 0; i < static_cast<std::size_t>(tokens) * hidden; ++i) {
          ASSERT_EQ(output[i], factor * static_cast<float>(i % 7)) << i;
        }
      }
      // In place, and a count that is no whole number of 16-byte vectors.
      const std::int64_t count = 131;
      ASSERT_EQ(arbiter_all_reduce(communicator, input.data(), input.data(), count, ARBITER_FP32, nullptr),
                ARBITER_SUCCESS)
          << arbiter_last_error(communicator);
      for (std::size_t i = 0; i < input.size(); ++i) {
        const bool summed = i < static_cast<std::size_t>(count);
        ASSERT_EQ(input[i], summed ? factor * static_cast<float>(i % 7) : value(rank, i)) << i;
      }
      EXPECT_EQ(arbiter_check(communicator), ARBITER_SUCCESS);
      EXPECT_EQ(arbiter_workspace_bytes(communicator) > 0, size > 1);
    });
  }
}

TEST(CCalls, AFusedFamilyAddsTheResidualAndNormalises) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([&](int rank, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce_residual_rmsnorm", ARBITER_FP32, hidden, max_tokens);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS) << arbiter_last_error(communicator);
    arbiter_handle* handle = nullptr;
    ASSERT_EQ(arbiter_prepare_handle(communicator, &family, &handle), ARBITER_SUCCESS);
    const std::size_t count = max_tokens * hidden;
    const Tensor<float> input(communicator, count), residual(communicator, count), gamma(communicator, hidden),
        norm(communicator, count);
    for (std::size_t i = 0; i < count; ++i) {
      input[i] = value(rank, i);
      residual[i] = static_cast<float>(i % 3);
    }
    for (std::size_t i = 0; i < hidden; ++i) gamma[i] = 1 + static_cast<float>(i % 4);
    arbiter_tensors tensors = ARBITER_TENSORS_INIT;
    tensors.input = input.data();
    tensors.residual_in = residual.data();
    tensors.residual_out = residual.data();
    tensors.gamma = gamma.data();
    tensors.norm_out = norm.data();
    tensors.epsilon = 1e-3F;
    tensors.weight_bias = 1.0F;
    ASSERT_EQ(arbiter_run(handle, &tensors, max_tokens, nullptr), ARBITER_SUCCESS) << arbiter_last_error(communicator);
    for (std::size_t row = 0; row < max_tokens; ++row) {
      double squares = 0;
      for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
        const float expected = 3 * static_cast<float>(i % 7) + static_cast<float>(i % 3);
        ASSERT_EQ(residual[i], expected) << i;
        squares += static_cast<double>(expected) * expected;
      }
      const double scale = 1 / std::sqrt(squares / hidden + 1e-3);
      for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
        ASSERT_NEAR(norm[i], residual[i] * scale * (gamma[i % hidden] + 1), 1e-4) << i;
      }
    }
  });
}

TEST(CCalls, StatsCountCallsByFamilyCandidateAndRule) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([&](int, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_BF16, hidden, max_tokens);
    arbiter_handle* handle = nullptr;
    ASSERT_EQ(arbiter_prepare_handle(communicator, &family, &handle), ARBITER_SUCCESS);
    EXPECT_NE(stats_of(communicator).find("\"rule\":\"heuristic\",\"count\":0}"), std::string::npos)
        << stats_of(communicator);
    const Tensor<std::uint16_t> data(communicator, max_tokens * hidden);
    arbiter_tensors tensors = ARBITER_TENSORS_INIT;
    tensors.input = data.data();
    tensors.output = data.data();
    for (int call = 0; call < 3; ++call) ASSERT_EQ(arbiter_run(handle, &tensors, 2, nullptr), ARBITER_SUCCESS);
    ASSERT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 128, ARBITER_BF16, nullptr), ARBITER_SUCCESS);
    ASSERT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 3, ARBITER_BF16, nullptr), ARBITER_SUCCESS);
    EXPECT_NE(arbiter_run(handle, nullptr, 2, nullptr), ARBITER_SUCCESS);  // a refused call is none
    const std::string stats = stats_of(communicator);
    EXPECT_NE(stats.find("\"rule\":\"heuristic\",\"count\":4}"), std::string::npos) << stats;
    EXPECT_NE(stats.find("\"rule\":\"fallback\",\"count\":1}"), std::string::npos) << stats;
    EXPECT_NE(stats.find("\"pattern\":\"allreduce\",\"dtype\":\"bf16\",\"hidden\":64,\"max_tokens\":8"),
              std::string::npos)
        << stats;
    const std::string why = explained(communicator, family, 2);
    EXPECT_NE(why.find("\"rule\":\"heuristic\""), std::string::npos) << why;
    const std::string candidate = why.substr(why.find("\"candidate\":"));
    EXPECT_NE(stats.find(candidate.substr(0, candidate.find(','))), std::string::npos) << stats << why;
  });
}

TEST(CCalls, TextsSayHowLongTheyAreAndAreCutOff) {
  const Ranks ranks(1);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  std::size_t needed = 0;
  ASSERT_EQ(arbiter_stats(ranks[0], nullptr, 0, &needed), ARBITER_SUCCESS);
  const std::string whole = stats_of(ranks[0]);
  EXPECT_EQ(whole.size() + 1, needed);
  EXPECT_EQ(whole.front(), '{');
  EXPECT_EQ(whole.back(), '}');
  std::vector<char> small(8, 'x');
  EXPECT_EQ(arbiter_stats(ranks[0], small.data(), small.size(), nullptr), ARBITER_BUFFER_TOO_SMALL);
  EXPECT_EQ(std::string(small.data()), whole.substr(0, 7));
  std::vector<char> exact(needed, 'x');
  EXPECT_EQ(arbiter_stats(ranks[0], exact.data(), exact.size(), nullptr), ARBITER_SUCCESS);
  EXPECT_EQ(std::string(exact.data()), whole);
}

TEST(CCalls, APinnedCandidateIsUsedAndOneThatCannotBeIsNot) {
  std::string name;
  {
    const Ranks ranks(2);
    ranks.run([&](int rank, arbiter_communicator* communicator) {
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, 4096);
      ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
      const std::string why = explained(communicator, family, 4096);
      const std::string key = "\"candidate\":\"";
      const std::size_t start = why.find(key) + key.size();
      if (rank == 0) name = why.substr(start, why.find('"', start) - start);
    });
  }
  for (const bool legal : {true, false}) {
    arbiter_communicator_options options = cpu_options();
    options.candidate = legal ? name.c_str() : "custom/no_such_algorithm";
    options.shipped = ARBITER_OFF;
    const Ranks ranks(2, options);
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    ranks.run([&](int, arbiter_communicator* communicator) {
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, 4096);
      ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS) << arbiter_last_error(communicator);
      const std::string why = explained(communicator, family, 1);
      EXPECT_NE(why.find(legal ? "\"rule\":\"pinned\"" : "\"rule\":\"heuristic\""), std::string::npos) << why;
      EXPECT_TRUE(!legal || why.find("\"candidate\":\"" + name + "\"") != std::string::npos) << why;
    });
  }
}

TEST(CCalls, SharedMemoryIsZeroAndIsReducedInPlace) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([&](int rank, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, max_tokens);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
    const std::size_t count = max_tokens * hidden;
    void* memory = nullptr;
    ASSERT_EQ(arbiter_allocate_symmetric(communicator, count * sizeof(float), &memory), ARBITER_SUCCESS)
        << arbiter_last_error(communicator);
    auto* data = static_cast<float*>(memory);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(data[i], 0.0F);
    for (std::size_t i = 0; i < count; ++i) data[i] = value(rank, i);
    ASSERT_EQ(arbiter_all_reduce(communicator, data, data, static_cast<std::int64_t>(count), ARBITER_FP32, nullptr),
              ARBITER_SUCCESS);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(data[i], 3 * static_cast<float>(i % 7));
    EXPECT_EQ(arbiter_release_shared(communicator, memory), ARBITER_SUCCESS) << arbiter_last_error(communicator);
  });
}

TEST(CCalls, TheLogCallbackGetsWhatWasChosen) {
  struct Said {
    std::mutex mutex;
    std::string text;
  } said;
  arbiter_communicator_options options = cpu_options();
  options.log_level = "info";
  options.log_user = &said;
  options.log = [](void* user, arbiter_log_level level, const char* text) {
    auto& all = *static_cast<Said*>(user);
    const std::lock_guard lock(all.mutex);
    all.text += (level == ARBITER_LOG_INFO ? "info " : "other ") + std::string(text) + "\n";
  };
  {
    const Ranks ranks(2, options);
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    ranks.run([](int, arbiter_communicator* communicator) {
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, max_tokens);
      ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
    });
  }
  EXPECT_NE(said.text.find("info [arbiter rank 0] version 0.1.0, 2 ranks on "), std::string::npos) << said.text;
  EXPECT_NE(said.text.find("NCCL: none ("), std::string::npos) << said.text;
  EXPECT_NE(said.text.find("allreduce fp32 hidden=64 max_tokens=8 graph on 2 ranks:"), std::string::npos) << said.text;
  EXPECT_EQ(said.text.find("rank 1]"), std::string::npos) << "one rank speaks for all\n" << said.text;
}

TEST(CCalls, TheLibraryHasATunerForTheStart) {
  struct Said {
    std::mutex mutex;
    std::string text;
  } said;
  arbiter_communicator_options options = cpu_options();
  options.log_level = "info";
  options.log_user = &said;
  options.log = [](void* user, arbiter_log_level, const char* text) {
    auto& all = *static_cast<Said*>(user);
    const std::lock_guard lock(all.mutex);
    all.text += std::string(text) + "\n";
  };
  std::string folder = (std::filesystem::temp_directory_path() / "arbiter-c-XXXXXX").string();
  options.cache_dir = ::mkdtemp(folder.data());
  for (const std::int64_t milliseconds : {1, -1}) {
    options.startup_tune_ms = milliseconds;  // making a group takes longer: next to nothing is compiled
    const Ranks ranks(2, options);
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    said.text.clear();
    ranks.run([](int, arbiter_communicator* communicator) {
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, hidden, max_tokens);
      ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
    });
    EXPECT_EQ(said.text.find("measuring for 1 ms at most") != std::string::npos, milliseconds == 1) << said.text;
    EXPECT_EQ(said.text.find("decisions were measured in") != std::string::npos, milliseconds == 1) << said.text;
  }
  std::filesystem::remove_all(folder);
}

TEST(CCalls, QuantisedTensorsSayTheirSizes) {
  std::size_t bytes = 1;
  ASSERT_EQ(arbiter_quant_out_bytes("allreduce", 64, 3, &bytes), ARBITER_SUCCESS);
  EXPECT_EQ(bytes, 0U);
  EXPECT_EQ(arbiter_scale_out_bytes("no_such_pattern", 64, 3, &bytes), ARBITER_INVALID_ARGUMENT);
  EXPECT_NE(std::string(arbiter_last_error(nullptr)).find("no_such_pattern"), std::string::npos);
}

}  // namespace
