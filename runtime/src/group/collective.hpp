// Steps that must succeed, or fail, on all ranks together. A rank that fails still takes part, so nobody is left
// waiting.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arbiter/bootstrap.hpp"

namespace arbiter {

/// Collective. Runs `local` on every rank and then tells all ranks how it went. If it threw anywhere, every rank
/// throws: the ranks where it failed rethrow their own exception, the others throw the same kind of error, naming
/// the first rank that failed and its message. `what` completes "rank 2 could not <what>: ...". std::bad_alloc counts
/// as Unavailable.
void everywhere(Bootstrap&, std::string_view what, const std::function<void()>& local);

/// Named values that must be the same on all ranks.
using NamedValues = std::vector<std::pair<std::string, std::string>>;

/// Collective. Throws the same Disagreement on every rank if the values differ: what differs, and on which ranks.
/// `where` opens the message: "prepare", "creating the communicator".
void require_equal(Bootstrap&, std::string_view where, const NamedValues& mine);

/// "rank 2", "ranks 0, 1": for messages.
std::string list_ranks(const std::vector<int>& ranks);

/// Text for one exchange: fields that may contain anything, packed with their lengths.
std::string pack(const std::vector<std::string>& fields);
/// Throws Disagreement for text that pack() did not write.
std::vector<std::string> unpack(std::string_view text);

}  // namespace arbiter
