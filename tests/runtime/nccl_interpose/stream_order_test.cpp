// Which streams wait for what, without a GPU: StreamOrder on streams that only write down what they are told.
#include "stream_order.hpp"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace arbiter::nccl_interpose {
namespace {

using Log = std::vector<std::string>;

cudaStream_t handle(int number) { return reinterpret_cast<cudaStream_t>(static_cast<std::uintptr_t>(number)); }

/// Handles are numbers; what a handle is now can be changed.
class Recorder final : public StreamCalls {
 public:
  Recorder(Log& log, std::map<cudaStream_t, StreamState>& states) : log_(log), states_(states) {}
  StreamState state(cudaStream_t stream) noexcept override { return states_[stream]; }
  void record(Timeline timeline, cudaStream_t stream) override { log_.push_back("record " + name(timeline, stream)); }
  void wait(cudaStream_t stream, Timeline timeline) override { log_.push_back("wait " + name(timeline, stream)); }
  void wait_for_event() noexcept override { log_.emplace_back("host waits for event"); }
  void wait_for_device() noexcept override { log_.emplace_back("host waits for device"); }

 private:
  std::string name(Timeline timeline, cudaStream_t stream) {
    return (timeline == Timeline::eager ? "eager on " : "captured on ") + std::to_string(states_[stream].stream);
  }
  Log& log_;
  std::map<cudaStream_t, StreamState>& states_;
};

class StreamOrderTest : public ::testing::Test {
 protected:
  StreamOrderTest() {
    for (int i = 1; i <= 3; ++i) states_[handle(i)] = {static_cast<unsigned long long>(10 * i), 0};
  }
  /// What a call of Arbiter's on this handle does beside itself.
  Log ours(int stream) {
    log_.clear();
    captured_ = order_.enter(handle(stream));
    log_.emplace_back("kernel");
    order_.leave(handle(stream));
    return log_;
  }
  Log nccls(int stream) {
    log_.clear();
    looked_ = !order_.pass_again(handle(stream));
    if (looked_) order_.pass(handle(stream));
    return log_;
  }
  void capture(int stream, unsigned long long id) { states_[handle(stream)].capture = id; }

  Log log_;
  std::map<cudaStream_t, StreamState> states_;
  bool captured_ = false;
  bool looked_ = false;  // whether NCCL's last call cost questions
  StreamOrder order_{std::make_unique<Recorder>(log_, states_), [this](cudaStream_t stream) {
                       log_.push_back("follow NCCL on " + std::to_string(states_[stream].stream));
                     }};
};

TEST_F(StreamOrderTest, OneStreamWaitsForNothing) {
  EXPECT_EQ(ours(1), (Log{"kernel", "record eager on 10"}));
  EXPECT_FALSE(captured_);
  EXPECT_EQ(ours(1), (Log{"kernel", "record eager on 10"}));
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_EQ(ours(1), (Log{"kernel", "record eager on 10"}));
}

TEST_F(StreamOrderTest, AnotherStreamWaitsForTheCallBefore) {
  ours(1);
  EXPECT_EQ(ours(2), (Log{"wait eager on 20", "kernel", "record eager on 20"}));
  EXPECT_EQ(ours(2), (Log{"kernel", "record eager on 20"}));
  EXPECT_EQ(ours(1), (Log{"wait eager on 10", "kernel", "record eager on 10"}));
}

TEST_F(StreamOrderTest, AHandleThatCameBackIsAnotherStream) {
  ours(1);
  states_[handle(1)].stream = 11;  // destroyed, and another one created
  EXPECT_EQ(ours(1), (Log{"wait eager on 11", "kernel", "record eager on 11"}));
}

TEST_F(StreamOrderTest, NcclAndArbiterWaitForEachOther) {
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_EQ(ours(2), (Log{"follow NCCL on 20", "kernel", "record eager on 20"}));
  EXPECT_EQ(nccls(3), Log{"wait eager on 30"});
  EXPECT_EQ(nccls(1), Log{}) << "NCCL keeps its own calls in order";
  EXPECT_EQ(ours(1), (Log{"kernel", "record eager on 10"})) << "behind NCCL's on the same stream";
}

TEST_F(StreamOrderTest, ACaptureHasAnOrderOfItsOwn) {
  ours(1);
  capture(2, 7);
  EXPECT_EQ(ours(2), (Log{"kernel", "record captured on 20"})) << "an eager call is no part of a graph";
  EXPECT_TRUE(captured_);
  capture(3, 7);  // forked from it
  EXPECT_EQ(ours(3), (Log{"wait captured on 30", "kernel", "record captured on 30"}));
  EXPECT_EQ(nccls(2), Log{"wait captured on 20"});
  EXPECT_EQ(ours(3), (Log{"follow NCCL on 30", "kernel", "record captured on 30"}));
  capture(2, 0);
  capture(3, 0);
  EXPECT_EQ(ours(2), (Log{"wait eager on 20", "kernel", "record eager on 20"})) << "behind the eager call on 1";
  capture(3, 8);
  EXPECT_EQ(ours(3), (Log{"kernel", "record captured on 30"})) << "another graph";
}

TEST_F(StreamOrderTest, CallsOfNcclAloneAreLookedAtOnce) {
  nccls(1);
  EXPECT_TRUE(looked_);
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_FALSE(looked_);
  nccls(2);
  EXPECT_TRUE(looked_) << "another stream";
  nccls(2);
  EXPECT_FALSE(looked_);
  EXPECT_EQ(ours(2), (Log{"kernel", "record eager on 20"}));
  EXPECT_EQ(nccls(1), Log{"wait eager on 10"});
  nccls(1);
  EXPECT_FALSE(looked_);
  EXPECT_EQ(ours(3), (Log{"follow NCCL on 30", "kernel", "record eager on 30"}));
}

TEST_F(StreamOrderTest, AHandleThatCameBackBehindCallsOfNcclAloneIsAnotherStream) {
  nccls(1);
  states_[handle(1)].stream = 11;
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_FALSE(looked_);
  EXPECT_EQ(ours(1), (Log{"follow NCCL on 11", "kernel", "record eager on 11"}));
}

TEST_F(StreamOrderTest, CallsOfNcclThatWereNotLookedAtAreFollowedInWhateverCapture) {
  nccls(1);
  capture(1, 7);
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_FALSE(looked_);
  capture(2, 7);
  EXPECT_EQ(ours(2), (Log{"follow NCCL on 20", "kernel", "record captured on 20"}));
}

TEST_F(StreamOrderTest, ArbiterOnTheStreamOfNcclsCaptureWaitsForNothing) {
  nccls(1);
  capture(1, 7);
  nccls(1);
  EXPECT_FALSE(looked_);
  EXPECT_EQ(ours(1), (Log{"kernel", "record captured on 10"}));
}

TEST_F(StreamOrderTest, EagerCallsOfNcclBehindACaptureAreFollowed) {
  ours(2);  // eagerly
  EXPECT_EQ(nccls(2), Log{});
  capture(1, 7);
  nccls(1);
  EXPECT_TRUE(looked_);
  capture(1, 0);
  EXPECT_EQ(nccls(1), Log{});
  EXPECT_FALSE(looked_) << "no call of Arbiter's is left to wait for";
  EXPECT_EQ(ours(2), (Log{"follow NCCL on 20", "kernel", "record eager on 20"})) << "behind what NCCL does on 1";
}

TEST_F(StreamOrderTest, WhatIsLeftOfArbitersInAnotherTimelineIsLookedAt) {
  ours(2);
  capture(1, 7);
  nccls(1);
  capture(1, 0);
  EXPECT_EQ(nccls(1), Log{"wait eager on 10"}) << "behind the eager call on 2";
  EXPECT_TRUE(looked_);
}

TEST_F(StreamOrderTest, TheHostWaitsForWhatThereWas) {
  order_.finish();
  EXPECT_EQ(log_, Log{});
  ours(1);
  log_.clear();
  order_.finish();
  EXPECT_EQ(log_, Log{"host waits for event"});
  capture(1, 5);
  ours(1);
  log_.clear();
  order_.finish();
  EXPECT_EQ(log_, (Log{"host waits for event", "host waits for device"}));
}

// What the calls do to CUDA itself; needs a GPU.
TEST(CudaStreamCalls, ACaptureStaysValid) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "needs a GPU";
  std::array<cudaStream_t, 2> streams{};
  for (cudaStream_t& stream : streams)
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  cudaEvent_t fork = nullptr;
  cudaEvent_t join = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&join, cudaEventDisableTiming), cudaSuccess);
  StreamOrder order(make_cuda_stream_calls(0), [](cudaStream_t) {});
  const auto call = [&](cudaStream_t stream, bool captured) {
    EXPECT_EQ(order.enter(stream), captured);
    order.leave(stream);
  };
  call(streams[0], false);
  call(streams[1], false);
  call(nullptr, false);
  for (const cudaStreamCaptureMode mode : {cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeGlobal}) {
    ASSERT_EQ(cudaStreamBeginCapture(streams[0], mode), cudaSuccess);
    call(streams[0], true);
    EXPECT_TRUE(is_capturing(streams[0]));
    ASSERT_EQ(cudaEventRecord(fork, streams[0]), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(streams[1], fork, 0), cudaSuccess);
    call(streams[1], true);
    order.pass(streams[0]);
    call(streams[0], true);
    ASSERT_EQ(cudaEventRecord(join, streams[1]), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(streams[0], join, 0), cudaSuccess);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(streams[0], &graph), cudaSuccess);
    if (graph != nullptr) cudaGraphDestroy(graph);
    call(streams[1], false);
  }
  order.finish();
  for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
}

}  // namespace
}  // namespace arbiter::nccl_interpose
