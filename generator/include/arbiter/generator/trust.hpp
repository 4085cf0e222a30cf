// Whose files and folders are believed: the rule is the same for the kernel cache, for databases that carry kernels and
// for the folder where ranks meet.
#pragma once

#include <sys/stat.h>

#include <string>

namespace arbiter {

/// Why this file or folder is not to be trusted: it belongs to somebody who is neither the user nor root, or others may
/// write to it. Empty if it is to be trusted. `sticky_is_safe`: a folder like /tmp, where nobody can move what others
/// own.
std::string distrust(const struct stat&, bool sticky_is_safe = false);

}  // namespace arbiter
