// Provider `vmm`: physical memory from cuMemCreate, passed to other processes as a file descriptor.
#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "cuda/multicast.hpp"
#include "cuda/symmetric.hpp"

namespace arbiter {
namespace {

constexpr std::chrono::seconds descriptor_deadline{20};

CUmemAllocationProp allocation_properties(int ordinal) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = ordinal;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;  // no RDMA flag: kernels are the only ones that touch this memory
}

// One address range over one piece of physical memory, own or imported.
class VmmMapping final : public CudaMapping {
 public:
  VmmMapping(const CudaDriver& driver, int ordinal) : driver_(driver), ordinal_(ordinal) {}
  VmmMapping(const VmmMapping&) = delete;
  VmmMapping& operator=(const VmmMapping&) = delete;
  ~VmmMapping() override {
    const CudaDeviceScope scope(ordinal_);
    if (mapped_) driver_.mem_unmap(address_, bytes_);
    if (address_ != 0) driver_.mem_address_free(address_, bytes_);
    if (created_) driver_.mem_release(memory_);
  }

  void* data() const noexcept override { return reinterpret_cast<void*>(address_); }
  std::size_t bytes() const noexcept { return bytes_; }
  CUmemGenericAllocationHandle memory() const noexcept { return memory_; }

  void create(std::size_t bytes) {
    const CUmemAllocationProp properties = allocation_properties(ordinal_);
    cuda_check(driver_, driver_.mem_create(&memory_, bytes, &properties, 0),
               fmt::format("cuMemCreate({} bytes)", bytes));
    created_ = true;
    bytes_ = bytes;
  }
  void import(int descriptor, std::size_t bytes) {
    cuda_check(driver_,
               driver_.mem_import(&memory_, reinterpret_cast<void*>(static_cast<std::uintptr_t>(descriptor)),
                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
               "cuMemImportFromShareableHandle");
    created_ = true;
    bytes_ = bytes;
  }
  void map(std::size_t granularity, const std::vector<int>& ordinals) {
    cuda_check(driver_, driver_.mem_address_reserve(&address_, bytes_, granularity, 0, 0), "cuMemAddressReserve");
    cuda_check(driver_, driver_.mem_map(address_, bytes_, 0, memory_, 0), "cuMemMap");
    mapped_ = true;
    std::vector<CUmemAccessDesc> access;
    for (const int ordinal : ordinals) {
      CUmemAccessDesc one{};
      one.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
      one.location.id = ordinal;
      one.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      access.push_back(one);
    }
    cuda_check(driver_, driver_.mem_set_access(address_, bytes_, access.data(), access.size()),
               "cuMemSetAccess (peer access between the GPUs is needed)");
  }

 private:
  CudaDriver driver_;  // a copy: the mapping may outlive its device object
  int ordinal_;
  CUmemGenericAllocationHandle memory_ = 0;
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
  bool created_ = false;
  bool mapped_ = false;
};

class VmmMethod final : public CudaShareMethod {
 public:
  VmmMethod(CudaDevice& device, int rank, DescriptorMailbox* mailbox, int multicast_ranks)
      : device_(device), rank_(rank), mailbox_(mailbox), multicast_ranks_(multicast_ranks) {}

  std::shared_ptr<CudaMapping> create(std::size_t bytes, const std::vector<CudaPeer>& here, bool exported) override {
    device_.activate();
    require(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, "virtual memory management");
    require(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
            "memory that is shared as a file descriptor");
    std::size_t granularity = granularity_of(device_.ordinal());
    // Both are powers of two.
    if (multicast_ranks_ != 0) {
      granularity = std::max(granularity, multicast_granularity(device_.driver(), multicast_ranks_));
    }
    bytes_ = (bytes + granularity - 1) / granularity * granularity;

    auto mapping = std::make_shared<VmmMapping>(device_.driver(), device_.ordinal());
    mapping->create(bytes_);
    std::vector<int> ordinals;
    for (const CudaPeer& peer : here) {
      if (std::find(ordinals.begin(), ordinals.end(), peer.ordinal) != ordinals.end()) continue;
      require_peer_access(peer.ordinal, device_.ordinal());
      ordinals.push_back(peer.ordinal);
    }
    mapping->map(granularity, ordinals);
    if (exported) {
      int descriptor = -1;
      cuda_check(
          device_.driver(),
          device_.driver().mem_export(&descriptor, mapping->memory(), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
          "cuMemExportToShareableHandle");
      descriptor_ = FileDescriptor(descriptor);
    }
    mine_ = mapping;
    return mapping;
  }

  std::pair<CUmemGenericAllocationHandle, std::size_t> physical() const override {
    return {mine_ ? mine_->memory() : 0, bytes_};
  }

  std::string handle() const override { return std::to_string(bytes_); }

  void reach(const CudaPeer&) override {}  // the owner gave every device of the process access

  std::vector<std::shared_ptr<CudaMapping>> open(const std::vector<CudaPeer>& owners,
                                                 const std::vector<std::string>& handles) override {
    std::vector<std::shared_ptr<CudaMapping>> opened;
    if (owners.empty()) return opened;
    device_.activate();
    std::vector<DescriptorMailbox::Peer> peers;
    for (const CudaPeer& owner : owners) peers.push_back({owner.rank, owner.mailbox});
    const std::vector<FileDescriptor> descriptors =
        mailbox_->exchange(rank_, descriptor_.get(), peers, descriptor_deadline);
    const std::size_t granularity = granularity_of(device_.ordinal());
    for (std::size_t i = 0; i < owners.size(); ++i) {
      auto mapping = std::make_shared<VmmMapping>(device_.driver(), device_.ordinal());
      mapping->import(descriptors[i].get(), static_cast<std::size_t>(std::stoull(handles[i])));
      mapping->map(granularity, {device_.ordinal()});
      opened.push_back(std::move(mapping));
    }
    return opened;
  }

 private:
  void require(CUdevice_attribute attribute, const char* what) {
    int value = 0;
    cuda_check(device_.driver(), device_.driver().device_get_attribute(&value, attribute, device_.ordinal()),
               "cuDeviceGetAttribute");
    if (value == 0) throw Unavailable(device_.properties().name + " or its driver has no " + what);
  }

  static void require_peer_access(int from, int to) {
    if (from == to) return;
    int possible = 0;
    cuda_check(cudaDeviceCanAccessPeer(&possible, from, to), "cudaDeviceCanAccessPeer");
    if (possible == 0) {
      throw Unavailable(fmt::format("GPU {} has no peer access to GPU {}", from, to));
    }
  }

  std::size_t granularity_of(int ordinal) {
    const CUmemAllocationProp properties = allocation_properties(ordinal);
    std::size_t granularity = 0;
    cuda_check(device_.driver(),
               device_.driver().mem_granularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
               "cuMemGetAllocationGranularity");
    return granularity;
  }

  CudaDevice& device_;
  int rank_;
  DescriptorMailbox* mailbox_;
  int multicast_ranks_;
  std::shared_ptr<VmmMapping> mine_;
  FileDescriptor descriptor_;
  std::size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<CudaShareMethod> make_vmm_method(CudaDevice& device, int rank, DescriptorMailbox* mailbox,
                                                 int multicast_ranks) {
  return std::make_unique<VmmMethod>(device, rank, mailbox, multicast_ranks);
}

}  // namespace arbiter
