// The C interface from C++, as an engine embeds it: its own process group through callbacks (here: threads and a
// barrier), its own log, and errors as exceptions.
#include <arbiter.h>

#include <barrier>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

void require(arbiter_status status, const arbiter_communicator* communicator = nullptr) {
  if (status != ARBITER_SUCCESS) throw std::runtime_error(arbiter_last_error(communicator));
}

/// What torch.distributed or MPI is elsewhere.
class Group {
 public:
  explicit Group(int size) : sent_(static_cast<std::size_t>(size)), barrier_(size) {}
  int size() const { return static_cast<int>(sent_.size()); }
  void allgather(int rank, const void* send, std::size_t bytes, void* receive) {
    sent_[static_cast<std::size_t>(rank)] = send;
    barrier_.arrive_and_wait();
    for (std::size_t from = 0; from < sent_.size(); ++from) {
      std::memcpy(static_cast<char*>(receive) + from * bytes, sent_[from], bytes);
    }
    barrier_.arrive_and_wait();
  }
  void broadcast(int rank, void* data, std::size_t bytes, int root) {
    sent_[static_cast<std::size_t>(rank)] = data;
    barrier_.arrive_and_wait();
    if (rank != root) std::memcpy(data, sent_[static_cast<std::size_t>(root)], bytes);
    barrier_.arrive_and_wait();
  }
  void wait() { barrier_.arrive_and_wait(); }

 private:
  std::vector<const void*> sent_;
  std::barrier<> barrier_;
};

struct Member {
  Group* group;
  int rank;
};

struct Destroy {
  void operator()(arbiter_communicator* communicator) const { arbiter_destroy(communicator); }
};
using Communicator = std::unique_ptr<arbiter_communicator, Destroy>;

Communicator create(Member& member) {
  arbiter_callbacks callbacks = ARBITER_CALLBACKS_INIT;
  callbacks.rank = member.rank;
  callbacks.size = member.group->size();
  callbacks.user = &member;
  callbacks.allgather = [](void* user, const void* send, std::size_t bytes, void* receive) {
    const auto& me = *static_cast<Member*>(user);
    me.group->allgather(me.rank, send, bytes, receive);
    return 0;
  };
  callbacks.broadcast = [](void* user, void* data, std::size_t bytes, int root) {
    const auto& me = *static_cast<Member*>(user);
    me.group->broadcast(me.rank, data, bytes, root);
    return 0;
  };
  callbacks.barrier = [](void* user) {
    static_cast<Member*>(user)->group->wait();
    return 0;
  };
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  options.device = ARBITER_DEVICE_CPU;
  options.log_level = "info";
  options.log = [](void*, arbiter_log_level, const char* text) {
    std::clog << ("engine: " + std::string(text) + "\n");
  };
  arbiter_communicator* communicator = nullptr;
  require(arbiter_create_from_callbacks(&callbacks, &options, &communicator));
  return Communicator(communicator);
}

void run(Group& group, int rank) {
  Member member{&group, rank};
  const Communicator communicator = create(member);
  arbiter_family family = ARBITER_FAMILY_INIT;
  family.dtype = ARBITER_FP32;
  family.hidden = 512;
  family.max_tokens = 64;
  arbiter_handle* handle = nullptr;
  require(arbiter_prepare_handle(communicator.get(), &family, &handle), communicator.get());

  constexpr std::size_t count = std::size_t{4} * 512;
  void* memory = nullptr;
  require(arbiter_device_allocate(communicator.get(), count * sizeof(float), &memory), communicator.get());
  std::vector<float> host(count, static_cast<float>(rank + 1));
  require(arbiter_device_copy(communicator.get(), memory, host.data(), count * sizeof(float), nullptr));

  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  tensors.input = memory;
  tensors.output = memory;
  require(arbiter_run(handle, &tensors, 4, nullptr), communicator.get());
  require(arbiter_device_copy(communicator.get(), host.data(), memory, count * sizeof(float), nullptr));
  require(arbiter_device_synchronize(communicator.get(), nullptr), communicator.get());
  require(arbiter_check(communicator.get()), communicator.get());
  for (const float element : host) {
    if (element != 6.0F) throw std::runtime_error("1 + 2 + 3 is not " + std::to_string(element));
  }
  require(arbiter_device_release(communicator.get(), memory), communicator.get());
}

}  // namespace

int main() {
  Group group(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < group.size(); ++rank) {
    ranks.emplace_back([&group, rank] {
      try {
        run(group, rank);
      } catch (const std::exception& error) {
        std::cerr << "rank " << rank << ": " << error.what() << '\n';
        std::_Exit(1);
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  std::cout << "3 ranks are done\n";
}
