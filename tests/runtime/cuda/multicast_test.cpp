// Joining a multicast object, against a driver that only takes notes: no GPU has a part in it. What is called, in which
// order on all ranks, and that every failure on any rank is told to all and leaves nothing behind.
#include "cuda/multicast.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <set>

#include "arbiter/error.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

/// What the driver was asked to do. The functions of a driver have no argument for it, so there is one for all.
struct Notes {
  std::mutex mutex;
  std::vector<std::string> calls;
  std::set<std::uint64_t> objects;  // handles that are held: one entry each
  std::set<int> devices, bound;     // ordinals
  std::set<std::uint64_t> reserved, mapped;
  std::string fail;  // the call that fails, with the ordinal it fails for
  std::uint64_t next = 100;
  bool supported = true;

  CUresult note(const std::string& call) {
    calls.push_back(call);
    return call == fail ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  }
  std::size_t count(const std::string& prefix) {
    return static_cast<std::size_t>(
        std::count_if(calls.begin(), calls.end(), [&](const std::string& call) { return call.starts_with(prefix); }));
  }
};
Notes* notes = nullptr;  // of the running test

constexpr std::size_t bytes = std::size_t{4} << 20;

CudaDriver fake_driver() {
  CudaDriver driver;
  driver.device_get_attribute = [](int* value, CUdevice_attribute, CUdevice) {
    *value = notes->supported ? 1 : 0;
    return CUDA_SUCCESS;
  };
  driver.multicast_granularity = [](std::size_t* granularity, const CUmulticastObjectProp*,
                                    CUmulticastGranularity_flags) {
    *granularity = std::size_t{2} << 20;
    return CUDA_SUCCESS;
  };
  driver.multicast_create = [](CUmemGenericAllocationHandle* handle, const CUmulticastObjectProp* properties) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_EQ(properties->size, bytes);
    const CUresult result = notes->note("create " + std::to_string(properties->numDevices));
    if (result == CUDA_SUCCESS) notes->objects.insert(*handle = notes->next++);
    return result;
  };
  driver.multicast_add_device = [](CUmemGenericAllocationHandle handle, CUdevice device) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_TRUE(notes->objects.count(handle));
    EXPECT_TRUE(notes->bound.empty()) << "memory was bound before all had joined";
    const CUresult result = notes->note("add " + std::to_string(device));
    if (result != CUDA_SUCCESS) return result;
    EXPECT_TRUE(notes->devices.insert(device).second) << "a GPU joined twice";
    return result;
  };
  driver.multicast_bind = [](CUmemGenericAllocationHandle handle, std::size_t offset,
                             CUmemGenericAllocationHandle memory, std::size_t memory_offset, std::size_t size,
                             unsigned long long) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_TRUE(notes->objects.count(handle));
    EXPECT_EQ(offset + memory_offset, 0U);
    EXPECT_EQ(size, bytes);
    EXPECT_TRUE(notes->mapped.empty()) << "the object was mapped before all memory was bound";
    const int device = static_cast<int>(memory);  // in this test
    const CUresult result = notes->note("bind " + std::to_string(device));
    if (result == CUDA_SUCCESS) notes->bound.insert(device);
    return result;
  };
  driver.multicast_unbind = [](CUmemGenericAllocationHandle handle, CUdevice device, std::size_t, std::size_t size) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_TRUE(notes->objects.count(handle)) << "unbound from an object that is gone";
    EXPECT_EQ(size, bytes);
    EXPECT_EQ(notes->bound.erase(device), 1U);
    return CUDA_SUCCESS;
  };
  driver.mem_release = [](CUmemGenericAllocationHandle handle) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_EQ(notes->objects.erase(handle), 1U);
    return CUDA_SUCCESS;
  };
  driver.mem_address_reserve = [](CUdeviceptr* address, std::size_t size, std::size_t, CUdeviceptr,
                                  unsigned long long) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_EQ(size, bytes);
    notes->reserved.insert(*address = notes->next++ << 30U);
    return CUDA_SUCCESS;
  };
  driver.mem_address_free = [](CUdeviceptr address, std::size_t) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_FALSE(notes->mapped.count(address));
    EXPECT_EQ(notes->reserved.erase(address), 1U);
    return CUDA_SUCCESS;
  };
  driver.mem_map = [](CUdeviceptr address, std::size_t, std::size_t, CUmemGenericAllocationHandle, unsigned long long) {
    const std::lock_guard lock(notes->mutex);
    const CUresult result = notes->note("map");
    if (result == CUDA_SUCCESS) notes->mapped.insert(address);
    return result;
  };
  driver.mem_unmap = [](CUdeviceptr address, std::size_t) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_EQ(notes->mapped.erase(address), 1U);
    return CUDA_SUCCESS;
  };
  driver.mem_set_access = [](CUdeviceptr, std::size_t, const CUmemAccessDesc* access, std::size_t count) {
    const std::lock_guard lock(notes->mutex);
    EXPECT_EQ(count, 1U);
    return notes->note("access " + std::to_string(access->location.id));
  };
  driver.mem_export = [](void* descriptor, CUmemGenericAllocationHandle, CUmemAllocationHandleType,
                         unsigned long long) {
    const std::lock_guard lock(notes->mutex);
    const CUresult result = notes->note("export");
    *static_cast<int*>(descriptor) = result == CUDA_SUCCESS ? dup(0) : -1;
    return result;
  };
  driver.mem_import = [](CUmemGenericAllocationHandle* handle, void*, CUmemAllocationHandleType) {
    const std::lock_guard lock(notes->mutex);
    const CUresult result = notes->note("import");
    if (result == CUDA_SUCCESS) notes->objects.insert(*handle = notes->next++);
    return result;
  };
  return driver;
}

class CudaMulticast : public ::testing::Test {
 protected:
  CudaMulticast() { notes = &notes_; }

  /// Every rank joins and leaves; `process_of` says which ranks share a process. What each rank threw.
  std::vector<std::string> join(int ranks, const std::function<int(int)>& process_of,
                                const std::function<void(MulticastPart&)>& change = {}) {
    std::vector<std::unique_ptr<DescriptorMailbox>> mailboxes;
    std::vector<CudaPeer> peers;
    for (int r = 0; r < ranks; ++r) {
      mailboxes.push_back(std::make_unique<DescriptorMailbox>());
      CudaPeer peer;
      peer.rank = r;
      peer.identity = process_identity();
      peer.identity.process += std::to_string(process_of(r));
      peer.ordinal = r;
      peer.gpu = "GPU-" + std::to_string(r);
      peer.mailbox = mailboxes.back()->address();
      peers.push_back(peer);
    }
    return test::run_threads(ranks, [&](Bootstrap& bootstrap) {
      const auto rank = static_cast<std::size_t>(bootstrap.rank());
      MulticastPart part;
      part.rank = bootstrap.rank();
      part.peers = peers;
      part.mailbox = mailboxes[rank].get();
      part.memory = rank;
      part.bytes = bytes;
      if (change) change(part);
      const std::shared_ptr<CudaMapping> mapping = join_multicast(fake_driver(), bootstrap, part);
      bootstrap.barrier();
      {
        const std::lock_guard lock(notes_.mutex);
        EXPECT_TRUE(notes_.mapped.count(reinterpret_cast<CUdeviceptr>(mapping->data())));
        EXPECT_EQ(notes_.mapped.size(), peers.size());
        EXPECT_EQ(notes_.bound.size(), peers.size());
      }
      bootstrap.barrier();
    });
  }
  void expect_nothing_left() {
    EXPECT_TRUE(notes_.objects.empty());
    EXPECT_TRUE(notes_.bound.empty());
    EXPECT_TRUE(notes_.reserved.empty());
    EXPECT_TRUE(notes_.mapped.empty());
    notes_.devices.clear();
    notes_.calls.clear();
  }
  Notes notes_;
};

TEST_F(CudaMulticast, RanksOfOneProcessShareTheObject) {
  for (const std::string& failure : join(3, [](int) { return 0; })) EXPECT_EQ(failure, "");
  EXPECT_EQ(notes_.count("create 3"), 1U);
  EXPECT_EQ(notes_.count("export"), 0U);
  EXPECT_EQ(notes_.count("import"), 0U);
  EXPECT_EQ(notes_.devices, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(notes_.count("access"), 3U);
  expect_nothing_left();
}

TEST_F(CudaMulticast, OtherProcessesReceiveADescriptor) {
  for (const std::string& failure : join(4, [](int rank) { return rank / 2; })) EXPECT_EQ(failure, "");
  EXPECT_EQ(notes_.count("create 4"), 1U);
  EXPECT_EQ(notes_.count("export"), 1U);
  EXPECT_EQ(notes_.count("import"), 2U);
  EXPECT_EQ(notes_.devices.size(), 4U);
  expect_nothing_left();
}

TEST_F(CudaMulticast, AFailureOnAnyRankIsUnavailableOnAllAndLeavesNothing) {
  for (const char* fail : {"create 3", "export", "import", "add 2", "bind 1", "bind 0", "map", "access 2"}) {
    notes_.fail = fail;
    const std::vector<std::string> failures = join(3, [](int rank) { return rank; });
    for (const std::string& failure : failures) EXPECT_NE(failure, "") << fail;
    EXPECT_NE(failures[0].find("cuM"), std::string::npos) << failures[0];
    expect_nothing_left();
  }
}

TEST_F(CudaMulticast, WhatCannotWorkCreatesNoObject) {
  const auto expect_refused = [&](const char* part_of_reason) {
    for (const std::string& failure : join(2, [](int) { return 0; })) {
      EXPECT_NE(failure.find(part_of_reason), std::string::npos) << failure;
    }
    EXPECT_EQ(notes_.count("create"), 0U);
    expect_nothing_left();
  };
  notes_.supported = false;
  expect_refused("NVLink switch");
  notes_.supported = true;
  for (const std::string& failure : join(
           2, [](int) { return 0; }, [](MulticastPart& part) { part.peers[1].gpu = part.peers[0].gpu; })) {
    EXPECT_NE(failure.find("share a GPU"), std::string::npos) << failure;
  }
  EXPECT_EQ(notes_.count("create"), 0U);
  EXPECT_THROW(multicast_granularity(CudaDriver{}, 2), Unavailable);
}

}  // namespace
}  // namespace arbiter
