#include "cuda/multicast.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <string>
#include <utility>

#include "arbiter/error.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

constexpr std::chrono::seconds descriptor_deadline{20};

CUmulticastObjectProp object_properties(int ranks, std::size_t bytes) {
  CUmulticastObjectProp properties{};
  properties.numDevices = static_cast<unsigned>(ranks);
  properties.size = bytes;
  properties.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;
}

void require_functions(const CudaDriver& driver) {
  if (driver.multicast_create == nullptr || driver.multicast_add_device == nullptr ||
      driver.multicast_bind == nullptr || driver.multicast_unbind == nullptr ||
      driver.multicast_granularity == nullptr) {
    throw Unavailable("the NVIDIA driver has no multicast objects: it is older than CUDA 12.1; install a newer driver");
  }
}

/// The object itself, shared by the ranks of a process.
class MulticastObject {
 public:
  MulticastObject(const CudaDriver& driver, CUmemGenericAllocationHandle handle) : driver_(driver), handle_(handle) {}
  MulticastObject(const MulticastObject&) = delete;
  MulticastObject& operator=(const MulticastObject&) = delete;
  ~MulticastObject() { driver_.mem_release(handle_); }
  CUmemGenericAllocationHandle handle() const noexcept { return handle_; }

 private:
  CudaDriver driver_;
  CUmemGenericAllocationHandle handle_;
};

/// One rank's membership and mapping. Undoes what was done, in the opposite order.
class MulticastMapping final : public CudaMapping {
 public:
  MulticastMapping(const CudaDriver& driver, int ordinal, std::shared_ptr<MulticastObject> object, std::size_t bytes)
      : driver_(driver), ordinal_(ordinal), object_(std::move(object)), bytes_(bytes) {}
  MulticastMapping(const MulticastMapping&) = delete;
  MulticastMapping& operator=(const MulticastMapping&) = delete;
  ~MulticastMapping() override {
    const CudaDeviceScope scope(ordinal_);
    if (mapped_) driver_.mem_unmap(address_, bytes_);
    if (address_ != 0) driver_.mem_address_free(address_, bytes_);
    if (bound_) driver_.multicast_unbind(object_->handle(), ordinal_, 0, bytes_);
  }
  void* data() const noexcept override { return reinterpret_cast<void*>(address_); }

  void add_device() {
    cuda_check(driver_, driver_.multicast_add_device(object_->handle(), ordinal_), "cuMulticastAddDevice");
  }
  void bind(CUmemGenericAllocationHandle memory) {
    cuda_check(driver_, driver_.multicast_bind(object_->handle(), 0, memory, 0, bytes_, 0), "cuMulticastBindMem");
    bound_ = true;
  }
  void map(std::size_t granularity) {
    cuda_check(driver_, driver_.mem_address_reserve(&address_, bytes_, granularity, 0, 0), "cuMemAddressReserve");
    cuda_check(driver_, driver_.mem_map(address_, bytes_, 0, object_->handle(), 0), "cuMemMap of a multicast object");
    mapped_ = true;
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = ordinal_;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    cuda_check(driver_, driver_.mem_set_access(address_, bytes_, &access, 1), "cuMemSetAccess of a multicast object");
  }

 private:
  CudaDriver driver_;
  int ordinal_;
  std::shared_ptr<MulticastObject> object_;
  std::size_t bytes_;
  CUdeviceptr address_ = 0;
  bool bound_ = false;
  bool mapped_ = false;
};

void require_support(const CudaDriver& driver, const MulticastPart& part) {
  require_functions(driver);
  const CudaPeer& self = part.peers[static_cast<std::size_t>(part.rank)];
  for (const CudaPeer& peer : part.peers) {
    if (peer.rank != self.rank && peer.gpu == self.gpu) {
      throw Unavailable(
          fmt::format("ranks {} and {} share a GPU; multicast needs a GPU for each rank", self.rank, peer.rank));
    }
  }
  int supported = 0;
  cuda_check(driver, driver.device_get_attribute(&supported, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, self.ordinal),
             "cuDeviceGetAttribute");
  if (supported == 0) {
    throw Unavailable("the GPU does not support multicast: it needs an NVLink switch and a running fabric manager");
  }
}

std::shared_ptr<MulticastObject> create_object(const CudaDriver& driver, const MulticastPart& part) {
  const CUmulticastObjectProp properties = object_properties(static_cast<int>(part.peers.size()), part.bytes);
  CUmemGenericAllocationHandle handle = 0;
  cuda_check(driver, driver.multicast_create(&handle, &properties), "cuMulticastCreate");
  return std::make_shared<MulticastObject>(driver, handle);
}

FileDescriptor export_object(const CudaDriver& driver, const MulticastObject& object) {
  int descriptor = -1;
  cuda_check(driver, driver.mem_export(&descriptor, object.handle(), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
             "cuMemExportToShareableHandle of a multicast object");
  return FileDescriptor(descriptor);
}

/// What rank 0 has created, for a rank of another process. Every rank with peers abroad takes part, because the mailbox
/// passes something from everybody to everybody; what others than rank 0 send means nothing.
std::shared_ptr<MulticastObject> pass_object(const CudaDriver& driver, const MulticastPart& part,
                                             const FileDescriptor& mine) {
  const CudaPeer& self = part.peers[static_cast<std::size_t>(part.rank)];
  std::vector<DescriptorMailbox::Peer> abroad;
  for (const CudaPeer& peer : part.peers) {
    if (!same_process(self.identity, peer.identity)) abroad.push_back({peer.rank, peer.mailbox});
  }
  if (abroad.empty()) return nullptr;
  const FileDescriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<FileDescriptor> received =
      part.mailbox->exchange(part.rank, mine ? mine.get() : nothing.get(), abroad, descriptor_deadline);
  if (abroad.front().rank != 0) return nullptr;  // rank 0 is in this process, or is this rank
  CUmemGenericAllocationHandle handle = 0;
  cuda_check(driver,
             driver.mem_import(&handle, reinterpret_cast<void*>(static_cast<std::uintptr_t>(received.front().get())),
                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
             "cuMemImportFromShareableHandle of a multicast object");
  return std::make_shared<MulticastObject>(driver, handle);
}

}  // namespace

std::size_t multicast_granularity(const CudaDriver& driver, int ranks) {
  require_functions(driver);
  const CUmulticastObjectProp properties = object_properties(ranks, std::size_t{1} << 21U);
  std::size_t granularity = 0;
  cuda_check(driver, driver.multicast_granularity(&granularity, &properties, CU_MULTICAST_GRANULARITY_MINIMUM),
             "cuMulticastGetGranularity");
  return granularity;
}

std::shared_ptr<CudaMapping> join_multicast(const CudaDriver& driver, Bootstrap& bootstrap, const MulticastPart& part) {
  const CudaPeer& self = part.peers[static_cast<std::size_t>(part.rank)];
  const CudaPeer& creator = part.peers.front();
  const bool with_creator = self.rank == creator.rank || same_process(self.identity, creator.identity);
  together(bootstrap, "use multicast", [&] { require_support(driver, part); });

  std::shared_ptr<MulticastObject> object;
  FileDescriptor descriptor;
  together(bootstrap, "create a multicast object", [&] {
    if (self.rank != creator.rank) return;
    object = create_object(driver, part);
    for (const CudaPeer& peer : part.peers) {
      if (!descriptor && peer.rank != self.rank && !same_process(self.identity, peer.identity)) {
        descriptor = export_object(driver, *object);
      }
    }
  });
  // Ranks of the creator's process pick it up through this pointer, as in allocate_cuda_symmetric.
  auto* published = new std::weak_ptr<MulticastObject>(object);
  const std::vector<std::string> offers =
      bootstrap.allgather(std::to_string(reinterpret_cast<std::uintptr_t>(published)));
  try {
    together(bootstrap, "receive the multicast object", [&] {
      std::shared_ptr<MulticastObject> passed = pass_object(driver, part, descriptor);
      if (self.rank == creator.rank) return;
      if (!with_creator) {
        object = std::move(passed);
        return;
      }
      const auto address = static_cast<std::uintptr_t>(std::stoull(offers.front()));
      object = reinterpret_cast<const std::weak_ptr<MulticastObject>*>(address)->lock();
      if (!object) throw Unavailable("rank 0 has given up");
    });
  } catch (const Unavailable&) {  // voted: every rank is past it
    delete published;
    throw;
  }
  delete published;

  const auto mapping = std::make_shared<MulticastMapping>(driver, self.ordinal, std::move(object), part.bytes);
  // Memory can be bound only when all GPUs have joined.
  together(bootstrap, "join a multicast object", [&] { mapping->add_device(); });
  together(bootstrap, "bind its memory to a multicast object", [&] { mapping->bind(part.memory); });
  together(bootstrap, "map a multicast object",
           [&] { mapping->map(multicast_granularity(driver, static_cast<int>(part.peers.size()))); });
  return mapping;
}

}  // namespace arbiter
