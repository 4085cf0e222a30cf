#include "memory/descriptor_exchange.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "arbiter/error.hpp"
#include "arbiter/generator/folder.hpp"
#include "environment/process_identity.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t token_length = 32;
constexpr int most_at_once = 64;  // messages taken from a socket before the next look at everything else

struct Message {
  std::array<char, 8> magic;
  std::array<char, token_length> token;  // the receiver's
  int from;
};
constexpr std::array<char, 8> magic{'A', 'R', 'B', 'T', 'f', 'd', '0', '1'};

[[noreturn]] void fail(const std::string& what) { throw DeviceError(what + " failed: " + std::strerror(errno)); }

struct SocketAddress {
  sockaddr_un address{};
  socklen_t length = 0;
};

SocketAddress unix_address(const std::string& name, bool abstract) {
  SocketAddress made;
  made.address.sun_family = AF_UNIX;
  const std::size_t first = abstract ? 1 : 0;  // sun_path[0] == 0: abstract
  if (name.size() + 1 > sizeof(made.address.sun_path)) {
    throw DeviceError("the name of a Unix socket is too long: " + name);
  }
  std::memcpy(made.address.sun_path + first, name.data(), name.size());
  made.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + 1);
  return made;
}

// Through the descriptor of the folder, whose name may be long and may lead elsewhere by now.
SocketAddress address_in(int folder) { return unix_address(fmt::format("/proc/self/fd/{}/mailbox", folder), false); }

FileDescriptor open_mailbox(const SocketAddress& address) {
  FileDescriptor made(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!made) fail("socket(AF_UNIX)");
  const int on = 1;
  if (setsockopt(made.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) fail("setsockopt(SO_PASSCRED)");
  if (bind(made.get(), reinterpret_cast<const sockaddr*>(&address.address), address.length) != 0) {
    fail("binding a Unix socket");
  }
  return made;
}

enum class Sent { yes, queue_is_full, nobody_there };

Sent try_send(int socket, const SocketAddress& to, Message message, int descriptor) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec data{&message, sizeof(message)};
  msghdr header{};
  header.msg_name = const_cast<sockaddr_un*>(&to.address);
  header.msg_namelen = to.length;
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  if (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(message))) return Sent::yes;
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR) return Sent::queue_is_full;
  return Sent::nobody_there;
}

// Where a peer's messages go: its private folder where this process sees it, else the abstract name.
class Mailslot {
 public:
  explicit Mailslot(const DescriptorMailbox::Address& address)
      : folder_(address.folder.empty() ? FolderResult{} : open_trusted_folder(std::filesystem::path(address.folder))),
        abstract_(unix_address(address.socket, true)) {}

  bool send(int socket, const Message& message, int descriptor) const {
    if (folder_.folder) {
      const Sent sent = try_send(socket, address_in(folder_.folder.get()), message, descriptor);
      if (sent != Sent::nobody_there) return sent == Sent::yes;
    }
    const Sent sent = try_send(socket, abstract_, message, descriptor);
    if (sent == Sent::nobody_there) fail("sending a file descriptor to a peer process");
    return sent == Sent::yes;
  }

 private:
  FolderResult folder_;
  SocketAddress abstract_;
};

struct Received {
  bool any = false;       // a datagram was taken from the queue
  bool complete = false;  // it was a whole message of this user's or root's
  Message message{};
  FileDescriptor descriptor;
};

Received try_receive(int socket) {
  Received received;
  // Room for more than one: a stranger may send several, and every one that arrives must be closed.
  constexpr std::size_t most = 16;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(most * sizeof(int)) + CMSG_SPACE(sizeof(ucred))> control{};
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
  bool of_this_user = false;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
      ucred sender{};  // filled by the kernel
      std::memcpy(&sender, CMSG_DATA(part), sizeof(sender));
      of_this_user = sender.uid == getuid() || sender.uid == geteuid() || sender.uid == 0;
    }
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t descriptors = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < descriptors; ++i, ++count) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      received.descriptor = FileDescriptor(descriptor);  // closes the one before, if a stranger sent several
    }
  }
  received.complete = length == static_cast<ssize_t>(sizeof(Message)) && count == 1 && of_this_user &&
                      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  return received;
}

}  // namespace

DescriptorMailbox::DescriptorMailbox() {
  address_.socket = "arbiter-" + random_token();
  address_.token = random_token(token_length / 2);
  socket_ = open_mailbox(unix_address(address_.socket, true));
  try {
    folder_.emplace();
    private_socket_ = open_mailbox(address_in(folder_->descriptor()));
    address_.folder = folder_->path().string();
  } catch (const Error&) {  // no place for temporary files, or one without sockets: the abstract one has to do
    private_socket_ = {};
    folder_.reset();
  }
}

std::vector<FileDescriptor> DescriptorMailbox::exchange(int my_rank, int mine, const std::vector<Peer>& peers,
                                                        std::chrono::milliseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  std::vector<FileDescriptor> received(peers.size());
  std::vector<bool> sent(peers.size(), false);
  std::size_t missing = peers.size();
  std::vector<Mailslot> slots;
  for (const Peer& peer : peers) {
    if (peer.address.token.size() != token_length) throw DeviceError("a peer's socket token has a wrong length");
    slots.emplace_back(peer.address);
  }
  const auto take = [&](const Received& got, FileDescriptor descriptor) {
    // Anything that is not a peer's message is dropped, with its descriptors.
    if (!got.complete || got.message.magic != magic ||
        std::memcmp(got.message.token.data(), address_.token.data(), token_length) != 0) {
      return;
    }
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (peers[i].rank == got.message.from && !received[i]) {
        received[i] = std::move(descriptor);
        --missing;
        return;
      }
    }
  };

  while (true) {
    bool all_sent = true;
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (sent[i]) continue;
      Message message{};
      message.magic = magic;
      std::memcpy(message.token.data(), peers[i].address.token.data(), token_length);
      message.from = my_rank;
      sent[i] = slots[i].send(socket_.get(), message, mine);
      all_sent = all_sent && sent[i];
    }
    for (const FileDescriptor* from : {&private_socket_, &socket_}) {
      // Bounded, so that whoever keeps a socket busy holds up neither the own messages nor the deadline.
      for (int i = 0; *from && i < most_at_once; ++i) {
        Received got = try_receive(from->get());
        if (!got.any) break;
        take(got, std::move(got.descriptor));
      }
    }
    if (missing == 0 && all_sent) return received;

    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) break;
    // A full queue cannot be polled for on an unconnected socket: look again soon.
    std::array<pollfd, 2> waits{{{socket_.get(), POLLIN, 0}, {private_socket_.get(), POLLIN, 0}}};  // -1 is skipped
    poll(waits.data(), waits.size(), static_cast<int>(std::min<long>(left.count(), all_sent ? 100 : 2)));
  }
  for (std::size_t i = 0; i < peers.size(); ++i) {
    if (!received[i] || !sent[i]) {
      throw Unavailable(fmt::format("rank {} exchanged no file descriptor with rank {} within {} ms", my_rank,
                                    peers[i].rank, deadline.count()));
    }
  }
  return received;
}

}  // namespace arbiter
