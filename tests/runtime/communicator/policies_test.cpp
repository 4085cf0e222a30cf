// What a host program may ask for beside `auto`: nothing at all, few multiprocessors, GPUs of several kinds, and an
// NCCL that has nothing left to do in a capture.
#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>
#include <set>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr int hidden = 64;

/// NCCL as far as a capture is concerned: a message of a size that it has not seen cannot be captured.
class ConnectingNccl final : public NcclCommunicator {
 public:
  explicit ConnectingNccl(Device& device) : device_(device) {}
  void all_reduce(const void*, void*, std::size_t count, Dtype dtype, StreamHandle stream) override {
    std::size_t order = 0;
    for (std::size_t bytes = count * element_bytes(dtype); bytes > 4; bytes /= 4) ++order;
    ++calls;
    if (!seen_.insert(order).second || !device_.capturing(stream)) return;
    throw DeviceError("operation not permitted when stream is capturing");
  }
  bool all_reduce_forced(const NcclConfiguration&, const void*, void*, std::size_t, Dtype, StreamHandle) override {
    return false;
  }
  const std::string& forcing_problem() const noexcept override { return problem_; }
  bool offers(const NcclConfiguration&, Dtype, void*) override { return false; }
  void check() const override {}
  std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t) override { return nullptr; }
  std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t) override { return nullptr; }
  void abort() noexcept override {}
  int calls = 0;

 private:
  Device& device_;
  std::set<std::size_t> seen_;
  std::string problem_ = "not here";
};

/// A device of another compute capability on rank 1.
class OtherDevice final : public test::ForwardingDevice {
 public:
  OtherDevice(std::unique_ptr<Device> inner, int capability) : ForwardingDevice(std::move(inner)) {
    properties_ = ForwardingDevice::properties();
    properties_.compute_capability = capability;
  }
  const DeviceProperties& properties() const noexcept override { return properties_; }

 private:
  DeviceProperties properties_;
};

/// The largest grid that was launched.
class GridDevice final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override {
    most = std::max(most, launch.blocks);
    ForwardingDevice::launch(kernel, launch, arguments, bytes, stream);
  }
  unsigned most = 0;
};

CommunicatorOptions off() {
  CommunicatorOptions options = quiet_options();
  options.variables.off = true;
  options.variables.cache_dir = std::filesystem::temp_directory_path() / "arbiter-test-no-kernels";
  return options;
}

const ProblemFamily plain{"allreduce", Dtype::fp32, hidden, 8, Mode::graph};
const ProblemFamily fused{"allreduce_residual_rmsnorm", Dtype::fp32, hidden, 8, Mode::graph};

TEST(Off, LeavesPlainCallsToNcclAndRefusesTheRest) {
  std::filesystem::remove_all(off().variables.cache_dir);
  run_ranks(2, [](RankContext& context) {
    CommunicatorOptions options = off();
    const auto nccl = std::make_shared<ConnectingNccl>(*context.device);
    options.nccl_communicator = nccl;
    options.warm_nccl = false;
    Communicator communicator(context.bootstrap, context.device, options);
    const std::vector<ProblemFamily> both{plain, fused};
    communicator.prepare(both);
    for (const ProblemFamily& family : both) {
      EXPECT_FALSE(communicator.can_use({family.pattern, Dtype::fp32, hidden, 2, 2, Mode::graph, false}));
    }
    const Tensor<float> data(*context.device, 8 * hidden);
    communicator.all_reduce(data.data(), data.data(), 8 * hidden, Dtype::fp32, nullptr);
    communicator.all_reduce(data.data(), data.data(), 3, Dtype::fp32, nullptr);
    EXPECT_EQ(nccl->calls, 2);
    Call call;
    call.pattern = fused.pattern;
    call.dtype = Dtype::fp32;
    call.hidden = hidden;
    call.tokens = 1;
    const Tensor<float> more(*context.device, 4 * hidden);
    call.input = more.data();
    call.residual_in = more.data() + hidden;
    call.residual_out = more.data() + hidden;
    call.gamma = more.data() + 2 * static_cast<std::ptrdiff_t>(hidden);
    call.norm_out = more.data() + 3 * static_cast<std::ptrdiff_t>(hidden);
    const std::string message = message_of<Unsupported>([&] { communicator.run(call, nullptr); });
    EXPECT_NE(message.find("switched off"), std::string::npos) << message;
    EXPECT_EQ(communicator.workspace_bytes(), 0U);
  });
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(off().variables.cache_dir)) {
    files += entry.is_regular_file() ? 1 : 0;
  }
  EXPECT_EQ(files, 0) << "something was compiled";
}

TEST(Off, WithoutNcclRefusesEverythingAndStartsAllTheSame) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, off());
    const PreparedFamily handle = communicator.prepare(plain);
    const Tensor<float> data(*context.device, hidden);
    CallTensors tensors;
    tensors.input = tensors.output = data.data();
    EXPECT_NE(message_of<Unsupported>([&] { handle.run(tensors, 1, nullptr); }).find("switched off"),
              std::string::npos);
    communicator.check();
  });
}

TEST(Off, OnOneRankOnlyIsADisagreement) {
  std::vector<std::string> messages(2);
  run_ranks(2, [&](RankContext& context) {
    messages[static_cast<std::size_t>(context.rank)] = message_of<Disagreement>([&] {
      Communicator communicator(context.bootstrap, context.device, context.rank == 1 ? off() : quiet_options());
    });
  });
  EXPECT_NE(messages[0].find("rank 1: off"), std::string::npos) << messages[0];
}

TEST(MaxSms, BoundTheGridOfEveryKernel) {
  for (const int sms : {0, 2}) {
    run_ranks(2, [&](RankContext& context) {
      const auto device = std::make_shared<GridDevice>(make_cpu_device(context.rank));
      CommunicatorOptions options = quiet_options();
      options.variables.max_sms = sms;
      Communicator communicator(context.bootstrap, device, options);
      const PreparedFamily handle = communicator.prepare({"allreduce", Dtype::fp32, 1024, 64, Mode::graph});
      const Tensor<float> data(*device, 64 * 1024);
      data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
      CallTensors tensors;
      tensors.input = tensors.output = data.data();
      handle.run(tensors, 64, nullptr);
      for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
      if (sms == 0) {
        EXPECT_GT(device->most, 2U);
      } else {
        EXPECT_LE(device->most, 2U);
      }
    });
  }
}

// A tune under a bound does not decide for those that may use the whole GPU, and theirs do not serve under one.
TEST(MaxSms, IsPartOfTheEnvironment) {
  std::string keys[3];
  for (const int sms : {0, 2, 100}) {
    run_ranks(2, [&](RankContext& context) {
      CommunicatorOptions options = quiet_options();
      options.variables.max_sms = sms;
      const Communicator communicator(context.bootstrap, context.device, options);
      EXPECT_EQ(communicator.environment().sm_count, sms == 2 ? 2 : context.device->properties().sm_count);
      if (context.rank == 0) keys[sms == 0 ? 0 : sms == 2 ? 1 : 2] = communicator.environment().key();
    });
  }
  EXPECT_NE(keys[0], keys[1]);
  EXPECT_EQ(keys[0], keys[2]) << "a bound that binds nothing";
}

TEST(DifferentGpus, AreServedByNccl) {
  run_ranks(3, [](RankContext& context) {
    const auto device = std::make_shared<OtherDevice>(make_cpu_device(context.rank), context.rank == 1 ? 80 : 0);
    CommunicatorOptions options = quiet_options();
    options.nccl_communicator = std::make_shared<ConnectingNccl>(*device);
    Communicator communicator(context.bootstrap, device, options);
    EXPECT_EQ(communicator.prepare(plain).explain(8).candidate.name, "nccl/classic");
    const std::string why = message_of<Unsupported>([&] { communicator.symmetric_provider(); });
    EXPECT_NE(why.find("0 on ranks 0, 2; 80 on rank 1"), std::string::npos) << why;
  });
}

TEST(DifferentGpus, WithoutNcclCannotBe) {
  run_ranks(2, [](RankContext& context) {
    const auto device = std::make_shared<OtherDevice>(make_cpu_device(context.rank), context.rank == 1 ? 80 : 0);
    const std::string why =
        message_of<Unavailable>([&] { Communicator communicator(context.bootstrap, device, quiet_options()); });
    EXPECT_NE(why.find("one compute capability"), std::string::npos) << why;
  });
}

TEST(Messages, OfTheKernelCacheGoToTheHostProgram) {
  std::mutex mutex;
  std::string said;
  ::testing::internal::CaptureStderr();
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.cache_dir = "/proc/no/such/cache";
    options.variables.log = "warn";
    options.log = [&](LogLevel level, std::string_view text) {
      const std::lock_guard lock(mutex);
      EXPECT_EQ(level, LogLevel::warn);
      said += std::string(text) + "\n";
    };
    Communicator communicator(context.bootstrap, context.device, options);
  });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_NE(said.find("[arbiter rank 0] the kernel cache '/proc/no/such/cache' cannot be written"), std::string::npos)
      << said;
}

TEST(WarmNccl, HasNothingLeftToDoInACapture) {
  for (const bool pinned : {false, true}) {
    run_ranks(2, [&](RankContext& context) {
      const auto nccl = std::make_shared<ConnectingNccl>(*context.device);
      CommunicatorOptions options = quiet_options();
      options.nccl_communicator = nccl;
      if (pinned) options.variables.backend = Backend::nccl;
      Communicator communicator(context.bootstrap, context.device, options);
      const PreparedFamily handle = communicator.prepare({"allreduce", Dtype::fp32, 63, 256, Mode::graph});
      const int warm = nccl->calls;
      EXPECT_GE(warm, 5);
      // The same again, and a smaller one, cost nothing.
      communicator.prepare({"allreduce", Dtype::fp32, 63, 128, Mode::eager});
      EXPECT_EQ(nccl->calls, warm);
      const Tensor<float> data(*context.device, 256 * 63);
      CallTensors tensors;
      tensors.input = tensors.output = data.data();
      const StreamHandle stream = context.device->create_stream();
      for (const std::int64_t tokens : {1, 3, 14, 57, 255}) {  // no whole vectors: they go to NCCL
        context.device->begin_capture(stream);
        EXPECT_NO_THROW(handle.run(tensors, tokens, stream)) << tokens;
        context.device->end_capture(stream);
      }
      EXPECT_EQ(nccl->calls, warm + 5);
      context.device->destroy_stream(stream);
    });
  }
}

}  // namespace
}  // namespace arbiter
