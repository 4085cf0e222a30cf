#include "verifier.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"
#include "followed_comm.hpp"
#include "real_library.hpp"

namespace arbiter::nccl_interpose {
namespace {

constexpr int nccl_max = 2;
constexpr int nccl_min = 3;

/// Half a unit in the last place of 1.
double rounding(Dtype dtype) { return std::ldexp(1.0, dtype == Dtype::bf16 ? -8 : dtype == Dtype::fp16 ? -11 : -24); }
/// Sums up to here cannot overflow.
double largest_finite(Dtype dtype) { return dtype == Dtype::fp16 ? 65504.0 : 3.38e38; }
/// Distance of neighbours among the smallest numbers.
double smallest_step(Dtype dtype) { return std::ldexp(1.0, dtype == Dtype::fp16 ? -24 : -133); }

double value(const std::vector<unsigned char>& data, std::size_t index, Dtype dtype) {
  if (dtype == Dtype::fp32) {
    float number = 0;
    std::memcpy(&number, data.data() + index * sizeof(number), sizeof(number));
    return number;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, data.data() + index * sizeof(bits), sizeof(bits));
  if (dtype == Dtype::bf16) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float number = 0;
    std::memcpy(&number, &wide, sizeof(number));
    return number;
  }
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  double number = 0;
  if (exponent == 31) {
    number = fraction == 0 ? HUGE_VAL : std::nan("");
  } else {
    number = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -number : number;
}

}  // namespace

Verifier::Verifier(std::shared_ptr<HostComm> host, std::shared_ptr<Device> device, std::size_t message_bytes)
    : host_(std::move(host)),
      device_(std::move(device)),
      sum_(*device_, message_bytes),
      largest_(*device_, message_bytes),
      smallest_(*device_, message_bytes),
      staging_(device_->allocate_host_visible(message_bytes)) {}

Verifier::~Verifier() { device_->release_host_visible(staging_); }

void Verifier::expect(const TakenCall& call) {
  const std::pair<int, DeviceMemory*> wanted[] = {{nccl_sum, &sum_}, {nccl_max, &largest_}, {nccl_min, &smallest_}};
  for (const auto& [operation, memory] : wanted) {
    const int result = real_library().nccl->all_reduce(call.input, memory->data(), call.count, nccl_type(call.dtype),
                                                       operation, host_->comm, call.stream);
    if (result != nccl_success && result != nccl_in_progress) throw NcclFailure("ncclAllReduce", result);
  }
}

std::string Verifier::compare(const TakenCall& call) {
  const std::size_t bytes = call.count * element_bytes(call.dtype);
  const auto fetch = [&](const void* memory) {
    // Not to wait inside the driver: other ranks of this process need it to get their kernels under way.
    device_->copy(staging_, memory, bytes, call.stream);
    while (!device_->finished(call.stream)) std::this_thread::sleep_for(std::chrono::microseconds(20));
    const auto* const begin = static_cast<const unsigned char*>(staging_);
    return std::vector<unsigned char>(begin, begin + bytes);
  };
  const std::vector<unsigned char> ours = fetch(call.output);
  const std::vector<unsigned char> expected = fetch(sum_.data());
  const std::vector<unsigned char> largest = fetch(largest_.data());
  const std::vector<unsigned char> smallest = fetch(smallest_.data());
  const double ranks = host_->size;
  std::size_t wrong = 0;
  std::string first;
  for (std::size_t i = 0; i < call.count; ++i) {
    const double got = value(ours, i, call.dtype);
    const double want = value(expected, i, call.dtype);
    const double most =
        ranks * std::max(std::abs(value(largest, i, call.dtype)), std::abs(value(smallest, i, call.dtype)));
    // Both round, in different orders, at most once for every rank, and no partial sum is larger than `most`.
    const double allowed = 2 * ranks * rounding(call.dtype) * most + 2 * ranks * smallest_step(call.dtype);
    if (std::isnan(got) && std::isnan(want)) continue;
    if (std::abs(got - want) <= allowed || got == want) continue;
    if (!(most < largest_finite(call.dtype))) continue;  // one order may overflow where the other does not
    if (wrong++ == 0) first = fmt::format("element {} is {}, and NCCL's {}; {:.3g} is rounding", i, got, want, allowed);
  }
  if (wrong == 0) return {};
  return fmt::format("{} of {} elements of a {} sum differ: {}", wrong, call.count, to_string(call.dtype), first);
}

}  // namespace arbiter::nccl_interpose
