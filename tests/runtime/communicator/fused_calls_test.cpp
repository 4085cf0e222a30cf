// What calls of quantised and MoE patterns are refused for, tensor by tensor.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>

#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"
#include "communicator/call_validation.hpp"

namespace arbiter {
namespace {

/// Addresses that are never read: one region for every tensor, far apart.
template <typename T>
T* place(int region) {
  return reinterpret_cast<T*>(std::uintptr_t{1} << 40 | static_cast<std::uintptr_t>(region) << 32);
}

Call sound(std::string_view pattern, Dtype dtype = Dtype::bf16) {
  Call call;
  call.pattern = pattern;
  call.dtype = dtype;
  call.hidden = 128;
  call.tokens = 5;
  call.input = place<void>(0);
  call.output = place<void>(1);
  call.residual_in = place<void>(2);
  call.residual_out = place<void>(3);
  call.gamma = place<void>(4);
  call.norm_out = place<void>(5);
  call.quant_out = place<void>(6);
  call.scale_in = place<float>(7);
  call.scale_out = place<void>(8);
  call.scale_out_bytes = scale_out_bytes(pattern, call.hidden, call.tokens);
  call.moe_weights = place<void>(9);
  call.moe_row_map = place<int>(10);
  call.moe_shared = place<void>(11);
  call.moe_experts = 4;
  call.moe_top_k = 2;
  call.moe_rows = 10;
  return call;
}

/// The refusal of a sound call after `spoil`; "" if it is accepted.
std::string refusal(std::string_view pattern, const std::function<void(Call&)>& spoil, Dtype dtype = Dtype::bf16) {
  Call call = sound(pattern, dtype);
  spoil(call);
  try {
    validate_tensors(Catalogue::builtin().pattern(pattern), {call.dtype, call.hidden, call.tokens}, call);
    return "";
  } catch (const InvalidArgument& error) {
    return error.what();
  }
}

void expect_refused(std::string_view pattern, const std::function<void(Call&)>& spoil, std::string_view part) {
  const std::string message = refusal(pattern, spoil);
  EXPECT_NE(message.find(part), std::string::npos) << pattern << ": '" << message << "' without '" << part << "'";
}

void nothing(Call&) {}

TEST(FusedCalls, TheTableNamesEveryTensor) {
  const Call call = sound("allreduce");
  std::map<std::string_view, const void*> addresses;
  for_each_tensor([&](const auto& entry) { addresses[entry.name] = entry.member(call); });
  const std::map<std::string_view, const void*> expected{{"input", call.input},
                                                         {"output", call.output},
                                                         {"residual_in", call.residual_in},
                                                         {"residual_out", call.residual_out},
                                                         {"gamma", call.gamma},
                                                         {"norm_out", call.norm_out},
                                                         {"quant_out", call.quant_out},
                                                         {"scale_in", call.scale_in},
                                                         {"scale_out", call.scale_out},
                                                         {"moe_weights", call.moe_weights},
                                                         {"moe_row_map", call.moe_row_map},
                                                         {"moe_shared", call.moe_shared}};
  EXPECT_EQ(addresses, expected);
  CallTensors copy;
  copy_tensors(call, copy);
  for_each_tensor([&](const auto& entry) { EXPECT_EQ(entry.member(copy), entry.member(call)) << entry.name; });
  for (std::size_t i = 0; i < tensor_count; ++i) {
    const auto tensor = static_cast<Tensor>(i);
    EXPECT_EQ(tensor_rules.at(i).tensor, tensor) << "a line of the table is not where Tensor has its value";
    EXPECT_EQ(tensor_rules.at(i).name, to_string(tensor));
    set_pointer(copy, tensor, place<void>(20 + static_cast<int>(i)));
  }
  set_pointer(copy, std::nullopt, place<void>(19));
  int region = 19;
  for_each_tensor([&](const auto& entry) { EXPECT_EQ(entry.member(copy), place<void>(region++)) << entry.name; });
}

TEST(FusedCalls, SoundCallsAreAccepted) {
  for (const char* prologue : {"", "moe_reduce_", "moe_finalize_"})
    for (const char* stages : {"", "_residual", "_rmsnorm", "_residual_rmsnorm_fp8_static", "_fp8_token",
                               "_residual_fp8_group32_ue8m0", "_rmsnorm_fp8_group64_fp32", "_residual_nvfp4_8x4"})
      EXPECT_EQ(refusal(std::string(prologue) + "allreduce" + stages, nothing), "");
}

TEST(FusedCalls, RequiredTensorsAreNamed) {
  const char* all = "moe_finalize_allreduce_residual_rmsnorm_nvfp4_linear";
  expect_refused(
      all, [](Call& call) { call.input = nullptr; }, "'input'; it is null");
  expect_refused(
      all, [](Call& call) { call.residual_in = nullptr; }, "'residual_in'; it is null");
  expect_refused(
      all, [](Call& call) { call.gamma = nullptr; }, "'gamma'; it is null");
  expect_refused(
      all, [](Call& call) { call.quant_out = nullptr; }, "'quant_out'; it is null");
  expect_refused(
      all, [](Call& call) { call.scale_in = nullptr; }, "'scale_in'; it is null");
  expect_refused(
      all, [](Call& call) { call.scale_out = nullptr; }, "'scale_out'; it is null");
  expect_refused(
      all, [](Call& call) { call.moe_weights = nullptr; }, "'moe_weights'; it is null");
  expect_refused(
      all, [](Call& call) { call.moe_row_map = nullptr; }, "'moe_row_map'; it is null");
  expect_refused(
      "moe_reduce_allreduce", [](Call& call) { call.output = nullptr; }, "'output'; it is null");
  expect_refused(
      "allreduce_residual", [](Call& call) { call.residual_out = nullptr; }, "'residual_out'; it is null");
  expect_refused(
      "allreduce_rmsnorm", [](Call& call) { call.norm_out = nullptr; }, "'norm_out'; it is null");
}

TEST(FusedCalls, OptionalTensorsMayBeNullAndAreCheckedIfGiven) {
  const char* all = "moe_reduce_allreduce_residual_rmsnorm_fp8_token";
  EXPECT_EQ(refusal(all,
                    [](Call& call) {
                      call.residual_out = nullptr;
                      call.norm_out = nullptr;
                      call.moe_shared = nullptr;
                      call.output = nullptr;
                      call.scale_in = nullptr;
                      call.moe_row_map = nullptr;
                    }),
            "");
  EXPECT_EQ(refusal("allreduce_fp8_static", [](Call& call) { call.output = nullptr; }), "");
  expect_refused(
      all, [](Call& call) { call.norm_out = place<char>(5) + 1; }, "'norm_out' is not aligned to 2");
  expect_refused(
      all, [](Call& call) { call.moe_shared = place<char>(5) + 1; }, "'moe_shared' is not aligned to 2");
  expect_refused(
      all, [](Call& call) { call.residual_out = place<char>(4); }, "'residual_out' and 'gamma' overlap");
  expect_refused(
      "allreduce_fp8_static", [](Call& call) { call.output = place<char>(6); }, "'output' and 'quant_out'");
  // What the pattern does not have is ignored.
  EXPECT_EQ(refusal("allreduce_residual", [](Call& call) { call.quant_out = place<char>(2) + 1; }), "");
}

TEST(FusedCalls, AlignmentIsThatOfTheElements) {
  EXPECT_EQ(refusal("moe_finalize_allreduce_residual_rmsnorm_fp8_token",
                    [](Call& call) {
                      call.input = place<char>(0) + 2;
                      call.residual_in = place<char>(2) + 4;
                      call.residual_out = place<char>(3) + 6;
                      call.gamma = place<char>(4) + 2;
                      call.norm_out = place<char>(5) + 2;
                      call.quant_out = place<char>(6) + 1;
                      call.scale_out = place<char>(8) + 4;
                      call.moe_shared = place<char>(11) + 2;
                    }),
            "");
  EXPECT_EQ(refusal("allreduce_fp8_static", [](Call& call) { call.scale_in = place<float>(7) + 1; }), "");
  expect_refused(
      "allreduce_fp8_static", [](Call& call) { call.scale_in = reinterpret_cast<float*>(place<char>(7) + 2); },
      "'scale_in' is not aligned to 4");
  expect_refused(
      "allreduce_fp8_token", [](Call& call) { call.scale_out = place<char>(8) + 2; },
      "'scale_out' is not aligned to 4");
  expect_refused(
      "allreduce_rmsnorm",
      [](Call& call) {
        call.gamma = place<char>(4) + 2;
        call.gamma_fp32 = true;
      },
      "'gamma' is not aligned to 4");
  expect_refused(
      "moe_reduce_allreduce", [](Call& call) { call.moe_weights = place<char>(9) + 2; },
      "'moe_weights' is not aligned to 4");
  EXPECT_EQ(refusal("moe_reduce_allreduce",
                    [](Call& call) {
                      call.moe_weights = place<char>(9) + 2;
                      call.moe_weights_fp32 = false;
                    }),
            "");
  expect_refused(
      "moe_finalize_allreduce", [](Call& call) { call.moe_row_map = reinterpret_cast<int*>(place<char>(10) + 2); },
      "'moe_row_map' is not aligned to 4");
}

TEST(FusedCalls, EveryTensorsExtentIsKnown) {
  // The last byte of one tensor meets the first of another, for the bytes that this tensor really has.
  const auto touches = [](std::string_view pattern, std::size_t bytes, const std::function<void(Call&, char*)>& put) {
    for (const std::size_t overlap : {std::size_t{0}, std::size_t{16}}) {
      const std::string message =
          refusal(pattern, [&](Call& call) { put(call, place<char>(20) - ((bytes + 15) / 16 * 16 - overlap)); });
      EXPECT_EQ(message.find("overlap") != std::string::npos, overlap != 0) << pattern << ": " << message;
    }
  };
  const auto out = [](Call& call) { call.quant_out = place<char>(20); };
  touches("allreduce_rmsnorm_fp8_static", 256, [&](Call& call, char* at) { out(call), call.gamma = at; });
  touches("allreduce_rmsnorm_fp8_static", 512,
          [&](Call& call, char* at) { out(call), call.gamma = at, call.gamma_fp32 = true; });
  touches("allreduce_fp8_static", 5 * 256, [&](Call& call, char* at) { out(call), call.input = at; });
  touches("allreduce_fp8_token", 20, [&](Call& call, char* at) { out(call), call.scale_out = at; });
  touches("allreduce_fp8_group32_ue8m0", 32, [&](Call& call, char* at) { out(call), call.scale_out = at; });
  touches("allreduce_nvfp4_128x4", 1024, [&](Call& call, char* at) { out(call), call.scale_out = at; });
  touches("allreduce_fp8_token", 5 * 128,
          [](Call& call, char* at) { call.scale_out = place<char>(20), call.quant_out = at; });
  touches("allreduce_nvfp4_linear", 5 * 64,
          [](Call& call, char* at) { call.scale_out = place<char>(20), call.quant_out = at; });
  touches("moe_reduce_allreduce_fp8_static", 4 * 5 * 256, [&](Call& call, char* at) { out(call), call.input = at; });
  touches("moe_finalize_allreduce_fp8_static", 10 * 256, [&](Call& call, char* at) { out(call), call.input = at; });
  touches("moe_reduce_allreduce_fp8_static", 4 * 5 * 4,
          [&](Call& call, char* at) { out(call), call.moe_weights = at; });
  touches("moe_finalize_allreduce_fp8_static", 5 * 2 * 4,
          [&](Call& call, char* at) { out(call), call.moe_row_map = reinterpret_cast<int*>(at); });
  touches("moe_reduce_allreduce_fp8_static", 5 * 256, [&](Call& call, char* at) { out(call), call.moe_shared = at; });
}

TEST(FusedCalls, InPlaceOnlyWhereRowsStayThemselves) {
  EXPECT_EQ(refusal("allreduce_fp8_static", [](Call& call) { call.output = place<char>(0); }), "");
  EXPECT_EQ(refusal("moe_reduce_allreduce_residual", [](Call& call) { call.residual_out = place<char>(2); }), "");
  expect_refused(
      "moe_reduce_allreduce", [](Call& call) { call.output = place<char>(0); }, "'input' and 'output' overlap");
  expect_refused(
      "moe_finalize_allreduce", [](Call& call) { call.output = place<char>(0); }, "overlap");
}

TEST(FusedCalls, ScaleOutMustHoldThePaddingToo) {
  for (const char* pattern : {"allreduce_fp8_token", "allreduce_fp8_group32_fp32", "allreduce_fp8_group32_ue8m0",
                              "allreduce_nvfp4_linear", "allreduce_nvfp4_128x4", "allreduce_nvfp4_8x4"}) {
    EXPECT_EQ(refusal(pattern, [](Call& call) { ++call.scale_out_bytes; }), "");
    expect_refused(
        pattern, [](Call& call) { --call.scale_out_bytes; }, "'scale_out' has");
    expect_refused(
        pattern, [](Call& call) { call.scale_out_bytes = 0; }, "has 0 bytes");
  }
  EXPECT_EQ(refusal("allreduce_fp8_static", [](Call& call) { call.scale_out_bytes = 0; }), "");
}

TEST(FusedCalls, CountsOfMoePrologues) {
  expect_refused(
      "moe_reduce_allreduce", [](Call& call) { call.moe_experts = 0; }, "'moe_experts' is 0");
  expect_refused(
      "moe_reduce_allreduce", [](Call& call) { call.moe_experts = -1; }, "'moe_experts' is -1");
  expect_refused(
      "moe_finalize_allreduce", [](Call& call) { call.moe_top_k = 0; }, "'moe_top_k' is 0");
  expect_refused(
      "moe_finalize_allreduce", [](Call& call) { call.moe_rows = -1; }, "'moe_rows' is -1");
  expect_refused(
      "moe_finalize_allreduce", [](Call& call) { call.moe_rows = std::int64_t{1} << 31; }, "'moe_rows'");
  expect_refused(
      "moe_reduce_allreduce",
      [](Call& call) {
        call.moe_experts = std::numeric_limits<int>::max();
        call.tokens = 1 << 20;
      },
      "64 GiB");
  expect_refused(
      "moe_finalize_allreduce",
      [](Call& call) {
        call.moe_top_k = 1 << 20;
        call.tokens = 1 << 12;
      },
      "less than 2^32");
  // A rank to which no token was routed has no rows.
  EXPECT_EQ(refusal("moe_finalize_allreduce",
                    [](Call& call) {
                      call.moe_rows = 0;
                      call.input = nullptr;
                    }),
            "");
}

TEST(FusedCalls, NormScalarsAreCheckedWhereverThereIsANorm) {
  for (const char* pattern :
       {"allreduce_rmsnorm", "allreduce_rmsnorm_fp8_token", "allreduce_residual_rmsnorm_nvfp4_8x4"}) {
    expect_refused(
        pattern, [](Call& call) { call.epsilon = -1e-6F; }, "epsilon");
    expect_refused(
        pattern, [](Call& call) { call.epsilon = std::numeric_limits<float>::infinity(); }, "epsilon");
    expect_refused(
        pattern, [](Call& call) { call.weight_bias = std::numeric_limits<float>::quiet_NaN(); }, "weight_bias");
  }
  EXPECT_EQ(refusal("allreduce_residual_fp8_token", [](Call& call) { call.epsilon = -1; }), "");
}

TEST(FusedCalls, SizesRefuseWhatHasNone) {
  EXPECT_THROW(quant_out_bytes("allreduce_fp8_tokens", 64, 1), InvalidArgument);
  EXPECT_THROW(quant_out_bytes("allreduce_fp8_token", 64, -1), InvalidArgument);
  EXPECT_THROW(scale_out_bytes("allreduce_fp8_group48_fp32", 64, 1), InvalidArgument);
  EXPECT_THROW(scale_out_bytes("allreduce_nvfp4_linear", 24, 1), InvalidArgument);
  EXPECT_THROW(scale_out_bytes("allreduce_fp8_token", 0, 1), InvalidArgument);
  EXPECT_EQ(quant_out_bytes("allreduce_fp8_token", 4, 3), 12u);  // fp32 can have such a row
  EXPECT_EQ(scale_out_bytes("allreduce_nvfp4_linear", 48, 3), 9u);
  EXPECT_EQ(scale_out_bytes("allreduce", 7, 3), 0u);
}

TEST(FusedCalls, FamiliesThatNoKernelCanServeAreRefused) {
  const auto family = [](std::string pattern, Dtype dtype, int hidden) {
    validate_family(Catalogue::builtin(), {std::move(pattern), dtype, hidden, 4, Mode::graph});
  };
  EXPECT_NO_THROW(family("allreduce_rmsnorm_nvfp4_128x4", Dtype::bf16, 64));
  EXPECT_THROW(family("allreduce_rmsnorm_nvfp4_128x4", Dtype::fp32, 64), InvalidArgument);
  EXPECT_THROW(family("allreduce_fp8_group48_fp32", Dtype::fp32, 64), InvalidArgument);
  EXPECT_THROW(family("moe_reduce_allreduce", Dtype::bf16, 4), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
