// What a stranger sends to rank 0, or says in the place of rank 0: nobody gets an id without being a rank, and nobody
// takes one from who does not know the job's secret.
//   input: a byte of choices, then what arrives
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdlib>
#include <string_view>

// For the classes behind the two functions of its header.
#include "bootstrap/id_exchange_tcp.cpp"

namespace {

using namespace arbiter;

void require(bool condition) {
  if (!condition) std::abort();
}

/// Sends as much as the socket takes, and nothing more after it.
void say(int fd, std::string_view bytes) {
  (void)!send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
}

struct Listener {
  sockaddr_un address{};
  FileDescriptor fd{socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
  Listener() {  // autobound to an abstract name
    address.sun_family = AF_UNIX;
    socklen_t length = sizeof(sa_family_t);
    require(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0 && listen(fd.get(), 16) == 0);
    length = sizeof(address);
    require(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
    length_ = length;
  }
  FileDescriptor connected() const {
    FileDescriptor stranger(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    require(connect(stranger.get(), reinterpret_cast<const sockaddr*>(&address), length_) == 0);
    return stranger;
  }

 private:
  socklen_t length_ = 0;
};

bool holds_id(int fd, const NcclId& id) {
  std::string heard(4096, '\0');
  const ssize_t got = recv(fd, heard.data(), heard.size(), MSG_DONTWAIT);
  heard.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return heard.find(std::string_view(id.bytes.data(), id.bytes.size())) != std::string::npos;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  IdExchange exchange;
  exchange.job = "job";
  exchange.size = 3;
  if ((data[0] & 1U) != 0) exchange.secret = "of this job alone";
  NcclId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<char>(i * 7 + 3);
  try {
    if ((data[0] & 2U) != 0) {  // rank 0 hears a stranger, and then hears it end
      static const Listener listener;
      Server server(exchange, id);
      const FileDescriptor stranger = listener.connected(), silent = listener.connected();
      say(stranger.get(), bytes);
      for (int i = 0; i < 4; ++i) server.look(listener.fd, Milliseconds(0));
      require(!holds_id(silent.get(), id));
      // Without a secret a stranger may be a rank; with one it has to prove that it knows it.
      if (!exchange.secret.empty()) require(!holds_id(stranger.get(), id));
    } else {  // a rank asks a stranger
      exchange.rank = 1;
      int ends[2];
      require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
      const FileDescriptor stranger(ends[0]), mine(ends[1]);
      say(stranger.get(), bytes);
      const bool got = Client(exchange).talk(mine, 29500, Clock::now() + Milliseconds(1000));
      if (!exchange.secret.empty()) require(!got);
    }
  } catch (const Error&) {
  }
  return 0;
}
