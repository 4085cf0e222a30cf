// What class of results a candidate has.
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {

Numerics numerics_of(const Catalogue& catalogue, const Variant& variant) {
  return catalogue.algorithm(variant.backend, variant.algorithm).numerics;
}

Numerics numerics_of(const Catalogue& catalogue, const CandidateSpec& spec) {
  if (spec.kernel) return numerics_of(catalogue, *spec.kernel);
  return spec.nccl ? Numerics::nccl : Numerics::rank_order_fp32;
}

int rounded_legs(const Catalogue& catalogue, const Candidate& candidate) {
  if (candidate.numerics != Numerics::fp8_transport) return 0;
  return catalogue.algorithm(candidate.backend, candidate.algorithm).steps;
}

}  // namespace arbiter
