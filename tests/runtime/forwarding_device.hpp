// A device that passes everything on, for tests that change one answer.
#pragma once

#include <memory>
#include <utility>

#include "arbiter/device.hpp"

namespace arbiter::test {

class ForwardingDevice : public Device {
 public:
  explicit ForwardingDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}
  DeviceKind kind() const noexcept override { return inner_->kind(); }
  const DeviceProperties& properties() const noexcept override { return inner_->properties(); }
  void activate() override { inner_->activate(); }
  void* allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void release(void* memory) noexcept override { inner_->release(memory); }
  void* allocate_host_visible(std::size_t bytes) override { return inner_->allocate_host_visible(bytes); }
  void release_host_visible(void* memory) noexcept override { inner_->release_host_visible(memory); }
  void copy(void* to, const void* from, std::size_t bytes, StreamHandle stream) override {
    inner_->copy(to, from, bytes, stream);
  }
  void fill_words(void* to, std::uint32_t value, std::size_t words, StreamHandle stream) override {
    inner_->fill_words(to, value, words, stream);
  }
  StreamHandle create_stream() override { return inner_->create_stream(); }
  void destroy_stream(StreamHandle stream) noexcept override { inner_->destroy_stream(stream); }
  void synchronize(StreamHandle stream) override { inner_->synchronize(stream); }
  bool finished(StreamHandle stream) override { return inner_->finished(stream); }
  bool capturing(StreamHandle stream) override { return inner_->capturing(stream); }
  void begin_capture(StreamHandle stream) override { inner_->begin_capture(stream); }
  std::unique_ptr<Graph> end_capture(StreamHandle stream) override { return inner_->end_capture(stream); }
  std::unique_ptr<Event> create_event() override { return inner_->create_event(); }
  std::unique_ptr<Kernel> load(const CompiledKernel& kernel, int rank) override { return inner_->load(kernel, rank); }
  int resident_blocks(const Kernel& kernel, const Launch& launch) override {
    return inner_->resident_blocks(kernel, launch);
  }
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override {
    ++launches;
    inner_->launch(kernel, launch, arguments, bytes, stream);
  }
  PointerKind classify(const void* pointer) override { return inner_->classify(pointer); }

  int launches = 0;

 private:
  std::unique_ptr<Device> inner_;
};

}  // namespace arbiter::test
