#include "verify/inputs.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::uint64_t residual_salt = 0x7e51d0a1ULL;

/// No powers of two, and such that normalised values use most of the range.
float scale_for(const Composition& composition) noexcept {
  if (!composition.quantisation) return 1.0F;
  return composition.quantisation->kind == Quantisation::Kind::nvfp4 ? 433.7F : 0.0137F;
}

}  // namespace

Inputs make_inputs(const Composition& composition, Dtype dtype, std::int64_t rows, int hidden, int rank,
                   const InputChoice& choice) {
  Inputs inputs;
  inputs.choice = choice;
  inputs.rows = rows;
  if (composition.moe()) {
    const bool finalize = composition.prologue == Composition::Prologue::moe_finalize;
    inputs.moe = make_moe_tiles(choice.content, dtype, rows, hidden, rank, choice.seed, finalize, choice.moe);
    inputs.contribution = contribution(inputs.moe, dtype, rows, hidden);
  } else {
    inputs.contribution = make_tile(choice.content, dtype, rows, hidden, rank, choice.seed);
  }
  // Rows of zeros must stay zeros behind the residual.
  const Content residual = choice.content == Content::extremes ? Content::extremes : Content::random;
  inputs.residual = make_tile(residual, dtype, rows, hidden, 0, choice.seed ^ residual_salt);
  inputs.gamma = make_gamma(choice.gamma_fp32 ? Dtype::fp32 : dtype, hidden, choice.seed);
  inputs.scale = scale_for(composition);
  return inputs;
}

}  // namespace arbiter::tuning
