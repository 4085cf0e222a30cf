// The data of `arbiter report`, as the page's script reads it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "report/family_curves.hpp"
#include "text/environment.hpp"
#include "text/measured.hpp"

namespace arbiter::cli {

/// One environment of one file.
struct ReportPart {
  std::string file;
  Environment environment;
  FamilyCurves curves;
  std::vector<Decision> decisions;
  std::vector<DecisionMeasurements> measured;  ///< of each decision
  const Contents* contents = nullptr;          ///< whose runs are shown; null: there are none
  std::map<std::string, Candidate> owned;      ///< what `curves` points to, where that is not in `contents`
};

/// The environments of a database that the filter admits, GPUs first. Throws DatabaseError if nothing is left to draw.
/// The parts point into the contents.
std::vector<ReportPart> report_parts(const Contents&, const EnvironmentFilter&, const std::string& file);

/// One JSON object that is safe inside a <script> element, whatever the files hold:
/// `version`, `file` (all of them); `families` [`name`, `backend`, `algorithm`, `base` (the name without what runs
/// behind it), `unfused`, `colour` (the same number for an algorithm in every report)]; `candidates` (names);
/// `environments` [`key`, `file`, `title`, `facts` [[name, value]], `snapshot`, `runs` [...], `problems` [`pattern`,
/// `dtype`, `mode`, `world`, `hidden`, `tokens`, `bytes`, `tried`, `timed`, `winner` (candidate or -1),
/// `winner_family`, `points` [[family, candidate, median, interval's low, high], ...]], `decisions` [...]]. A point is
/// the best candidate of a family; families and candidates are indices. Times in microseconds. Calls in place are left
/// out. Equal files give equal text.
std::string report_data(const std::vector<ReportPart>& parts);

/// The whole page around the data. Contains everything it needs; opens without a network.
std::string report_page(const std::string& data);

}  // namespace arbiter::cli
