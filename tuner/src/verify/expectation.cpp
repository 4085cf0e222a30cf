#include "verify/expectation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arbiter/error.hpp"
#include "measure/standalone.hpp"
#include "oracle/float_formats.hpp"
#include "oracle/fp8_transport.hpp"
#include "verify/compare.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::size_t kept_expectations = 8;

Bytes repeated(const Bytes& tile, std::size_t size) {
  Bytes result(size);
  for (std::size_t at = 0; at < size; at += tile.size()) {
    std::copy_n(tile.begin(), std::min(tile.size(), size - at), result.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return result;
}

}  // namespace

void apply(const VerifyRequest& request, Call& call) {
  call.epsilon = request.epsilon;
  call.weight_bias = request.weight_bias;
  const auto leave_out = [&](Tensor tensor, void*& pointer) {
    if (request.without.has(tensor)) pointer = nullptr;
  };
  leave_out(Tensor::output, call.output);
  leave_out(Tensor::residual_out, call.residual_out);
  leave_out(Tensor::norm_out, call.norm_out);
}

Expectations::Expectations(Group& group, const ProblemFamily& family, StreamHandle stream, HostBuffer& host)
    : group_(group),
      family_(family),
      pattern_(group.catalogue().pattern(family.pattern)),
      composition_(read_composition(family.pattern, family.hidden)),
      rows_(tile_rows(family.hidden, family.dtype, family.max_tokens)),
      stream_(stream),
      host_(host) {
  if (!composition_.unknown.empty()) {
    standalone_pattern_ = pattern_.without_prologue();
  } else if (const PartEntry* norm = pattern_.part(PartKind::norm)) {
    standalone_pattern_ = "allreduce_" + norm->name;
  } else {
    return;
  }
  ProblemFamily stages = family;
  stages.pattern = standalone_pattern_;
  standalone_ = load_standalone(group, stages);
}

InputChoice Expectations::choice_of(const VerifyRequest& request) const {
  InputChoice choice{request.content, request.seed, request.gamma_fp32, request.moe};
  // What the pattern does not have makes no difference.
  if (!pattern_.uses(Tensor::gamma)) choice.gamma_fp32 = false;
  if (!composition_.moe()) choice.moe = {};
  return choice;
}

Expectation& Expectations::of(const VerifyRequest& request, int rounded_legs) {
  const bool repeats = rounded_legs == 0 || static_cast<std::size_t>(family_.hidden) % fp8_group == 0;
  const Key key{choice_of(request), request.epsilon, request.weight_bias, rounded_legs, repeats ? 0 : request.tokens};
  for (const auto& [its_key, expectation] : known_) {
    if (its_key == key) return *expectation;
  }
  if (known_.size() >= kept_expectations) known_.erase(known_.begin());
  auto expectation = std::make_unique<Expectation>();
  for (int rank = 0; rank < group_.size(); ++rank) {
    Inputs inputs = make_inputs(composition_, family_.dtype, rows_, family_.hidden, rank, key.choice);
    expectation->contributions.push_back(inputs.contribution);
    if (rank == group_.rank()) expectation->mine = std::move(inputs);
  }
  expectation->rows = repeats ? rows_ : request.tokens;
  const auto elements = static_cast<std::size_t>(expectation->rows) * static_cast<std::size_t>(family_.hidden);
  follow_the_stages(rounded_legs == 0 ? sum_in_rank_order(expectation->contributions, family_.dtype)
                                      : fp8_sum(expectation->contributions, family_.dtype, elements, rounded_legs),
                    request, *expectation);
  return *known_.emplace_back(key, std::move(expectation)).second;
}

void Expectations::keep_on_device(Expectation& expectation) {
  for (const auto& [tensor, tile] : expectation.tiles) {
    if (expectation.on_device.count(tensor) != 0) continue;
    try {
      DeviceMemory memory(group_.device(), tile.size());
      group_.device().copy(memory.data(), tile.data(), tile.size(), stream_);
      expectation.on_device.emplace(tensor, std::move(memory));
    } catch (const Unavailable&) {
      return;  // the host compares what has no tile here
    }
  }
}

double Expectations::sum_error(const VerifyRequest& request, int rounded_legs) {
  const Expectation& expectation = of(request, rounded_legs);
  return relative_error(expectation.tiles.at(Tensor::output), expectation.contributions, family_.dtype);
}

void Expectations::follow_the_stages(Bytes sum, const VerifyRequest& request, Expectation& expectation) {
  const Inputs& mine = expectation.mine;
  std::map<Tensor, Bytes>& tiles = expectation.tiles;
  if (!composition_.unknown.empty()) {
    tiles = run_standalone(sum, mine, request, expectation.rows);
    tiles.erase(Tensor::scale_out);  // does not repeat
    tiles[Tensor::output] = std::move(sum);
    return;
  }
  tiles[Tensor::output] = sum;
  Bytes stage = std::move(sum);
  if (composition_.residual)
    stage = tiles[Tensor::residual_out] = plus_residual(stage, repeated(mine.residual, stage.size()), family_.dtype);
  if (standalone_) {
    Bytes norm = run_standalone(stage, mine, request, expectation.rows).at(Tensor::norm_out);
    expectation.fault = norm_fault(stage, norm, mine, request);
    stage = tiles[Tensor::norm_out] = std::move(norm);
  }
  if (composition_.quantisation) {
    expectation.quantised = quantise(stage, family_.dtype, family_.hidden, *composition_.quantisation, mine.scale);
    tiles[Tensor::quant_out] = expectation.quantised->values;
  }
}

std::map<Tensor, Bytes> Expectations::run_standalone(const Bytes& input, const Inputs& mine,
                                                     const VerifyRequest& request, std::int64_t tokens) {
  Device& device = group_.device();
  Tensors set(device, {group_.catalogue().pattern(standalone_pattern_), family_.dtype, family_.hidden}, tokens);
  Inputs inputs;
  inputs.choice = mine.choice;
  inputs.rows = mine.rows;
  inputs.contribution = input;
  inputs.residual = mine.residual;
  inputs.gamma = mine.gamma;
  inputs.scale = mine.scale;
  set.load(inputs, tokens, stream_);
  set.poison(tokens, stream_);
  Call call = set.call(tokens);
  call.epsilon = request.epsilon;
  call.weight_bias = request.weight_bias;
  standalone_->enqueue(call, stream_);
  std::map<Tensor, Bytes> outputs;
  for (const Tensor tensor : outputs_of(set.shapes().pattern)) {
    outputs[tensor] = set.read(tensor, 0, set.shapes().bytes(tensor, tokens), host_, stream_);
  }
  return outputs;
}

/// Row by row against float64: values whose squares leave the range of fp32 have no norm there.
std::string Expectations::norm_fault(const Bytes& input, const Bytes& norm, const Inputs& mine,
                                     const VerifyRequest& request) const {
  if (composition_.norm == Composition::Norm::none) return {};
  const auto width = static_cast<std::size_t>(family_.hidden);
  const std::size_t row_bytes = width * element_bytes(family_.dtype);
  const NormWeights weights{mine.gamma, mine.choice.gamma_fp32 ? Dtype::fp32 : family_.dtype,
                            static_cast<double>(request.epsilon), static_cast<double>(request.weight_bias)};
  const std::vector<double> values = tuning::in_double(input, family_.dtype);
  const auto rows = static_cast<std::int64_t>(input.size() / row_bytes);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::size_t first = static_cast<std::size_t>(row) * width;
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += values[first + i] * values[first + i];
    const std::span<const unsigned char> found(norm.data() + first / width * row_bytes, row_bytes);
    if (std::isnan(squares)) {
      for (std::size_t i = 0; i < width; ++i) {
        if (std::isnan(formats::read(found.data(), i, family_.dtype))) continue;
        return fmt::format(
            "the stand-alone norm itself is wrong: row {} of its input has a NaN, and element {} of the norm is a "
            "number",
            row, i);
      }
    }
    if (!(squares < 1e37)) continue;
    const std::vector<double> expected =
        normalised(composition_.norm, {values.data() + first, width}, family_.hidden, weights);
    TolerantComparison comparison(expected, family_.dtype, family_.hidden, tolerance(family_.dtype, 1));
    comparison.visit(0, found);
    const std::string what = comparison.verdict();
    if (!what.empty()) return fmt::format("the stand-alone norm itself is wrong: in row {}, {}", row, what);
  }
  return {};
}

const std::vector<double>& Expectations::in_double(Expectation& expectation, Tensor tensor,
                                                   const VerifyRequest& request) const {
  std::map<Tensor, std::vector<double>>& known = expectation.in_double;
  if (known.empty()) {
    std::vector<double> values = sum_in_double(expectation.contributions, family_.dtype);
    known[Tensor::output] = values;
    const Inputs& mine = expectation.mine;
    if (composition_.residual) {
      const std::vector<double> residual = tuning::in_double(mine.residual, family_.dtype);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += residual[i];
      known[Tensor::residual_out] = values;
    }
    if (composition_.norm != Composition::Norm::none) {
      const NormWeights weights{mine.gamma, mine.choice.gamma_fp32 ? Dtype::fp32 : family_.dtype,
                                static_cast<double>(request.epsilon), static_cast<double>(request.weight_bias)};
      known[Tensor::norm_out] = normalised(composition_.norm, values, family_.hidden, weights);
    }
  }
  return known[tensor];
}

Tensor Expectations::quantised_tensor() const noexcept {
  if (pattern_.uses(Tensor::norm_out)) return Tensor::norm_out;
  return composition_.residual ? Tensor::residual_out : Tensor::output;
}

Bytes Expectations::scales(const Expectation& expectation, const VerifyRequest& request, std::int64_t tokens) {
  if (expectation.quantised) {
    return arrange_scales(*expectation.quantised, *composition_.quantisation, family_.hidden, tokens);
  }
  return run_standalone(expectation.tiles.at(Tensor::output), expectation.mine, request, tokens)[Tensor::scale_out];
}

}  // namespace arbiter::tuning
