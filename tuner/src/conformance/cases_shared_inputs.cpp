// Kernels that pull read inputs where they lie if all ranks can address them: symmetric memory, memory that was
// registered, neither, or one on some ranks and another on others.
#include <algorithm>
#include <cstring>
#include <optional>

#include "conformance/case_list.hpp"
#include "measure/stream.hpp"
#include "oracle/float_formats.hpp"
#include "tune/outcome.hpp"
#include "verify/compare.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::int64_t most_tokens = 600;

enum class Where : std::uint8_t { symmetric, registered, neither };
constexpr std::string_view where_names[] = {"symmetric", "registered", "private"};

struct Arrangement {
  Where even_ranks;
  Where odd_ranks;
  bool shared_output;
  bool in_place;
};
constexpr Arrangement arrangements[] = {
    {Where::symmetric, Where::symmetric, false, false}, {Where::registered, Where::registered, true, false},
    {Where::symmetric, Where::neither, true, false},    {Where::registered, Where::symmetric, false, false},
    {Where::symmetric, Where::symmetric, false, true},  {Where::neither, Where::registered, false, true}};

std::string text_of(const Arrangement& arrangement) {
  return std::string(where_names[static_cast<std::size_t>(arrangement.even_ranks)]) + " and " +
         std::string(where_names[static_cast<std::size_t>(arrangement.odd_ranks)]) + " inputs in turn" +
         (arrangement.in_place        ? ", in place"
          : arrangement.shared_output ? ", symmetric output"
                                      : "");
}

/// The buffers of one rank, in a communicator of their own.
class SharedInputs {
 public:
  SharedInputs(ConformanceBench& bench, const ProblemFamily& shape)
      : bench_(bench),
        shape_(shape),
        bytes_(static_cast<std::size_t>(most_tokens * shape.hidden) * element_bytes(shape.dtype)),
        stream_(bench.group().device()),
        registered_(bench.group().device(), bytes_),
        private_(bench.group().device(), bytes_),
        output_(bench.group().device(), bytes_),
        communicator_(bench.make_communicator(bench.shared_bootstrap(), Backend::custom)) {
    communicator_->prepare({&shape, 1});
    symmetric_ = communicator_->allocate_symmetric(bytes_);
    symmetric_output_ = communicator_->allocate_symmetric(bytes_);
    communicator_->register_buffer(registered_.data(), bytes_);
  }

  /// Collective.
  void release() {
    communicator_->release_shared(registered_.data());
    communicator_.reset();
  }

  Outcome run(const Arrangement& arrangement, std::int64_t tokens, std::uint64_t seed) {
    Device& device = bench_.group().device();
    const int rank = bench_.group().rank(), size = bench_.group().size();
    std::vector<Bytes> tiles;
    for (int each = 0; each < size; ++each) {
      tiles.push_back(make_tile(Content::mixed, shape_.dtype, tokens, shape_.hidden, each, seed));
    }
    const Bytes expected = sum_in_rank_order(tiles, shape_.dtype);
    const Bytes& mine = tiles[static_cast<std::size_t>(rank)];
    void* const input = data(rank % 2 == 0 ? arrangement.even_ranks : arrangement.odd_ranks);
    void* const output = arrangement.in_place ? input : arrangement.shared_output ? symmetric_output_ : output_.data();
    Outcome prepared = together(bench_.group(), stream_, [&]() -> Outcome {
      device.fill_words(output, 0xffffffffU, bytes_ / sizeof(std::uint32_t), stream_);
      device.copy(input, mine.data(), mine.size(), stream_);
      return {};
    });
    if (!prepared.ok()) return prepared;
    return together(bench_.group(), stream_, [&]() -> Outcome {
      Call call;
      call.pattern = shape_.pattern;
      call.dtype = shape_.dtype;
      call.hidden = shape_.hidden;
      call.tokens = tokens;
      call.input = input;
      call.output = output;
      communicator_->run(call, stream_);
      Bytes found(expected.size());
      device.copy(found.data(), output, found.size(), stream_);
      device.synchronize(stream_);
      communicator_->check();
      ExactComparison comparison(expected, shape_.dtype, static_cast<std::size_t>(shape_.hidden));
      comparison.visit(0, found);
      const std::string difference = comparison.verdict();
      if (difference.empty()) return {};
      return {Severity::wrong,
              text_of(arrangement) + ", " + tokens_text(tokens) + " with " + name(tokens) + ": " + difference};
    });
  }

 private:
  void* data(Where where) const {
    return where == Where::symmetric ? symmetric_ : where == Where::registered ? registered_.data() : private_.data();
  }
  std::string name(std::int64_t tokens) const {
    const Problem problem{shape_.pattern,        shape_.dtype, shape_.hidden, tokens,
                          bench_.group().size(), Mode::graph,  false};
    return communicator_->explain(problem).candidate.name;
  }

  ConformanceBench& bench_;
  ProblemFamily shape_;
  std::size_t bytes_;
  Stream stream_;
  DeviceMemory registered_, private_, output_;
  std::unique_ptr<Communicator> communicator_;
  void* symmetric_ = nullptr;
  void* symmetric_output_ = nullptr;
};

Verification shared_inputs(ConformanceBench& bench, const ProblemFamily& shape) {
  SharedInputs inputs(bench, shape);
  std::uint64_t seed = 1;
  for (const Arrangement& arrangement : arrangements) {
    for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{23}, most_tokens}) {
      const Outcome outcome = inputs.run(arrangement, tokens, seed++);
      if (!outcome.ok()) return {status_of(outcome.severity), outcome.reason};
    }
  }
  inputs.release();
  return {};
}

}  // namespace

void add_shared_input_cases(CaseList& list) {
  if (!list.area_wanted("plain")) return;
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    if (algorithm->backend != Backend::custom || !list.algorithm_wanted(*algorithm)) continue;
    for (const Dtype dtype : all_dtypes) {
      if (list.on_cpu() && !list.full() && dtype != Dtype::bf16) continue;
      const ProblemFamily shape = list.family(plain_pattern, dtype, list.hidden(), most_tokens);
      CaseResult result =
          list.describe("plain", shape, "symmetric, registered and private inputs, on all or some of the ranks");
      result.backend = Backend::custom;
      list.add_case(std::move(result), list.group().capabilities().symmetric_reason,
                    [shape](ConformanceBench& bench) { return shared_inputs(bench, shape); });
    }
    return;  // the communicator chooses among the algorithms of this backend
  }
}

}  // namespace arbiter::tuning
