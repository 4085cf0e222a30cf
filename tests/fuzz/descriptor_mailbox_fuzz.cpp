// What arrives in a mailbox for file descriptors: what is no peer's message is dropped, and its descriptors are closed.
//   input: a byte of choices, then the message
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "arbiter/error.hpp"
#include "memory/descriptor_exchange.hpp"

namespace {

using namespace arbiter;

/// To one of the two sockets, with some descriptors.
void send_to(const DescriptorMailbox::Address& to, bool abstract, std::string message, std::size_t descriptors) {
  static const FileDescriptor stranger(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::string name = abstract ? to.socket : to.folder + "/mailbox";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + (abstract ? 1 : 0), name.data(), name.size());
  iovec part{message.data(), message.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(32 * sizeof(int))> control{};
  msghdr header{};
  header.msg_name = &address;
  header.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (descriptors != 0) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
    for (std::size_t i = 0; i < descriptors; ++i) {
      const int zero = 0;
      std::memcpy(CMSG_DATA(rights) + i * sizeof(int), &zero, sizeof(int));
    }
  }
  (void)!sendmsg(stranger.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int lowest_free_descriptor() {
  const FileDescriptor probe(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return probe.get();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  static DescriptorMailbox mine, peer;
  static const FileDescriptor memory(open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::string message(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool with_token = (data[0] & 1U) != 0;
  if (with_token && message.size() >= 40) message.replace(8, 32, mine.address().token);
  send_to(mine.address(), (data[0] & 2U) != 0, message, data[0] >> 3U);  // none to 31
  const int before = lowest_free_descriptor();
  try {
    (void)mine.exchange(0, memory.get(), {{1, peer.address()}}, std::chrono::milliseconds(0));
    if (!with_token) std::abort();
  } catch (const Unavailable&) {
  }
  if (lowest_free_descriptor() != before) std::abort();
  return 0;
}
