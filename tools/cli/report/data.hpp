// The data of `arbiter report`, as the page's script reads it.
#pragma once

#include <string>

#include "arbiter/db/contents.hpp"
#include "text/environment.hpp"

namespace arbiter::cli {

/// One JSON object that is safe inside a <script> element, whatever the database holds:
/// `version`, `file`; `families` [`name`, `backend`, `algorithm`, `base` (the name without what runs behind it),
/// `unfused`]; `candidates` (names); `environments` [`key`, `title`, `facts` [[name, value]], `snapshot`,
/// `runs` [...], `problems` [`pattern`, `dtype`, `mode`, `world`, `hidden`, `tokens`, `bytes`, `tried`, `timed`,
/// `winner` (candidate or -1), `winner_family`, `points` [[family, candidate, median, interval's low, high], ...]],
/// `decisions` [...]]. A point is the best candidate of a family; families and candidates are indices. Times in
/// microseconds. Calls in place are left out. Equal databases give equal text. Throws DatabaseError if nothing is left
/// to draw.
std::string report_data(const Contents&, const EnvironmentFilter&, const std::string& file);

/// The whole page around the data. Contains everything it needs; opens without a network.
std::string report_page(const std::string& data);

}  // namespace arbiter::cli
