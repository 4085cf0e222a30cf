// Does verification catch what it is there to catch? Subjects that are wrong on purpose, on the CPU device, whose
// pointers the host can read.
#include "arbiter/tuner/verify.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "arbiter/error.hpp"
#include "oracle/float_formats.hpp"
#include "oracle/reference.hpp"
#include "runtime/forwarding_device.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using tuning::Bytes;

constexpr int hidden = 64;
constexpr std::int64_t tokens = 5;

ProblemFamily plain(Dtype dtype = Dtype::bf16) { return {"allreduce", dtype, hidden, 64, Mode::graph}; }

/// All ranks' inputs, through the bootstrap.
std::vector<Bytes> gather(Group& group, const Call& call) {
  const std::size_t bytes = static_cast<std::size_t>(call.tokens) * hidden * element_bytes(call.dtype);
  Bytes all(bytes * static_cast<std::size_t>(group.size()));
  group.bootstrap().allgather(call.input, bytes, all.data());
  std::vector<Bytes> tiles;
  for (int rank = 0; rank < group.size(); ++rank) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(bytes * static_cast<std::size_t>(rank));
    tiles.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(bytes));
  }
  return tiles;
}

/// Has no more memory to give while it is full.
struct SmallDevice : test::ForwardingDevice {
  explicit SmallDevice(int rank) : ForwardingDevice(make_cpu_device(rank)) {}
  void* allocate(std::size_t bytes) override {
    return full ? throw Unavailable("no memory is left") : ForwardingDevice::allocate(bytes);
  }
  void* allocate_host_visible(std::size_t bytes) override {
    return full ? throw Unavailable("no memory is left") : ForwardingDevice::allocate_host_visible(bytes);
  }
  bool full = false;
};

/// A right answer, then `damage` on top of it.
using Damage = std::function<void(Group&, const Call&)>;
Subject host_sum(Group& group, Numerics numerics, Damage damage, bool reversed = false) {
  return {"host",
          numerics,
          [&group, damage = std::move(damage), reversed](const Call& call, StreamHandle) {
            std::vector<Bytes> tiles = gather(group, call);
            if (reversed) std::reverse(tiles.begin(), tiles.end());
            const Bytes sum = tuning::sum_in_rank_order(tiles, call.dtype);
            std::memcpy(call.output, sum.data(), sum.size());
            if (damage) damage(group, call);
          },
          {}};
}

unsigned char* bytes_of(const Call& call) { return static_cast<unsigned char*>(call.output); }

struct Case {
  const char* what;
  Damage damage;
  const char* reason;  // part of it
};

std::vector<Case> damages() {
  const std::size_t total = static_cast<std::size_t>(tokens) * hidden * 2;
  return {
      {"one bit of one element on every rank", [](Group&, const Call& call) { bytes_of(call)[2 * 70] ^= 1; },
       "token 1, element 6"},
      {"one bit on one rank only",
       [](Group& group, const Call& call) {
         if (group.rank() == 1) bytes_of(call)[0] ^= 1;
       },
       "rank 1: output: token 0, element 0"},
      {"the last element was never written",
       [=](Group&, const Call& call) { std::memset(bytes_of(call) + total - 2, 0xff, 2); },
       "token 4, element 63 is NaN"},
      {"right on average",
       [](Group&, const Call& call) {
         const float a = formats::read(call.output, 0, call.dtype), b = formats::read(call.output, 2, call.dtype);
         formats::write(call.output, 0, call.dtype, a + 1);
         formats::write(call.output, 2, call.dtype, b - 1);
       },
       "2 of 320 elements differ"},
      {"rows in the wrong order",
       [](Group&, const Call& call) { std::swap_ranges(bytes_of(call), bytes_of(call) + 128, bytes_of(call) + 128); },
       "token 0"},
      {"a word behind the end", [=](Group&, const Call& call) { bytes_of(call)[total + 64] = 0; }, "behind its end"},
      {"a word before the start", [](Group&, const Call& call) { bytes_of(call)[-4] = 0; }, "before its start"},
      {"a sentinel left in the result",
       [](Group&, const Call& call) {
         const std::uint32_t word = tuning::sentinel;
         std::memcpy(bytes_of(call) + 8, &word, sizeof(word));
       },
       "elements differ"},
  };
}

TEST(Verify, ACorrectResultPasses) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    testing::on_ranks(3, [&](Group& group) {
      Verifier verifier(group, plain(dtype));
      for (const Content content :
           {Content::integers, Content::random, Content::mixed, Content::special, Content::cancellation}) {
        for (const bool in_place : {false, true}) {
          VerifyRequest request;
          request.tokens = tokens;
          request.content = content;
          request.in_place = in_place;
          request.shift_vectors = in_place ? 3 : 0;
          const Verification verdict = verifier.verify(host_sum(group, Numerics::rank_order_fp32, {}), request);
          EXPECT_TRUE(verdict.ok()) << verdict.reason;
        }
      }
    });
  }
}

TEST(Verify, EveryKindOfDamageIsFoundOnEveryRank) {
  testing::on_ranks(2, [&](Group& group) {
    Verifier verifier(group, plain());
    for (const Case& item : damages()) {
      for (const Content content : {Content::integers, Content::random, Content::mixed}) {
        VerifyRequest request;
        request.tokens = tokens;
        request.content = content;
        const Verification verdict = verifier.verify(host_sum(group, Numerics::rank_order_fp32, item.damage), request);
        EXPECT_EQ(verdict.status, TrialStatus::wrong) << item.what;
        EXPECT_NE(verdict.reason.find(item.reason), std::string::npos) << item.what << ": " << verdict.reason;
      }
    }
  });
}

TEST(Verify, AnotherOrderOfSummationIsNotRankOrder) {
  testing::on_ranks(3, [&](Group& group) {
    Verifier verifier(group, plain(Dtype::fp32));
    VerifyRequest request;
    request.tokens = tokens;
    request.content = Content::cancellation;
    EXPECT_EQ(verifier.verify(host_sum(group, Numerics::rank_order_fp32, {}, true), request).status,
              TrialStatus::wrong);
    request.content = Content::random;
    EXPECT_EQ(verifier.verify(host_sum(group, Numerics::rank_order_fp32, {}, true), request).status,
              TrialStatus::wrong);
    EXPECT_TRUE(verifier.verify(host_sum(group, Numerics::nccl, {}, true), request).ok()) << "another class may";
  });
}

TEST(Verify, OtherClassesMustBeExactOnIntegersAndCloseOtherwise) {
  testing::on_ranks(2, [&](Group& group) {
    Verifier verifier(group, plain());
    const auto verdict = [&](const Damage& damage, Content content) {
      VerifyRequest request;
      request.tokens = tokens;
      request.content = content;
      return verifier.verify(host_sum(group, Numerics::nccl, damage), request).status;
    };
    const Damage one_bit = [](Group&, const Call& call) { bytes_of(call)[2 * 70] ^= 1; };
    EXPECT_EQ(verdict(one_bit, Content::random), TrialStatus::done);
    EXPECT_EQ(verdict(one_bit, Content::integers), TrialStatus::wrong);
    for (const Case& item : damages()) {
      if (std::string(item.what).find("one bit") != std::string::npos) continue;
      if (std::string(item.what).find("sentinel") != std::string::npos) continue;  // a zero and a value near zero
      EXPECT_EQ(verdict(item.damage, Content::random), TrialStatus::wrong) << item.what;
    }
    const Damage scaled = [](Group&, const Call& call) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(tokens) * hidden; ++i) {
        formats::write(call.output, i, call.dtype, formats::read(call.output, i, call.dtype) * 1.02F);
      }
    };
    EXPECT_EQ(verdict(scaled, Content::random), TrialStatus::wrong) << "every element near, the whole too far";
  });
}

TEST(Verify, OneCorruptElementAmongMillionsIsFoundUnderATolerance) {
  testing::on_ranks(2, [&](Group& group) {
    constexpr std::int64_t many = 4096;
    Verifier verifier(group, {"allreduce", Dtype::bf16, hidden, many, Mode::graph});
    const Damage damage = [](Group&, const Call& call) { formats::write(call.output, 200'001, call.dtype, 3.0F); };
    VerifyRequest request;
    request.tokens = many;
    request.content = Content::random;
    const Verification verdict = verifier.verify(host_sum(group, Numerics::nccl, damage), request);
    EXPECT_EQ(verdict.status, TrialStatus::wrong);
    EXPECT_NE(verdict.reason.find("token 3125, element 1 "), std::string::npos) << verdict.reason;
  });
}

TEST(Verify, AnExceptionOnOneRankIsAFailureOnAllAndTheGroupGoesOn) {
  testing::on_ranks(2, [&](Group& group) {
    Verifier verifier(group, plain());
    VerifyRequest request;
    request.tokens = tokens;
    const Damage throwing = [](Group& each, const Call&) {
      if (each.rank() == 1) throw Unsupported("no such thing here");
    };
    const Verification failed = verifier.verify(host_sum(group, Numerics::rank_order_fp32, throwing), request);
    EXPECT_EQ(failed.status, TrialStatus::failed);
    EXPECT_NE(failed.reason.find("rank 1: no such thing here"), std::string::npos) << failed.reason;
    EXPECT_TRUE(verifier.verify(host_sum(group, Numerics::rank_order_fp32, {}), request).ok());
  });
}

/// The first kernel of the catalogue on this device.
std::unique_ptr<RunnableCandidate> first_kernel(Group& group, const ProblemFamily& family) {
  const LoadRequest request{enumerate_candidates(group.capabilities(), family, {}).front(), family};
  LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
  if (!loaded.candidate) throw CompileError(loaded.reason);
  const WorkspaceNeeds needs = loaded.candidate->needs(family.max_tokens);
  group.reserve(needs.push_bytes, needs.staging_bytes);
  return std::move(loaded.candidate);
}

TEST(Verify, ARankThatCannotPrepareIsAFailureOnAllAndTheGroupGoesOn) {
  for (const bool constructing : {false, true}) {
    testing::on_devices(2, [&](std::shared_ptr<Bootstrap> bootstrap, const std::shared_ptr<Device>&) {
      auto device = std::make_shared<SmallDevice>(bootstrap->rank());
      GroupOptions options;
      options.variables = testing::test_variables(std::chrono::seconds(20));
      options.nccl = false;
      const std::unique_ptr<Group> group = make_group(std::move(bootstrap), device, options);
      device->full = constructing && group->rank() == 1;
      if (constructing) {
        try {
          const Verifier verifier(*group, plain());
          ADD_FAILURE() << "rank " << group->rank() << " went on";
        } catch (const Unavailable& error) {
          EXPECT_EQ(
              error.what(),
              std::string(group->rank() == 1 ? "no memory is left"
                                             : "rank 1 could not reserve memory to verify with: no memory is left"));
        }
        device->full = false;
      }
      Verifier verifier(*group, plain());
      VerifyRequest request;
      request.tokens = tokens;
      int enqueued = 0;
      Subject subject = host_sum(*group, Numerics::rank_order_fp32, [&](Group&, const Call&) { ++enqueued; });
      if (!constructing) {
        device->full = group->rank() == 1;
        const Verification failed = verifier.verify(subject, request);
        EXPECT_EQ(failed.status, TrialStatus::failed);
        EXPECT_EQ(failed.reason, "for want of something that may be there next time: rank 1: no memory is left");
        EXPECT_EQ(enqueued, 0) << "a rank whose peer is not ready must not wait for it";
        device->full = false;
        subject.prepare = [&](const Call& call, StreamHandle) {
          EXPECT_EQ(call.tokens, tokens);
          if (group->rank() == 0) throw Unsupported("cannot be captured");
        };
        EXPECT_EQ(verifier.verify(subject, request).reason, "rank 0: cannot be captured");
        EXPECT_EQ(enqueued, 0);
        subject.prepare = {};
      }
      EXPECT_TRUE(verifier.verify(subject, request).ok()) << "there is memory again";
      EXPECT_EQ(enqueued, 1);
      const auto candidate = first_kernel(*group, plain());
      EXPECT_TRUE(verifier.verify(subject_of(*candidate), request).ok()) << "the group's workspace works";
    });
  }
}

TEST(Verify, AKernelThatWaitsForAPeerInVainFailsAndTheNextOneRuns) {
  testing::on_ranks(
      2,
      [&](Group& group) {
        const ProblemFamily family = plain();
        const auto candidate = first_kernel(group, family);
        Verifier verifier(group, family);
        VerifyRequest request;
        request.tokens = tokens;
        Subject absent = subject_of(*candidate);
        absent.enqueue = [&](const Call& call, StreamHandle stream) {
          if (group.rank() == 0) candidate->enqueue(call, stream);
        };
        const Verification failed = verifier.verify(absent, request);
        EXPECT_EQ(failed.status, TrialStatus::failed) << failed.reason;
        EXPECT_TRUE(verifier.verify(subject_of(*candidate), request).ok()) << "the group must have recovered";
      },
      std::chrono::milliseconds(300));
}

/// A subject that runs the candidate on a call that `before` has changed, and damages what it wrote.
Subject altered(Group& group, RunnableCandidate& candidate, const std::function<void(Call&)>& before,
                const std::function<void(const Call&)>& after = {}) {
  Subject subject = subject_of(candidate);
  subject.enqueue = [&group, &candidate, before, after](Call call, StreamHandle stream) {
    const Call asked = call;
    if (before) before(call);
    candidate.enqueue(call, stream);
    group.device().synchronize(stream);
    if (after) after(asked);
  };
  return subject;
}

void flip(void* data, std::size_t byte) { static_cast<unsigned char*>(data)[byte] ^= 1; }

TEST(Verify, EveryStageOfAFusedResultIsChecked) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily family{"allreduce_residual_rmsnorm", Dtype::bf16, hidden, 64, Mode::graph};
    const auto candidate = first_kernel(group, family);
    Verifier verifier(group, family);
    VerifyRequest request;
    request.tokens = tokens;
    for (const bool gamma_fp32 : {false, true}) {
      for (const float weight_bias : {0.0F, 1.0F}) {
        request.gamma_fp32 = gamma_fp32;
        request.weight_bias = weight_bias;
        const Verification verdict = verifier.verify(subject_of(*candidate), request);
        EXPECT_TRUE(verdict.ok()) << verdict.reason;
      }
    }
    const auto reason = [&](const std::function<void(Call&)>& before, const std::function<void(const Call&)>& after) {
      return verifier.verify(altered(group, *candidate, before, after), request).reason;
    };
    EXPECT_NE(reason({}, [](const Call& call) { flip(call.norm_out, 9); }).find("norm_out"), std::string::npos);
    EXPECT_NE(reason({}, [](const Call& call) { flip(call.residual_out, 9); }).find("residual_out"), std::string::npos);
    EXPECT_NE(reason([](Call& call) { call.weight_bias = 0; }, {}), "") << "the bias was ignored";
    EXPECT_NE(reason([](Call& call) { call.epsilon = 1; }, {}), "") << "another epsilon";
  });
}

constexpr const char* quantisations[] = {"fp8_static",   "fp8_token",   "fp8_group16_fp32", "fp8_group16_ue8m0",
                                         "nvfp4_linear", "nvfp4_128x4", "nvfp4_8x4"};

TEST(Verify, QuantisedValuesAndScalesAreCheckedToTheBit) {
  testing::on_ranks(2, [&](Group& group) {
    for (const std::string quantisation : quantisations) {
      const ProblemFamily family{"allreduce_residual_rmsnorm_" + quantisation, Dtype::bf16, hidden, 64, Mode::graph};
      const auto candidate = first_kernel(group, family);
      Verifier verifier(group, family);
      VerifyRequest request;
      request.tokens = tokens;
      const auto expect = [&](const std::string& part, const std::function<void(const Call&)>& damage) {
        const Verification verdict = verifier.verify(altered(group, *candidate, {}, damage), request);
        if (part.empty()) {
          EXPECT_TRUE(verdict.ok()) << quantisation << ": " << verdict.reason;
        } else {
          EXPECT_NE(verdict.reason.find(part), std::string::npos) << quantisation << ": " << verdict.reason;
        }
      };
      expect("", {});
      expect("quant_out: token 0, byte 3 is", [](const Call& call) { flip(call.quant_out, 3); });
      expect("wrote outside of quant_out",
             [&](const Call& call) { flip(call.quant_out, quant_out_bytes(family.pattern, hidden, tokens)); });
      if (quantisation != "fp8_static") {
        expect("scale_out: the scale of token 0, group 0 is", [](const Call& call) { flip(call.scale_out, 0); });
        expect("wrote outside of scale_out", [](const Call& call) { flip(call.scale_out, call.scale_out_bytes); });
      }
      // 5 tokens leave pads in these layouts.
      if (quantisation.ends_with("x4") || quantisation.ends_with("ue8m0")) {
        expect("scale_out: the pad at byte",
               [](const Call& call) { static_cast<unsigned char*>(call.scale_out)[call.scale_out_bytes - 1] = 0x7f; });
      }
      for (const Content content : {Content::extremes, Content::special}) {
        request.content = content;
        expect("", {});
      }
    }
  });
}

TEST(Verify, LeavingOutAnOptionalOutputChangesNoOther) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily family{"allreduce_residual_rmsnorm_fp8_token", Dtype::bf16, hidden, 64, Mode::graph};
    const auto candidate = first_kernel(group, family);
    Verifier verifier(group, family);
    VerifyRequest request;
    request.tokens = tokens;
    request.without = optional_outputs(group.catalogue().pattern(family.pattern));
    EXPECT_EQ(request.without, (TensorSet{Tensor::residual_out, Tensor::norm_out}));
    EXPECT_TRUE(verifier.verify(subject_of(*candidate), request).ok());
    const Subject different = altered(group, *candidate, {}, [](const Call& call) {
      EXPECT_EQ(call.norm_out, nullptr);
      flip(call.quant_out, 70);
    });
    EXPECT_EQ(verifier.verify(different, request).status, TrialStatus::wrong);
  });
}

TEST(Verify, UnderAToleranceTheSubjectsOwnNormIsQuantised) {
  testing::on_ranks(2, [&](Group& group) {
    for (const std::string quantisation : {"fp8_static", "fp8_group16_ue8m0", "nvfp4_128x4"}) {
      const ProblemFamily family{"allreduce_residual_rmsnorm_" + quantisation, Dtype::fp16, hidden, 200, Mode::graph};
      const auto candidate = first_kernel(group, family);
      Verifier verifier(group, family);
      VerifyRequest request;
      request.tokens = 150;  // more than what is quantised again at either end
      request.content = Content::random;
      const auto verdict = [&](const std::function<void(const Call&)>& damage) {
        Subject subject = altered(group, *candidate, {}, damage);
        subject.numerics = Numerics::nccl;
        return verifier.verify(subject, request);
      };
      EXPECT_TRUE(verdict({}).ok()) << quantisation << ": " << verdict({}).reason;
      EXPECT_FALSE(verdict([](const Call& call) { flip(call.quant_out, 5); }).ok()) << quantisation;
      EXPECT_FALSE(verdict([&](const Call& call) {
                     flip(call.quant_out, quant_out_bytes(family.pattern, hidden, 150) - 1);
                   }).ok())
          << quantisation;
      if (quantisation != "fp8_static") {
        EXPECT_FALSE(verdict([](const Call& call) { flip(call.scale_out, 1); }).ok()) << quantisation;
      }
    }
  });
}

TEST(Verify, MixtureOfExpertsInputsAreChecked) {
  testing::on_ranks(2, [&](Group& group) {
    for (const std::string prologue : {"moe_reduce", "moe_finalize"}) {
      const ProblemFamily family{prologue + "_allreduce_residual_rmsnorm", Dtype::bf16, hidden, 64, Mode::graph};
      const auto candidate = first_kernel(group, family);
      Verifier verifier(group, family);
      VerifyRequest request;
      request.tokens = tokens;
      for (const MoeShape& shape : {MoeShape{}, MoeShape{1, 1, false, true}, MoeShape{16, 8, true, false}}) {
        request.moe = shape;
        const Verification verdict = verifier.verify(subject_of(*candidate), request);
        EXPECT_TRUE(verdict.ok()) << prologue << ": " << verdict.reason;
      }
      const auto expect_wrong = [&](const char* what, const std::function<void(Call&)>& before) {
        EXPECT_EQ(verifier.verify(altered(group, *candidate, before), request).status, TrialStatus::wrong) << what;
      };
      expect_wrong("the shared input was ignored", [](Call& call) { call.moe_shared = nullptr; });
      expect_wrong("an expert was left out", [&](Call& call) {
        if (prologue == "moe_reduce") {
          --call.moe_experts;
        } else {  // the map's rows are then read at the wrong stride, too
          --call.moe_top_k;
        }
      });
      expect_wrong("other weights", [](Call& call) {
        auto* weights = static_cast<unsigned char*>(const_cast<void*>(call.moe_weights));
        std::memset(weights, 0, static_cast<std::size_t>(tokens) * 8 * 2);
      });
    }
  });
}

TEST(Verify, AWrongStandAloneNormIsNotBelieved) {
  // Exact comparison proves that fused equals stand-alone; that the latter is right is checked against float64.
  testing::on_ranks(2, [&](Group& group) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
      const ProblemFamily family{"allreduce_residual_rmsnorm", dtype, hidden, 64, Mode::graph};
      const auto candidate = first_kernel(group, family);
      Verifier verifier(group, family);
      VerifyRequest request;
      request.tokens = tokens;
      for (const Content content : {Content::random, Content::mixed, Content::extremes, Content::special}) {
        request.content = content;
        const Verification verdict = verifier.verify(subject_of(*candidate), request);
        EXPECT_TRUE(verdict.ok()) << to_string(dtype) << ": " << verdict.reason;
      }
      request.content = Content::random;
      Subject tolerated = subject_of(*candidate);
      tolerated.numerics = Numerics::nccl;
      const Verification verdict = verifier.verify(tolerated, request);
      EXPECT_TRUE(verdict.ok()) << to_string(dtype) << ": " << verdict.reason;
    }
  });
}

}  // namespace
}  // namespace arbiter
