// Provider `cuda_ipc`: cudaMalloc, with cudaIpcMemHandle between processes and peer access within one.
#include <cstring>

#include "arbiter/error.hpp"
#include "cuda_symmetric.hpp"

namespace arbiter {
namespace {

// cudaMalloc carves small requests out of blocks of 2 MiB, and a handle shares the whole block. Whole blocks share
// nothing but what was asked for, and an opened handle is the address that was exported.
constexpr std::size_t block_bytes = std::size_t{2} << 20U;

class OwnedMemory final : public CudaMapping {
 public:
  OwnedMemory(int ordinal, void* data) : ordinal_(ordinal), data_(data) {}
  OwnedMemory(const OwnedMemory&) = delete;
  OwnedMemory& operator=(const OwnedMemory&) = delete;
  ~OwnedMemory() override {
    const CudaDeviceScope scope(ordinal_);
    cudaFree(data_);
  }
  void* data() const noexcept override { return data_; }

 private:
  int ordinal_;
  void* data_;
};

class OpenedMemory final : public CudaMapping {
 public:
  OpenedMemory(int ordinal, const cudaIpcMemHandle_t& handle) : ordinal_(ordinal) {
    cuda_check(cudaIpcOpenMemHandle(&data_, handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
  }
  OpenedMemory(const OpenedMemory&) = delete;
  OpenedMemory& operator=(const OpenedMemory&) = delete;
  ~OpenedMemory() override {
    const CudaDeviceScope scope(ordinal_);
    cudaIpcCloseMemHandle(data_);
  }
  void* data() const noexcept override { return data_; }

 private:
  int ordinal_;
  void* data_ = nullptr;
};

class CudaIpcMethod final : public CudaShareMethod {
 public:
  explicit CudaIpcMethod(CudaDevice& device) : device_(device) {}

  std::shared_ptr<CudaMapping> create(std::size_t bytes, const std::vector<CudaPeer>&, bool exported) override {
    device_.activate();
    void* data = device_.allocate((bytes + block_bytes - 1) / block_bytes * block_bytes);
    auto memory = std::make_shared<OwnedMemory>(device_.ordinal(), data);
    if (exported) {
      cudaIpcMemHandle_t handle{};
      cuda_check(cudaIpcGetMemHandle(&handle, data), "cudaIpcGetMemHandle");
      handle_.assign(reinterpret_cast<const char*>(&handle), sizeof(handle));
    }
    return memory;
  }

  std::string handle() const override { return handle_; }

  void reach(const CudaPeer& owner) override {
    if (owner.ordinal == device_.ordinal()) return;
    device_.activate();
    int possible = 0;
    cuda_check(cudaDeviceCanAccessPeer(&possible, device_.ordinal(), owner.ordinal), "cudaDeviceCanAccessPeer");
    if (possible == 0) {
      throw Unavailable("GPU " + std::to_string(device_.ordinal()) + " has no peer access to GPU " +
                        std::to_string(owner.ordinal));
    }
    // Never taken back: others in this process may rely on it too.
    const cudaError_t error = cudaDeviceEnablePeerAccess(owner.ordinal, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
      return;
    }
    cuda_check(error, "cudaDeviceEnablePeerAccess(" + std::to_string(owner.ordinal) + ")");
  }

  std::vector<std::shared_ptr<CudaMapping>> open(const std::vector<CudaPeer>& owners,
                                                 const std::vector<std::string>& handles) override {
    std::vector<std::shared_ptr<CudaMapping>> opened;
    if (!owners.empty()) device_.activate();
    for (std::size_t i = 0; i < owners.size(); ++i) {
      cudaIpcMemHandle_t handle{};
      if (handles[i].size() != sizeof(handle)) {
        throw Unavailable("rank " + std::to_string(owners[i].rank) + " sent a memory handle of " +
                          std::to_string(handles[i].size()) + " bytes; expected " + std::to_string(sizeof(handle)));
      }
      std::memcpy(&handle, handles[i].data(), sizeof(handle));
      opened.push_back(std::make_shared<OpenedMemory>(device_.ordinal(), handle));
    }
    return opened;
  }

 private:
  CudaDevice& device_;
  std::string handle_;
};

}  // namespace

std::unique_ptr<CudaShareMethod> make_cuda_ipc_method(CudaDevice& device) {
  return std::make_unique<CudaIpcMethod>(device);
}

}  // namespace arbiter
