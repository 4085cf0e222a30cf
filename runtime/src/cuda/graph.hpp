// Captured graphs and timing events on CUDA.
#pragma once

#include "arbiter/device.hpp"
#include "cuda/driver.hpp"

namespace arbiter {

class CudaGraph final : public Graph {
 public:
  /// Takes ownership of `graph`; instantiates it and uploads it through `stream`.
  CudaGraph(int ordinal, cudaGraph_t graph, cudaStream_t stream);
  ~CudaGraph() override;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void launch(StreamHandle stream) override;

 private:
  int ordinal_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(int ordinal);
  ~CudaEvent() override;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  void record(StreamHandle stream) override;
  double microseconds_since(const Event& earlier) override;

 private:
  int ordinal_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace arbiter
