#include "memory/descriptor_exchange.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "arbiter/error.hpp"
#include "environment/process_identity.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t token_length = 32;

struct Message {
  std::array<char, 8> magic;
  std::array<char, token_length> token;  // the receiver's
  int from;
};
constexpr std::array<char, 8> magic{'A', 'R', 'B', 'T', 'f', 'd', '0', '1'};

[[noreturn]] void fail(const std::string& what) { throw DeviceError(what + " failed: " + std::strerror(errno)); }

socklen_t fill_address(sockaddr_un& out, const std::string& name) {
  out = {};
  out.sun_family = AF_UNIX;
  if (name.size() + 1 > sizeof(out.sun_path)) throw DeviceError("the name of a Unix socket is too long: " + name);
  std::memcpy(out.sun_path + 1, name.data(), name.size());  // sun_path[0] == 0: abstract
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

// True when sent, false when the receiver's queue is full.
bool try_send(int socket, const std::string& name, Message message, int descriptor) {
  sockaddr_un address{};
  const socklen_t address_length = fill_address(address, name);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec data{&message, sizeof(message)};
  msghdr header{};
  header.msg_name = &address;
  header.msg_namelen = address_length;
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  if (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(message))) return true;
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR) return false;
  fail("sending a file descriptor to a peer process");
}

struct Received {
  bool any = false;       // a datagram was taken from the queue
  bool complete = false;  // it was a whole message
  Message message{};
  FileDescriptor descriptor;
};

Received try_receive(int socket) {
  Received received;
  // Room for more than one: a stranger may send several, and every one that arrives must be closed.
  constexpr std::size_t most = 16;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(most * sizeof(int))> control{};
  iovec data{&received.message, sizeof(received.message)};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t length = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return received;
    fail("receiving a file descriptor from a peer process");
  }
  received.any = true;
  std::size_t count = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t descriptors = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < descriptors; ++i, ++count) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      received.descriptor = FileDescriptor(descriptor);  // closes the one before, if a stranger sent several
    }
  }
  received.complete = length == static_cast<ssize_t>(sizeof(Message)) && count == 1 &&
                      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  return received;
}

}  // namespace

DescriptorMailbox::DescriptorMailbox() {
  socket_ = FileDescriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_) fail("socket(AF_UNIX)");
  address_.socket = "arbiter-" + random_token();
  address_.token = random_token(token_length / 2);
  sockaddr_un address{};
  const socklen_t length = fill_address(address, address_.socket);
  if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) fail("binding a Unix socket");
}

std::vector<FileDescriptor> DescriptorMailbox::exchange(int my_rank, int mine, const std::vector<Peer>& peers,
                                                        std::chrono::milliseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  std::vector<FileDescriptor> received(peers.size());
  std::vector<bool> sent(peers.size(), false);
  std::size_t missing = peers.size();

  while (true) {
    bool all_sent = true;
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (sent[i]) continue;
      Message message{};
      message.magic = magic;
      if (peers[i].address.token.size() != token_length) throw DeviceError("a peer's socket token has a wrong length");
      std::memcpy(message.token.data(), peers[i].address.token.data(), token_length);
      message.from = my_rank;
      sent[i] = try_send(socket_.get(), peers[i].address.socket, message, mine);
      all_sent = all_sent && sent[i];
    }
    for (Received got = try_receive(socket_.get()); got.any; got = try_receive(socket_.get())) {
      // Anything that is not a peer's message is dropped, with its descriptors.
      if (!got.complete || got.message.magic != magic ||
          std::memcmp(got.message.token.data(), address_.token.data(), token_length) != 0) {
        continue;
      }
      for (std::size_t i = 0; i < peers.size(); ++i) {
        if (peers[i].rank == got.message.from && !received[i]) {
          received[i] = std::move(got.descriptor);
          --missing;
        }
      }
    }
    if (missing == 0 && all_sent) return received;

    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) break;
    // A full queue cannot be polled for on an unconnected socket: look again soon.
    pollfd wait{socket_.get(), POLLIN, 0};
    poll(&wait, 1, static_cast<int>(std::min<long>(left.count(), all_sent ? 100 : 2)));
  }
  for (std::size_t i = 0; i < peers.size(); ++i) {
    if (!received[i] || !sent[i]) {
      throw Unavailable("rank " + std::to_string(my_rank) + " exchanged no file descriptor with rank " +
                        std::to_string(peers[i].rank) + " within " + std::to_string(deadline.count()) + " ms");
    }
  }
  return received;
}

}  // namespace arbiter
