// Ranks that MPI started: its communicator is Arbiter's bootstrap, at set-up only; messages go from device to device.
//   mpiexec -n 4 mpi          on the CPU device, on one host
//   mpiexec -n 4 mpi cuda     a GPU for every rank
#include <mpi.h>

#include <arbiter/communicator.hpp>
#include <cstring>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void require(int status) {
  if (status != MPI_SUCCESS) throw std::runtime_error("MPI failed: " + std::to_string(status));
}

/// Any communicator of MPI will do, a part of the world, too; a duplicate keeps our messages from the program's own.
class Group {
 public:
  explicit Group(MPI_Comm of) {
    require(MPI_Comm_dup(of, &comm_));
    require(MPI_Comm_rank(comm_, &rank_));
    require(MPI_Comm_size(comm_, &size_));
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() { MPI_Comm_free(&comm_); }
  int rank() const { return rank_; }
  /// Ranks of the same host count from 0: which GPU to take.
  int local_rank() const {
    MPI_Comm host = MPI_COMM_NULL;
    int rank = 0;
    require(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host));
    require(MPI_Comm_rank(host, &rank));
    require(MPI_Comm_free(&host));
    return rank;
  }
  std::shared_ptr<arbiter::Bootstrap> bootstrap() const {
    arbiter::BootstrapCallbacks callbacks;
    callbacks.rank = rank_;
    callbacks.size = size_;
    callbacks.allgather = [comm = comm_](const void* send, std::size_t bytes, void* receive) {
      const auto count = static_cast<int>(bytes);
      require(MPI_Allgather(send, count, MPI_BYTE, receive, count, MPI_BYTE, comm));
    };
    callbacks.broadcast = [comm = comm_](void* data, std::size_t bytes, int root) {
      require(MPI_Bcast(data, static_cast<int>(bytes), MPI_BYTE, root, comm));
    };
    callbacks.barrier = [comm = comm_] { require(MPI_Barrier(comm)); };
    return arbiter::make_callbacks_bootstrap(callbacks);
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

void run(bool cuda) {
  constexpr std::size_t count = 1000;
  const Group group(MPI_COMM_WORLD);
  const std::shared_ptr<arbiter::Device> device =
      cuda ? arbiter::make_cuda_device(group.local_rank()) : arbiter::make_cpu_device(group.rank());
  device->activate();
  arbiter::Communicator communicator(group.bootstrap(), device);
  const arbiter::ProblemFamily family{"allreduce", arbiter::Dtype::fp32, static_cast<int>(count), 1,
                                      arbiter::Mode::eager};
  communicator.prepare({&family, 1});

  std::vector<float> host(count, static_cast<float>(communicator.rank() + 1));
  const arbiter::DeviceMemory data(*device, count * sizeof(float));
  arbiter::StreamHandle stream = device->create_stream();
  device->copy(data.data(), host.data(), data.bytes(), stream);
  communicator.all_reduce(data.data(), data.data(), static_cast<std::int64_t>(count), family.dtype, stream);
  device->copy(host.data(), data.data(), data.bytes(), stream);
  device->synchronize(stream);
  communicator.check();
  device->destroy_stream(stream);
  const int size = communicator.size();
  float expected = 0;
  for (int rank = 0; rank < size; ++rank) expected += static_cast<float>(rank + 1);
  for (const float element : host) {
    if (element != expected) throw std::runtime_error(std::to_string(element) + " is not the sum");
  }
  if (communicator.rank() == 0) std::cout << size << " ranks of MPI are done\n";
}

}  // namespace

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  try {
    run(count > 1 && std::strcmp(arguments[1], "cuda") == 0);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
}
