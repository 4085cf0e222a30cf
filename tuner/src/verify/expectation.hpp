// What every output of a pattern must hold, for one choice of inputs: for a tile of rows that messages repeat.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "verify/tensors.hpp"

namespace arbiter::tuning {

struct Expectation {
  Inputs mine;                               ///< this rank's
  std::int64_t rows = 0;                     ///< of a tile
  std::vector<Bytes> contributions;          ///< of all ranks
  std::map<Tensor, Bytes> tiles;             ///< of every output except scale_out
  std::map<Tensor, DeviceMemory> on_device;  ///< the same tiles; see keep_on_device()
  std::optional<QuantisedRows> quantised;
  /// Not empty: the stand-alone kernel, on which the expected norm rests, is itself wrong.
  std::string fault;
  /// Sum, residual sum and norm without rounding; filled when a tolerant comparison first asks.
  std::map<Tensor, std::vector<double>> in_double;
};

/// The expectations of one family, computed once for each choice of inputs.
class Expectations {
 public:
  /// Collective: loads the stand-alone kernel of the pattern's norm. Throws Unsupported if there is none. The buffer
  /// must outlive the expectations.
  Expectations(Group&, const ProblemFamily&, StreamHandle, HostBuffer&);

  /// `rounded_legs`: how often values are rounded to 8 bits on their way.
  Expectation& of(const VerifyRequest&, int rounded_legs = 0);
  /// Brings the tiles to the device, if they are not there and there is memory for them. Waits for nothing.
  void keep_on_device(Expectation&);
  /// Relative L2 error of the expected sum against float64.
  double sum_error(const VerifyRequest&, int rounded_legs);
  const std::vector<double>& in_double(Expectation&, Tensor, const VerifyRequest&) const;

  /// What is quantised: the norm, or the sum behind the residual, or the sum.
  Tensor quantised_tensor() const noexcept;
  /// All of scale_out for `tokens` rows.
  Bytes scales(const Expectation&, const VerifyRequest&, std::int64_t tokens);

  const Pattern& pattern() const noexcept { return pattern_; }
  const Composition& composition() const noexcept { return composition_; }
  std::int64_t rows() const noexcept { return rows_; }  ///< of a tile of inputs

 private:
  struct Key {
    InputChoice choice;
    float epsilon = 0;
    float weight_bias = 0;
    int rounded_legs = 0;
    std::int64_t tokens = 0;  ///< where groups that share a scale are not whole in a row: the sum repeats with no tile
    bool operator==(const Key&) const = default;
  };
  InputChoice choice_of(const VerifyRequest&) const;
  std::map<Tensor, Bytes> run_standalone(const Bytes& input, const Inputs&, const VerifyRequest&, std::int64_t tokens);
  void follow_the_stages(Bytes sum, const VerifyRequest&, Expectation&);
  std::string norm_fault(const Bytes& input, const Bytes& norm, const Inputs&, const VerifyRequest&) const;

  Group& group_;
  ProblemFamily family_;
  Pattern pattern_;
  Composition composition_;
  std::int64_t rows_;
  StreamHandle stream_;
  HostBuffer& host_;
  /// "allreduce_rmsnorm", whatever surrounds the norm: the other stages are computed on the host. All stages where the
  /// host does not know one of them. Empty, and no kernel, where nothing needs one.
  std::string standalone_pattern_;
  std::unique_ptr<RunnableCandidate> standalone_;
  std::vector<std::pair<Key, std::unique_ptr<Expectation>>> known_;
};

/// The call's run-time choices, as the request has them.
void apply(const VerifyRequest&, Call&);

}  // namespace arbiter::tuning
