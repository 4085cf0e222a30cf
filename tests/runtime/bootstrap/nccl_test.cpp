// Ranks that exchange host data through NCCL: the stand-in for it, on the CPU device, with threads as ranks.
#include "bootstrap/nccl.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

std::shared_ptr<const NcclLibrary> stand_in() {
  void* handle = dlopen(STAND_IN, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return load_nccl(handle, STAND_IN);
}

template <typename Body>
void on_ranks(int size, bool blocking, Body body) {
  const std::shared_ptr<const NcclLibrary> nccl = stand_in();
  NcclId id;
  ASSERT_EQ(nccl->get_unique_id(&id), nccl_success);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      NcclConfig config;
      config.blocking = blocking ? 1 : 0;
      NcclComm comm = nullptr;
      ASSERT_EQ(nccl->comm_init_rank_config(&comm, size, id, rank, &config), nccl_success);
      const auto state = std::make_shared<LentNcclState>();
      const std::unique_ptr<Bootstrap> bootstrap =
          make_nccl_bootstrap({nccl, make_cpu_device(rank), "a test", {}, {}, state}, comm, rank, size);
      body(*bootstrap, *state);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::string text_of(int rank, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 + static_cast<std::size_t>(rank) * 31);
  return text;
}

TEST(NcclBootstrap, MessagesOfEveryLengthArrive) {
  for (const bool blocking : {true, false}) {
    on_ranks(3, blocking, [&](Bootstrap& bootstrap, LentNcclState& state) {
      EXPECT_EQ(state.nonblocking, !blocking);
      for (const std::size_t bytes : {std::size_t{1}, std::size_t{32} << 10, (std::size_t{64} << 10) + 5}) {
        const std::string mine = text_of(bootstrap.rank(), bytes);
        std::string all(3 * bytes, '\0');
        bootstrap.allgather(mine.data(), bytes, all.data());
        EXPECT_EQ(all, text_of(0, bytes) + text_of(1, bytes) + text_of(2, bytes)) << bytes;
        std::string sent = mine;
        bootstrap.broadcast(sent.data(), bytes, 1);
        EXPECT_EQ(sent, text_of(1, bytes)) << bytes;
      }
      EXPECT_THROW(bootstrap.broadcast(nullptr, 1, 3), InvalidArgument);
    });
  }
}

TEST(NcclBootstrap, ACommunicatorThatWasClosedIsNotTouched) {
  on_ranks(2, true, [](Bootstrap& bootstrap, LentNcclState& state) {
    bootstrap.barrier();
    state.closed = true;
    if (bootstrap.rank() == 0) bootstrap.barrier();  // alone: it comes back
    char byte = 0;
    std::string all(2, '\0');
    EXPECT_THROW(bootstrap.allgather(&byte, 1, all.data()), Poisoned);
    EXPECT_THROW(bootstrap.broadcast(&byte, 1, 0), Poisoned);
  });
}

}  // namespace
}  // namespace arbiter
