// A decode step in a graph: one layer's allreduce, residual and norm, captured once and replayed for every token.
// Ranks are threads here, on the CPU device; on GPUs (graph cuda 4) the same code captures a CUDA graph.
#include <arbiter/communicator.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int hidden = 256;
constexpr std::int64_t tokens = 4;
constexpr std::size_t elements = static_cast<std::size_t>(tokens) * hidden;
constexpr int steps = 3;

class Tensor {
 public:
  Tensor(arbiter::Device& device, std::size_t size, float value)
      : device_(device), memory_(device, size * sizeof(float)), host_(size, value) {}
  float* data() const { return static_cast<float*>(memory_.data()); }
  std::vector<float>& host() { return host_; }
  void upload(arbiter::StreamHandle stream) { device_.copy(data(), host_.data(), memory_.bytes(), stream); }
  void download(arbiter::StreamHandle stream) { device_.copy(host_.data(), data(), memory_.bytes(), stream); }

 private:
  arbiter::Device& device_;
  arbiter::DeviceMemory memory_;
  std::vector<float> host_;
};

void run(const std::shared_ptr<arbiter::Bootstrap>& bootstrap, const std::shared_ptr<arbiter::Device>& device) {
  device->activate();
  arbiter::Communicator communicator(bootstrap, device);

  // Everything that is ever called, before the first capture: nothing is compiled or allocated afterwards.
  const arbiter::PreparedFamily layer =
      communicator.prepare({"allreduce_residual_rmsnorm", arbiter::Dtype::fp32, hidden, tokens, arbiter::Mode::graph});

  const auto mine = static_cast<float>(communicator.rank() + 1);
  const auto world = static_cast<float>(communicator.size());
  Tensor partial(*device, elements, mine), residual(*device, elements, 0), normed(*device, elements, 0);
  Tensor gamma(*device, hidden, 2);
  arbiter::StreamHandle stream = device->create_stream();
  for (Tensor* each : {&partial, &residual, &gamma}) each->upload(stream);
  device->synchronize(stream);

  arbiter::CallTensors tensors;
  tensors.input = partial.data();
  tensors.residual_in = residual.data();
  tensors.residual_out = residual.data();  // in place: the residual grows from step to step
  tensors.gamma = gamma.data();
  tensors.norm_out = normed.data();

  device->begin_capture(stream);
  layer.run(tensors, tokens, stream);
  const std::unique_ptr<arbiter::Graph> step = device->end_capture(stream);

  const float sum = world * (world + 1) / 2;  // of 1, 2, ... on every element
  for (int i = 1; i <= steps; ++i) {
    step->launch(stream);
    residual.download(stream);
    normed.download(stream);
    device->synchronize(stream);
    communicator.check();  // did every rank come in time?
    for (std::size_t at = 0; at < elements; ++at) {
      const float expected = sum * static_cast<float>(i);
      if (residual.host()[at] != expected || std::abs(normed.host()[at] - 2) > 1e-4F) {
        throw std::runtime_error("step " + std::to_string(i) + ": residual " + std::to_string(residual.host()[at]) +
                                 ", norm " + std::to_string(normed.host()[at]) + "; expected " +
                                 std::to_string(expected) + " and 2");
      }
    }
  }
  if (communicator.rank() == 0) {
    std::cout << steps << " steps by " << layer.explain(tokens).candidate.name << '\n';
  }
  device->destroy_stream(stream);
}

}  // namespace

int main(int count, char** arguments) {
  const bool cuda = count > 1 && std::strcmp(arguments[1], "cuda") == 0;
  const int ranks = count > 2 ? std::atoi(arguments[2]) : 2;
  auto bootstraps = arbiter::make_in_process_bootstraps(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back(
        [rank, cuda,
         bootstrap = std::shared_ptr<arbiter::Bootstrap>(std::move(bootstraps[static_cast<std::size_t>(rank)]))] {
          try {
            run(bootstrap, cuda ? arbiter::make_cuda_device(rank) : arbiter::make_cpu_device(rank));
          } catch (const std::exception& error) {
            std::cerr << "rank " << rank << ": " << error.what() << '\n';
            std::_Exit(1);
          }
        });
  }
  for (std::thread& thread : threads) thread.join();
}
