// Passes one file descriptor from every process to every other process of a host, over Unix sockets.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "memory/file_descriptor.hpp"

namespace arbiter {

/// One rank's mailbox: an abstract Unix datagram socket. Its address is random, but every process of the network
/// namespace can list it, so a message counts only with the secret token, which travels through the bootstrap alone.
class DescriptorMailbox {
 public:
  struct Address {
    std::string socket;  ///< abstract name, without the leading zero byte
    std::string token;   ///< secret that senders must show
  };

  /// Throws DeviceError when the socket cannot be made.
  DescriptorMailbox();
  const Address& address() const noexcept { return address_; }

  struct Peer {
    int rank = 0;
    Address address;
  };
  /// Send `mine` to every peer and receive one descriptor from each; the result is in the order of `peers`. All
  /// peers call this at the same time. Throws Unavailable when one does not arrive in time, naming it.
  std::vector<FileDescriptor> exchange(int my_rank, int mine, const std::vector<Peer>& peers,
                                       std::chrono::milliseconds deadline);

 private:
  FileDescriptor socket_;
  Address address_;
};

}  // namespace arbiter
