#include "cpu/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

// What one block of a current GPU can have.
constexpr std::size_t shared_bytes_per_block = 227UL * 1024;
constexpr int largest_portable_cluster = 8;

void require(bool condition, const std::string& message) {
  if (!condition) throw InvalidArgument(message);
}

}  // namespace

CpuDevice::CpuDevice(int rank, const CpuDeviceOptions& options)
    : rank_(rank), options_(options), memory_(fmt::format("cpu:{}", rank)) {
  require(rank >= 0, fmt::format("a CPU device needs a rank of 0 or more, not {}", rank));
  require(options.sm_count >= 1 && options.sm_count <= 4096,
          fmt::format("sm_count of a CPU device must be 1 to 4096, not {}", options.sm_count));
  require(
      options.max_threads_per_block >= 1 && options.max_threads_per_block <= 1024,
      fmt::format("max_threads_per_block of a CPU device must be 1 to 1024, not {}", options.max_threads_per_block));
  properties_.name = "CPU";
  properties_.unique_id = fmt::format("cpu:{}", rank);
  properties_.ordinal = rank;
  properties_.compute_capability = 0;
  properties_.sm_count = options.sm_count;
  properties_.max_threads_per_block = options.max_threads_per_block;
  properties_.max_cluster = largest_portable_cluster;
  properties_.shared_bytes_per_block = shared_bytes_per_block;
  properties_.memory_bytes = total_host_memory();
  properties_.compile_target = "cpu";
  if (options.link != nullptr) {
    link_ = std::dynamic_pointer_cast<CpuLink>(options.link);
    require(link_ != nullptr, "the link model of a CPU device must come from make_cpu_link_model");
    link_->join(rank);
  }
}

CpuDevice::~CpuDevice() {
  if (link_ != nullptr) link_->leave(rank_);
}

// ---- Streams ----

CpuStream* CpuDevice::find(StreamHandle handle) noexcept {
  const auto found = std::find_if(streams_.begin(), streams_.end(), [&](const auto& s) { return s.get() == handle; });
  return found == streams_.end() ? nullptr : found->get();
}

void CpuDevice::issue(StreamHandle handle, std::span<const CpuOperation> operations) {
  CpuStream* stream = find(handle);
  if (stream != nullptr && stream->capturing) {
    stream->recorded.insert(stream->recorded.end(), operations.begin(), operations.end());
  } else {
    run(operations);
  }
}

CpuIssue CpuDevice::issuer() {
  return [this](StreamHandle stream, std::span<const CpuOperation> operations) { issue(stream, operations); };
}

StreamHandle CpuDevice::create_stream() {
  streams_.push_back(std::make_unique<CpuStream>());
  return streams_.back().get();
}

void CpuDevice::destroy_stream(StreamHandle handle) noexcept {
  std::erase_if(streams_, [&](const auto& stream) { return stream.get() == handle; });
}

void CpuDevice::synchronize(StreamHandle handle) {
  require(!capturing(handle), "a stream cannot be synchronized while it is captured; end the capture first");
}

bool CpuDevice::finished(StreamHandle handle) {
  synchronize(handle);
  return true;
}

bool CpuDevice::capturing(StreamHandle handle) {
  const CpuStream* stream = find(handle);
  return stream != nullptr && stream->capturing;
}

void CpuDevice::begin_capture(StreamHandle handle) {
  CpuStream* stream = find(handle);
  require(stream != nullptr, "only a stream made by create_stream can be captured, not the default stream");
  require(!stream->capturing, "the stream is already being captured");
  stream->capturing = true;
  stream->recorded.clear();
}

std::unique_ptr<Graph> CpuDevice::end_capture(StreamHandle handle) {
  CpuStream* stream = find(handle);
  require(stream != nullptr && stream->capturing, "the stream is not being captured; call begin_capture first");
  stream->capturing = false;
  return std::make_unique<CpuGraph>(std::move(stream->recorded), issuer());
}

std::unique_ptr<Event> CpuDevice::create_event() { return std::make_unique<CpuEvent>(issuer()); }

// ---- Memory operations ----

void CpuDevice::copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  require(destination != nullptr && source != nullptr,
          fmt::format("copy of {} bytes needs two pointers that are not null", bytes));
  const CpuOperation operation{nullptr, [=] { std::memmove(destination, source, bytes); }};
  issue(stream, {&operation, 1});
}

void CpuDevice::fill_words(void* destination, std::uint32_t value, std::size_t words, StreamHandle stream) {
  if (words == 0) return;
  require(destination != nullptr && reinterpret_cast<std::uintptr_t>(destination) % sizeof(value) == 0,
          "fill_words needs a destination that is a multiple of 4 and not null");
  const CpuOperation operation{nullptr, [=] { std::fill_n(static_cast<std::uint32_t*>(destination), words, value); }};
  issue(stream, {&operation, 1});
}

// ---- Kernels ----

std::unique_ptr<Kernel> CpuDevice::load(const CompiledKernel& compiled, int rank) {
  return std::make_unique<CpuKernel>(compiled, rank);
}

int CpuDevice::resident(const Launch& launch) const noexcept {
  const auto cluster = static_cast<int>(launch.cluster);
  if (cluster < 1 || cluster > properties_.max_cluster || launch.shared_bytes > shared_bytes_per_block) return 0;
  return std::max(options_.sm_count / cluster, 1) * cluster;
}

int CpuDevice::resident_blocks(const Kernel&, const Launch& launch) {
  require(launch.threads >= 1 && launch.cluster >= 1,
          "a launch shape needs at least one thread per block and one block per cluster");
  if (launch.threads > static_cast<unsigned>(options_.max_threads_per_block)) return 0;
  return resident(launch);
}

void CpuDevice::launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
                       StreamHandle stream) {
  const auto* cpu_kernel = dynamic_cast<const CpuKernel*>(&kernel);
  require(cpu_kernel != nullptr, "the kernel was loaded by a device that is not a CPU device");
  require(arguments != nullptr || bytes == 0, "the launch has no arguments");
  require(launch.blocks >= 1 && launch.threads >= 1 && launch.cluster >= 1,
          "a launch needs at least one block, one thread per block and one block per cluster");
  require(launch.threads <= static_cast<unsigned>(options_.max_threads_per_block),
          fmt::format("{} threads per block were asked; this CPU device has at most {}", launch.threads,
                      options_.max_threads_per_block));
  require(launch.blocks % launch.cluster == 0,
          fmt::format("a grid of {} blocks cannot be divided into clusters of {}", launch.blocks, launch.cluster));
  require(launch.shared_bytes <= shared_bytes_per_block,
          fmt::format("{} bytes of shared memory per block were asked; the limit is {}", launch.shared_bytes,
                      shared_bytes_per_block));
  require(launch.cluster <= static_cast<unsigned>(properties_.max_cluster),
          fmt::format("clusters of {} blocks were asked; this CPU device has at most {}", launch.cluster,
                      properties_.max_cluster));
  auto operation =
      std::make_shared<CpuLaunch>(CpuLaunch{FiberLaunch{}, cpu_kernel->image(), CpuArguments(arguments, bytes)});
  FiberLaunch& shape = operation->launch;
  shape.rank = rank_;
  shape.entry = operation->image->entry();
  shape.current_slot = operation->image->current_slot();
  shape.arguments = operation->arguments.data();
  shape.blocks = launch.blocks;
  shape.threads = launch.threads;
  shape.cluster = launch.cluster;
  shape.shared_bytes = launch.shared_bytes;
  shape.resident_blocks = static_cast<unsigned>(resident(launch));
  shape.programmatic = launch.programmatic;
  const CpuOperation recorded{std::move(operation), nullptr};
  issue(stream, {&recorded, 1});
}

void CpuDevice::run(std::span<const CpuOperation> operations) {
  const bool launches =
      std::any_of(operations.begin(), operations.end(), [](const CpuOperation& o) { return o.launch != nullptr; });
  const std::vector<FiberTask> tasks = tasks_of(operations);
  if (!launches) {
    for (const CpuOperation& operation : operations) operation.host();
  } else if (link_ != nullptr) {
    link_->run(rank_, tasks);
  } else {
    // Every run gets an order of its own, and the n-th run of a device always the same one.
    SplitMix mixer(options_.seed + runs_++ * 0x632BE59BD9B4E019ULL);
    const FiberSequence sequence = tasks;
    scheduler_.run({&sequence, 1}, mixer.next());
  }
}

std::unique_ptr<Device> make_cpu_device(int rank, const CpuDeviceOptions& options) {
  return std::make_unique<CpuDevice>(rank, options);
}

}  // namespace arbiter
