// Passes one file descriptor from every process to every other process of a host, over Unix sockets.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/temporary_folder.hpp"

namespace arbiter {

/// One rank's mailbox: a Unix datagram socket in a private folder, which no other user reaches. Ranks in containers
/// that share a network but no files use an abstract socket beside it, which every process of the network can list and
/// keep busy. A message counts only from the own user or root and with the secret token, which travels through the
/// bootstrap alone.
class DescriptorMailbox {
 public:
  struct Address {
    std::string socket;  ///< abstract name, without the leading zero byte
    std::string token;   ///< secret that senders must show
    std::string folder;  ///< where the other socket lies; empty if there was no place for one
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
  std::optional<TemporaryFolder> folder_;
  FileDescriptor private_socket_;  ///< in folder_
  Address address_;
};

}  // namespace arbiter
