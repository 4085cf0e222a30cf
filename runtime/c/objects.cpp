// Calls whose tensors are objects of another language: they are read here, by the table that their language lends, so
// that a binding makes one call instead of thirty. What does not fit is the binding's to explain.
#include <cstddef>
#include <cstdint>

#include "arbiter.h"

namespace {

// DLPack 1.0's DLTensor. Strides count elements; none: contiguous.
struct DlTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t dimensions;
  std::uint8_t type_code;
  std::uint8_t type_bits;
  std::uint16_t type_lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
static_assert(sizeof(void*) != 8 || sizeof(DlTensor) == 48);

constexpr int no_dtype = -1;

int dtype_of(const DlTensor& tensor) {
  constexpr int floating = 2;
  constexpr int bfloat = 4;
  if (tensor.type_lanes != 1) return no_dtype;
  if (tensor.type_code == bfloat && tensor.type_bits == 16) return ARBITER_BF16;
  if (tensor.type_code != floating) return no_dtype;
  return tensor.type_bits == 16 ? ARBITER_FP16 : tensor.type_bits == 32 ? ARBITER_FP32 : no_dtype;
}

/// A contiguous tensor of a dtype that can be summed.
struct View {
  void* data = nullptr;
  std::int64_t elements = 0;
  std::int64_t last = 0;  ///< extent of the last dimension; 0 without dimensions
  int dtype = no_dtype;
  std::int32_t device_id = 0;
};

bool contiguous(const DlTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  std::int64_t expected = 1;
  for (std::int32_t d = tensor.dimensions; d-- > 0;) {
    if (tensor.shape[d] != 1 && tensor.strides[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

/// False: not a tensor for these calls, or not where they are made.
bool look(const arbiter_object_calls& calls, void* object, std::int32_t device_id, View& view) {
  DlTensor tensor{};
  if (object == nullptr || object == calls.absent || calls.read(object, &tensor) != 0) return false;
  if (tensor.device_type != calls.device_type || (device_id >= 0 && tensor.device_id != device_id)) return false;
  view.dtype = dtype_of(tensor);
  if (view.dtype == no_dtype) return false;
  view.elements = 1;
  for (std::int32_t d = 0; d < tensor.dimensions; ++d) view.elements *= tensor.shape[d];
  if (view.elements > 0 && !contiguous(tensor)) return false;
  view.last = tensor.dimensions > 0 ? tensor.shape[tensor.dimensions - 1] : 0;
  view.data = tensor.data == nullptr ? nullptr : static_cast<unsigned char*>(tensor.data) + tensor.byte_offset;
  view.device_id = tensor.device_id;
  return true;
}

bool absent(const arbiter_object_calls& calls, const void* object) {
  return object == nullptr || object == calls.absent;
}

/// Another tensor of the call that is as large as the input.
bool look_alike(const arbiter_object_calls& calls, void* object, const View& input, void*& data) {
  View view;
  if (!look(calls, object, input.device_id, view)) return false;
  data = view.data;
  return view.dtype == input.dtype && view.elements == input.elements;
}

bool usable(const arbiter_object_calls* calls) {
  return calls != nullptr && calls->struct_size >= sizeof(arbiter_object_calls) && calls->read != nullptr;
}

bool choose_stream(const arbiter_object_calls& calls, const View& input, void*& stream) {
  stream = calls.stream;
  if (calls.stream_given != 0) return true;
  return calls.current_stream != nullptr && calls.current_stream(calls.device_type, input.device_id, &stream) == 0;
}

}  // namespace

extern "C" {

arbiter_status arbiter_run_objects(const arbiter_object_calls* calls, void* input, void* residual_in,
                                   void* residual_out, void* gamma, void* norm_out) {
  constexpr arbiter_status other = ARBITER_INVALID_ARGUMENT;
  View x;
  if (!usable(calls) || !look(*calls, input, calls->device_id, x) || x.last <= 0) return other;
  const std::int64_t tokens = x.elements / x.last;
  // The caller's structs may be of another size than ours: the first one says how far they lie apart.
  const auto* next = reinterpret_cast<const unsigned char*>(calls->families);
  std::size_t chosen = 0;
  for (; chosen < calls->family_count; ++chosen, next += calls->families->struct_size) {
    const auto& family = *reinterpret_cast<const arbiter_family*>(next);
    if (family.dtype == x.dtype && family.hidden == x.last && family.max_tokens >= tokens) break;
  }
  if (chosen == calls->family_count) return other;

  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  tensors.input = x.data;
  if (calls->residual != 0) {
    void* data = nullptr;
    if (!look_alike(*calls, residual_in, x, data)) return other;
    tensors.residual_in = tensors.residual_out = data;
    if (residual_out != residual_in && !look_alike(*calls, residual_out, x, tensors.residual_out)) return other;
  } else if (!absent(*calls, residual_in) || !absent(*calls, residual_out)) {
    return other;
  }
  if (calls->norm != 0) {
    View weight;
    if (!look(*calls, gamma, x.device_id, weight) || weight.elements != x.last) return other;
    if (weight.dtype != x.dtype && weight.dtype != ARBITER_FP32) return other;
    tensors.gamma = weight.data;
    tensors.gamma_fp32 = weight.dtype != x.dtype ? 1 : 0;
    if (!look_alike(*calls, norm_out, x, tensors.norm_out)) return other;
  } else if (!absent(*calls, gamma) || !absent(*calls, norm_out)) {
    return other;
  }
  tensors.epsilon = calls->epsilon;
  tensors.weight_bias = calls->weight_bias;
  void* stream = nullptr;
  if (!choose_stream(*calls, x, stream)) return other;
  return arbiter_run(calls->handles[chosen], &tensors, tokens, stream);
}

arbiter_status arbiter_all_reduce_objects(const arbiter_object_calls* calls, void* input, void* output) {
  constexpr arbiter_status other = ARBITER_INVALID_ARGUMENT;
  View x;
  if (!usable(calls) || calls->communicator == nullptr || !look(*calls, input, calls->device_id, x)) return other;
  void* target = x.data;
  if (output != input && !look_alike(*calls, output, x, target)) return other;
  void* stream = nullptr;
  if (!choose_stream(*calls, x, stream)) return other;
  return arbiter_all_reduce(calls->communicator, x.data, target, x.elements, static_cast<arbiter_dtype>(x.dtype),
                            stream);
}

}  // extern "C"
