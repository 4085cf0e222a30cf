// Calls with another language's tensor objects do what calls with pointers do, and refuse what they do not know.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "runtime/c/ranks.hpp"

namespace {

using arbiter::test::family_of;
using arbiter::test::Ranks;
using arbiter::test::Tensor;

constexpr int hidden = 64;
constexpr std::int64_t rows = 3;
constexpr int cpu = 1;

struct DlTensor {  // DLPack 1.0
  void* data;
  std::int32_t device_type, device_id, dimensions;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

/// A language's tensor: what its table says of it.
struct Object {
  explicit Object(void* data, std::vector<std::int64_t> extents = {rows, hidden}) : shape(std::move(extents)) {
    tensor = {data, cpu, 0, static_cast<std::int32_t>(shape.size()), 2, 32, 1, shape.data(), nullptr, 0};
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  std::vector<std::int64_t> shape, strides;
  DlTensor tensor{};
  bool readable = true;
};

int read(void* object, void* tensor) {
  const auto& from = *static_cast<const Object*>(object);
  *static_cast<DlTensor*>(tensor) = from.tensor;
  return from.readable ? 0 : -1;
}

int streams_asked = 0;
int current_stream(std::int32_t, std::int32_t, void** stream) {
  ++streams_asked;
  *stream = nullptr;
  return 0;
}

/// One rank with one family prepared, and tensors for it.
class ObjectCalls : public ::testing::Test {
 protected:
  static constexpr std::size_t count = rows * hidden;

  void SetUp() override {
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    family = family_of("allreduce_residual_rmsnorm", ARBITER_FP32, hidden, rows);
    ASSERT_EQ(arbiter_prepare_handle(ranks[0], &family, &handle), ARBITER_SUCCESS);
    const arbiter_family plain = family_of("allreduce", ARBITER_FP32, hidden, rows);
    ASSERT_EQ(arbiter_prepare(ranks[0], &plain, 1), ARBITER_SUCCESS);
    for (std::size_t i = 0; i < count; ++i) {
      x[i] = static_cast<float>(i % 5);
      residual[i] = static_cast<float>(i % 3);
    }
    for (std::size_t i = 0; i < hidden; ++i) gamma[i] = static_cast<float>(i % 2);
    calls.read = read;
    calls.current_stream = current_stream;
    calls.device_type = cpu;
    calls.communicator = ranks[0];
    calls.families = &family;
    calls.handles = &handle;
    calls.family_count = 1;
    calls.residual = calls.norm = 1;
    streams_asked = 0;
  }

  arbiter_status fused() { return arbiter_run_objects(&calls, &xo, &ro, &so, &go, &no); }

  Ranks ranks{1};
  arbiter_family family{};
  arbiter_handle* handle = nullptr;
  Tensor<float> x{ranks[0], count}, residual{ranks[0], count}, sum{ranks[0], count}, norm{ranks[0], count},
      gamma{ranks[0], hidden};
  Object xo{x.data()}, ro{residual.data()}, so{sum.data()}, no{norm.data()}, go{gamma.data(), {hidden}};
  arbiter_object_calls calls = ARBITER_OBJECT_CALLS_INIT;
};

TEST_F(ObjectCalls, DoWhatCallsWithPointersDo) {
  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  const Tensor<float> expected_sum(ranks[0], count), expected_norm(ranks[0], count);
  tensors.input = x.data();
  tensors.residual_in = residual.data();
  tensors.residual_out = expected_sum.data();
  tensors.gamma = gamma.data();
  tensors.norm_out = expected_norm.data();
  tensors.epsilon = 0.5F;
  tensors.weight_bias = 1;
  ASSERT_EQ(arbiter_run(handle, &tensors, rows, nullptr), ARBITER_SUCCESS) << arbiter_last_error(ranks[0]);
  calls.epsilon = 0.5F;
  calls.weight_bias = 1;
  ASSERT_EQ(fused(), ARBITER_SUCCESS) << arbiter_last_error(ranks[0]);
  EXPECT_EQ(streams_asked, 1);
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(sum[i], expected_sum[i]) << i;
    ASSERT_EQ(norm[i], expected_norm[i]) << i;
  }
  calls.stream_given = 1;
  ASSERT_EQ(arbiter_run_objects(&calls, &xo, &ro, &ro, &go, &no), ARBITER_SUCCESS);  // the residual in place
  EXPECT_EQ(streams_asked, 1);
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(residual[i], expected_sum[i]) << i;
}

TEST_F(ObjectCalls, ThePlainSumOfAnyShapeAndInPlace) {
  ASSERT_EQ(arbiter_all_reduce_objects(&calls, &xo, &so), ARBITER_SUCCESS) << arbiter_last_error(ranks[0]);
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(sum[i], x[i]) << i;
  Object flat(x.data(), {131});
  ASSERT_EQ(arbiter_all_reduce_objects(&calls, &flat, &flat), ARBITER_SUCCESS);
  EXPECT_EQ(arbiter_all_reduce_objects(&calls, &flat, &so), ARBITER_INVALID_ARGUMENT);
}

TEST_F(ObjectCalls, APlaceInsideAnAllocationIsWhereItIs) {
  Object second(x.data(), {1, hidden});
  second.tensor.byte_offset = hidden * sizeof(float);
  Object target(sum.data(), {1, hidden});
  ASSERT_EQ(arbiter_all_reduce_objects(&calls, &second, &target), ARBITER_SUCCESS);
  for (std::size_t i = 0; i < hidden; ++i) ASSERT_EQ(sum[i], x[hidden + i]) << i;
}

TEST_F(ObjectCalls, TheFirstFamilyWithRoomServes) {
  const arbiter_family larger = family_of("allreduce_residual_rmsnorm", ARBITER_FP32, hidden, 2 * rows);
  arbiter_handle* larger_handle = nullptr;
  ASSERT_EQ(arbiter_prepare_handle(ranks[0], &larger, &larger_handle), ARBITER_SUCCESS);
  const arbiter_family families[] = {family_of("allreduce_residual_rmsnorm", ARBITER_FP32, hidden, 1),
                                     family_of("allreduce_residual_rmsnorm", ARBITER_BF16, hidden, 2 * rows),
                                     family_of("allreduce_residual_rmsnorm", ARBITER_FP32, 2 * hidden, 2 * rows),
                                     larger};
  arbiter_handle* const handles[] = {nullptr, nullptr, nullptr, larger_handle};
  calls.families = families;
  calls.handles = handles;
  calls.family_count = 3;
  EXPECT_EQ(fused(), ARBITER_INVALID_ARGUMENT);
  calls.family_count = 4;
  EXPECT_EQ(fused(), ARBITER_SUCCESS) << arbiter_last_error(ranks[0]);
}

TEST_F(ObjectCalls, ExtentsOfOneMayHaveAnyStride) {
  Object one(x.data(), {1, rows, 1, hidden});
  one.strides = {7, hidden, 9, 1};
  one.tensor.strides = one.strides.data();
  EXPECT_EQ(arbiter_all_reduce_objects(&calls, &one, &so), ARBITER_SUCCESS) << arbiter_last_error(ranks[0]);
}

TEST_F(ObjectCalls, WhatIsNotSuchACallLaunchesNothing) {
  ASSERT_EQ(fused(), ARBITER_SUCCESS);
  const float before = sum[0];
  x[0] += 1000;
  Object* const all[] = {&xo, &ro, &so, &no, &go};
  const auto refused = [&](const char* why) {
    EXPECT_EQ(fused(), ARBITER_INVALID_ARGUMENT) << why;
    EXPECT_EQ(sum[0], before) << why;
  };
  for (Object* object : all) {
    const DlTensor good = object->tensor;
    std::vector<std::int64_t> strides(object->shape.size(), 2);
    object->tensor.strides = strides.data();
    refused("strides");
    object->tensor = good;
    object->tensor.device_type = 2;
    refused("another kind of device");
    object->tensor = good;
    object->tensor.code = 0;
    refused("integers");
    object->tensor = good;
    object->tensor.bits = 64;
    refused("fp64");
    object->tensor = good;
    object->tensor.lanes = 2;
    refused("vectors");
    object->tensor = good;
    ++object->shape[0];
    refused("another shape");
    --object->shape[0];
    object->readable = false;
    refused("not readable");
    object->readable = true;
  }
  for (Object* object : {&ro, &so, &no, &go}) {
    object->tensor.device_id = 1;
    refused("on another device than the first");
    object->tensor.device_id = 0;
  }
  calls.device_id = 5;
  refused("not on the communicator's device");
  calls.device_id = -1;
  Object absent(nullptr);
  calls.absent = &absent;
  EXPECT_EQ(arbiter_run_objects(&calls, &xo, &absent, &absent, &go, &no), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_run_objects(&calls, &xo, &ro, &so, nullptr, &no), ARBITER_INVALID_ARGUMENT);
  calls.norm = 0;
  refused("more than the pattern has");
  calls.norm = 1;
  calls.residual = 0;
  refused("more than the pattern has");
  calls.residual = 1;
  calls.struct_size -= 8;
  refused("a struct of another age");
  calls.struct_size += 8;
  EXPECT_EQ(arbiter_run_objects(nullptr, &xo, &ro, &so, &go, &no), ARBITER_INVALID_ARGUMENT);
  calls.current_stream = nullptr;
  refused("no stream");
  EXPECT_EQ(sum[0], before);
}

}  // namespace
