// Bootstraps of groups within a group, for conformance cases: nothing here is for use.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "arbiter/bootstrap.hpp"

namespace arbiter::tuning {

/// Ranks of a parent group, in the order of their ranks in the sub-group. The parent's exchanges carry the members', so
/// members exchange only inside together(), which all ranks of the parent call.
class Subgroup {
 public:
  Subgroup(Bootstrap& parent, std::vector<int> members);

  bool member() const noexcept { return bootstrap_ != nullptr; }
  const std::vector<int>& members() const noexcept { return members_; }

  /// Collective over the parent. Runs `step` on the members with their bootstrap; the others take part in the exchanges
  /// until all members are done. What `step` throws on a member is thrown there, and Poisoned everywhere else.
  void together(const std::function<void(std::shared_ptr<Bootstrap>)>& step);

 private:
  class Member;
  Bootstrap& parent_;
  std::vector<int> members_;
  std::shared_ptr<Member> bootstrap_;  ///< null on ranks that are no members
};

}  // namespace arbiter::tuning
