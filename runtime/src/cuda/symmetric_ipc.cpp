// Provider `cuda_ipc`: cudaMalloc, with cudaIpcMemHandle between processes and peer access within one.
#include <fmt/format.h>

#include <cstring>

#include "arbiter/error.hpp"
#include "cuda/symmetric.hpp"

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

/// Of the caller.
class BorrowedMemory final : public CudaMapping {
 public:
  explicit BorrowedMemory(void* data) : data_(data) {}
  void* data() const noexcept override { return data_; }

 private:
  void* data_;
};

/// What a peer needs to open memory: the handle of the allocation, and where in it the memory begins.
struct IpcOffer {
  cudaIpcMemHandle_t handle{};
  std::uint64_t offset = 0;
};

class OpenedMemory final : public CudaMapping {
 public:
  OpenedMemory(int ordinal, const cudaIpcMemHandle_t& handle, std::uint64_t offset)
      : ordinal_(ordinal), offset_(offset) {
    cuda_check(cudaIpcOpenMemHandle(&data_, handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
  }
  OpenedMemory(const OpenedMemory&) = delete;
  OpenedMemory& operator=(const OpenedMemory&) = delete;
  ~OpenedMemory() override {
    const CudaDeviceScope scope(ordinal_);
    cudaIpcCloseMemHandle(data_);
  }
  void* data() const noexcept override { return static_cast<char*>(data_) + offset_; }

 private:
  int ordinal_;
  std::uint64_t offset_;
  void* data_ = nullptr;
};

class CudaIpcMethod final : public CudaShareMethod {
 public:
  CudaIpcMethod(CudaDevice& device, void* borrowed) : device_(device), borrowed_(borrowed) {}

  std::shared_ptr<CudaMapping> create(std::size_t bytes, const std::vector<CudaPeer>&, bool exported) override {
    device_.activate();
    if (borrowed_ != nullptr) return borrow(bytes, exported);
    void* data = device_.allocate((bytes + block_bytes - 1) / block_bytes * block_bytes);
    auto memory = std::make_shared<OwnedMemory>(device_.ordinal(), data);
    if (exported) offer(data, 0);
    return memory;
  }

  std::string handle() const override { return handle_; }

  void reach(const CudaPeer& owner) override {
    if (owner.ordinal == device_.ordinal()) return;
    device_.activate();
    int possible = 0;
    cuda_check(cudaDeviceCanAccessPeer(&possible, device_.ordinal(), owner.ordinal), "cudaDeviceCanAccessPeer");
    if (possible == 0) {
      throw Unavailable(fmt::format("GPU {} has no peer access to GPU {}", device_.ordinal(), owner.ordinal));
    }
    // Never taken back: others in this process may rely on it too.
    const cudaError_t error = cudaDeviceEnablePeerAccess(owner.ordinal, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
      return;
    }
    cuda_check(error, fmt::format("cudaDeviceEnablePeerAccess({})", owner.ordinal));
  }

  std::vector<std::shared_ptr<CudaMapping>> open(const std::vector<CudaPeer>& owners,
                                                 const std::vector<std::string>& handles) override {
    std::vector<std::shared_ptr<CudaMapping>> opened;
    if (!owners.empty()) device_.activate();
    for (std::size_t i = 0; i < owners.size(); ++i) {
      IpcOffer offer;
      if (handles[i].size() != sizeof(offer)) {
        throw Unavailable(fmt::format("rank {} sent a memory handle of {} bytes; expected {}", owners[i].rank,
                                      handles[i].size(), sizeof(offer)));
      }
      std::memcpy(&offer, handles[i].data(), sizeof(offer));
      opened.push_back(std::make_shared<OpenedMemory>(device_.ordinal(), offer.handle, offer.offset));
    }
    return opened;
  }

 private:
  void offer(void* allocation, std::uint64_t offset) {
    IpcOffer offer;
    offer.offset = offset;
    cuda_check(cudaIpcGetMemHandle(&offer.handle, allocation), "cudaIpcGetMemHandle");
    handle_.assign(reinterpret_cast<const char*>(&offer), sizeof(offer));
  }

  // Peers of the same process need no handle, but they too reach only what cudaMalloc has allocated.
  std::shared_ptr<CudaMapping> borrow(std::size_t bytes, bool exported) {
    const CudaDriver& driver = device_.driver();
    const auto address = reinterpret_cast<CUdeviceptr>(borrowed_);
    unsigned shareable = 0;
    cuda_check(driver,
               driver.pointer_get_attribute(&shareable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, address),
               "cuPointerGetAttribute");
    if (shareable == 0) {
      throw Unavailable(
          "the memory does not come from cudaMalloc (a memory pool, or PyTorch's expandable segments?) and cannot be "
          "shared; use symmetric memory of the communicator");
    }
    CUdeviceptr base = 0;
    std::size_t size = 0;
    cuda_check(driver, driver.mem_address_range(&base, &size, address), "cuMemGetAddressRange");
    if (bytes > size - (address - base)) {
      throw Unavailable(fmt::format("the memory is shorter than the {} bytes to be shared", bytes));
    }
    if (exported) offer(reinterpret_cast<void*>(base), address - base);
    return std::make_shared<BorrowedMemory>(borrowed_);
  }

  CudaDevice& device_;
  void* borrowed_;
  std::string handle_;
};

}  // namespace

std::unique_ptr<CudaShareMethod> make_cuda_ipc_method(CudaDevice& device, void* borrowed) {
  return std::make_unique<CudaIpcMethod>(device, borrowed);
}

}  // namespace arbiter
